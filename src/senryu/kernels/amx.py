"""The tile vocabulary of Intel AMX, as emitters of LLVM IR: only for a target with `tiles`.

A thread has eight tiles, each of up to 16 rows x 64 bytes. `dot` multiplies bytes, four at a time, into int32 sums, exactly:

    total[m][n] += sum over k, j of left[m][4k + j] * right[k][4n + j]

left is plain rows (m) of up to 64 bytes of K; right has a row for every four k, that holds those four of each of up to 16
columns (n): a 16-column block of a line of packed weights, keys or values as they lie. Shapes are set by `configure`, which
zeroes all tiles, and must fit: rows of left are rows of total, bytes of left four times rows of right, bytes of right those of
total. Whoever configures releases before it returns: a thread with tiles in use is costly to switch, and
others expect none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from llvmlite import ir

from senryu.kernels.simd import I8, I16, I64, V64B, at, declare

TILES, TILE_ROWS, TILE_BYTES = 8, 16, 64
COLUMN_BYTES, ROWS = 16, 48  # offsets of the shapes in the configuration: uint16 bytes of a row, uint8 rows

Signs = Literal["us", "su", "ss", "uu"]  # of left, then right: unsigned or signed


def configure(b: ir.IRBuilder, shapes: Sequence[tuple[int | ir.Value, int | ir.Value]]) -> None:
    """Tile i gets shapes[i]: rows (1 to 16) and bytes of a row (4 to 64, in fours), numbers or int64 values."""
    place = scratch(b, 64)
    known = [1] + [0] * 63  # palette 1, from row 0
    later = []
    for i, shape in enumerate(shapes):
        for value, where, kind in zip(shape, (ROWS + i, COLUMN_BYTES + 2 * i), (I8, I16)):
            if isinstance(value, int):
                known[where] = value
            else:
                later.append((b.trunc(value, kind), where))
    b.store(ir.Constant(V64B, known), at(b, place, V64B), align=64)
    for value, where in later:
        b.store(value, at(b, b.add(place, ir.Constant(I64, where)), value.type), align=1)
    b.call(declare(b, "llvm.x86.ldtilecfg", ir.VoidType(), [ir.PointerType(I8)]), [at(b, place, I8)])


def release(b: ir.IRBuilder) -> None:
    """No tiles any more, until the next `configure`."""
    b.call(declare(b, "llvm.x86.tilerelease", ir.VoidType(), []), [])


def zero(b: ir.IRBuilder, tile: int) -> None:
    b.call(declare(b, "llvm.x86.tilezero", ir.VoidType(), [I8]), [ir.Constant(I8, tile)])


def load(b: ir.IRBuilder, tile: int, address: ir.Value, stride: ir.Value) -> None:
    """The tile's rows from memory, `stride` bytes apart; a stride of 0 gives all rows the same bytes."""
    _move(b, "llvm.x86.tileloadd64", tile, address, stride)


def store(b: ir.IRBuilder, tile: int, address: ir.Value, stride: ir.Value) -> None:
    """The tile's rows to memory, `stride` bytes apart."""
    _move(b, "llvm.x86.tilestored64", tile, address, stride)


def dot(b: ir.IRBuilder, total: int, left: int, right: int, signs: Signs) -> None:
    """total += left x right, three different tiles."""
    function = declare(b, f"llvm.x86.tdpb{signs}d", ir.VoidType(), [I8] * 3)
    b.call(function, [ir.Constant(I8, tile) for tile in (total, left, right)])


def scratch(b: ir.IRBuilder, size: int) -> ir.Value:
    """Address of `size` bytes of this thread's stack, on a line's border. What is in them is unknown."""
    with b.goto_entry_block():
        slot = b.alloca(ir.ArrayType(I8, size))
    slot.align = 64
    return b.ptrtoint(slot, I64)


def _move(b: ir.IRBuilder, name: str, tile: int, address: ir.Value, stride: ir.Value) -> None:
    function = declare(b, name, ir.VoidType(), [I8, ir.PointerType(I8), I64])
    b.call(function, [ir.Constant(I8, tile), at(b, address, I8), stride])
