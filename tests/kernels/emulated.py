"""`python emulated.py SET CACHE`: the kernels of a set with a u8 x s8 dot, run on a machine that has AVX2 at most.

The dot, powers of 2 and AMX's tiles are spelt out in plain LLVM IR; blocks, start values and operands are those of the set.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from llvmlite import ir
from numba.core import cgutils

from senryu.kernels import target

I8, I32, I64 = (ir.IntType(bits) for bits in (8, 32, 64))
TILES = 8


def dot(b: ir.IRBuilder, total: ir.Value, unsigned: ir.Value, signed: ir.Value) -> ir.Value:
    """What `simd.emit_dot_unsigned` does, by four multiplications of int32."""
    wide, index = ir.VectorType(ir.IntType(32), 64), ir.VectorType(ir.IntType(32), 16)
    products = b.mul(b.zext(unsigned, wide), b.sext(signed, wide))
    for j in range(4):
        total = b.add(total, b.shuffle_vector(products, products, ir.Constant(index, list(range(j, 64, 4)))))
    return total


class Tiles:
    """The vocabulary of amx.py over memory: eight places of 16 x 64 bytes, then rows and bytes of a row of each."""

    def configure(self, b: ir.IRBuilder, shapes: Sequence[tuple[int | ir.Value, int | ir.Value]]) -> None:
        for tile, shape in enumerate(shapes):
            self.zero(b, tile)
            for i, value in enumerate(shape):
                b.store(value if isinstance(value, ir.Value) else ir.Constant(I64, value), self.size(b, tile, i))

    def release(self, b: ir.IRBuilder) -> None:
        self.configure(b, [(0, 0)] * TILES)

    def zero(self, b: ir.IRBuilder, tile: int) -> None:
        cgutils.memset(b, self.cell(b, tile, ir.Constant(I64, 0), ir.Constant(I64, 0)), ir.Constant(I64, 1024), 0)

    def load(self, b: ir.IRBuilder, tile: int, address: ir.Value, stride: ir.Value) -> None:
        for row, i in self.loops(b, b.load(self.size(b, tile, 0)), b.load(self.size(b, tile, 1))):
            b.store(b.load(self.memory(b, address, stride, row, i)), self.cell(b, tile, row, i))

    def store(self, b: ir.IRBuilder, tile: int, address: ir.Value, stride: ir.Value) -> None:
        for row, i in self.loops(b, b.load(self.size(b, tile, 0)), b.load(self.size(b, tile, 1))):
            b.store(b.load(self.cell(b, tile, row, i)), self.memory(b, address, stride, row, i))

    def dot(self, b: ir.IRBuilder, total: int, left: int, right: int, signs: str) -> None:
        four = ir.Constant(I64, 4)
        columns = b.udiv(b.load(self.size(b, right, 1)), four)
        extend = [b.sext if sign == "s" else b.zext for sign in signs]
        for m, k, n, j in self.loops(b, b.load(self.size(b, left, 0)), b.load(self.size(b, right, 0)), columns, four):
            x = extend[0](b.load(self.cell(b, left, m, b.add(b.mul(k, four), j))), I32)
            y = extend[1](b.load(self.cell(b, right, k, b.add(b.mul(n, four), j))), I32)
            place = b.bitcast(self.cell(b, total, m, b.mul(n, four)), ir.PointerType(I32))
            b.store(b.add(b.load(place), b.mul(x, y)), place)

    def loops(self, b: ir.IRBuilder, *counts: ir.Value) -> Iterator[tuple[ir.Value, ...]]:
        """The body of nested loops: yields their indices once."""
        with ExitStack() as stack:
            yield tuple(stack.enter_context(cgutils.for_range(b, count)).index for count in counts)

    def memory(self, b: ir.IRBuilder, address: ir.Value, stride: ir.Value, row: ir.Value, i: ir.Value) -> ir.Value:
        return b.inttoptr(b.add(b.add(address, b.mul(row, stride)), i), ir.PointerType(I8))

    def cell(self, b: ir.IRBuilder, tile: int, row: ir.Value, i: ir.Value) -> ir.Value:
        return b.gep(
            self.state(b),
            [ir.Constant(I64, 0), b.add(b.add(ir.Constant(I64, 1024 * tile), b.mul(row, ir.Constant(I64, 64))), i)],
        )

    def size(self, b: ir.IRBuilder, tile: int, which: int) -> ir.Value:
        place = ir.Constant(I64, 1024 * TILES + 16 * tile + 8 * which)
        return b.bitcast(b.gep(self.state(b), [ir.Constant(I64, 0), place]), ir.PointerType(I64))

    def state(self, b: ir.IRBuilder) -> ir.GlobalVariable:
        kind = ir.ArrayType(I8, (1024 + 16) * TILES)
        found = b.module.globals.get("emulated_tiles") or ir.GlobalVariable(b.module, kind, "emulated_tiles")
        found.linkage, found.initializer, found.align = "linkonce_odr", ir.Constant(kind, None), 64
        return found


def main(name: str, cache: str) -> None:
    chosen = replace(target.ISAS[name], needs=target.AVX2.needs, scales=False)
    target.tiles_permitted = lambda: True
    target.ISAS.clear()
    target.ISAS[name] = chosen
    from senryu.kernels import amx, simd

    assert not simd.SIGNED
    simd.emit_dot_unsigned = dot
    for word in ("configure", "release", "zero", "load", "store", "dot"):
        setattr(amx, word, getattr(Tiles(), word))
    import test_attention
    import test_formats
    import test_gemm

    from senryu import kernels

    compiled = kernels.load(Path(cache), path=name)
    assert compiled.isa == name
    for rows in (1, 2, 3, 4, 5, 6, 13, 50, 65):
        test_gemm.test_equals_its_twin_bit_for_bit(compiled, rows, 144, 100, 0)
        test_formats.test_compiled_int4_equals_its_twin_bit_for_bit(compiled, rows, 100, 144, 0)
        test_formats.test_compiled_bf16_is_float_arithmetic_but_for_its_roundings(compiled, rows, 100, 144)
    test_gemm.test_integers_are_exact_at_the_extremes(compiled)
    test_formats.test_compiled_int4_is_exact_at_the_extremes(compiled)
    for sequences, *shape in ([(0, 130), (200, 70)], 7, 1, 80, 0), ([(190, 40), (127, 1)], 3, 3, 128, 64):
        test_attention.test_int8_is_close_to_its_twin(compiled, sequences, *shape)
        test_attention.test_close_to_its_twin(compiled, sequences, *shape)
    print(test_attention.digest(compiled))


if __name__ == "__main__":
    main(*sys.argv[1:])
