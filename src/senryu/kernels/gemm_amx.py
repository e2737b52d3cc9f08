"""The int8 and int4 matrices of `gemm.py` for many rows where the CPU has tiles: 32 rows x 64 columns at a time, the same bits.

Whole numbers are exact wherever they are summed, and the float steps after them are those of `gemm.py`, in its order. Tiles
read rows and packed weights as they lie; nibbles become bytes first, once for all rows of a work item.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from senryu.kernels import amx
from senryu.kernels.gemm import BF16, FORMAT, INT8, PANELS, ROWS, K, Tile, W, gemm, place, put
from senryu.kernels.layout import COUNTER, GROUP, PANEL
from senryu.kernels.simd import (
    F32,
    I64,
    V16F,
    V16I,
    V64B,
    at,
    broadcast,
    emit_dot_unsigned,
    emit_load_bf16,
    fetch_add,
    get,
    nullary,
    offset,
    splat,
    store,
    ternary,
)
from senryu.kernels.target import target
from senryu.kernels.tiles import Sums, k_loop, load_columns, zeros

LEAST = 7  # rows: fewer are faster in registers
TASK_ROWS = 128  # rows of a work item
TASK_ROWS4 = 256  # and of an int4 matrix, where every item unpacks its weights
CHUNK = 256  # inputs that are unpacked at a time: with sums they stay in the first-level cache
LINE = 4 * PANEL  # bytes of a line of weights, four inputs, and of a row's sums
ZERO = np.float32(0)

Cells = tuple[tuple[int, int], ...]  # of each of four tiles of sums, which 16 rows and which 16 columns
Passes = tuple[tuple[int, Cells], ...]  # over K: the first 16 columns of each, and what it sums from there on
SQUARE, FLAT = ((0, 0), (0, 1), (1, 0), (1, 1)), ((0, 0), (0, 1), (0, 2), (0, 3))  # four loads for four dots, or five
TALL_BLOCK, FLAT_BLOCK = ((0, SQUARE), (2, SQUARE)), ((0, FLAT),)  # up to 32 rows, up to 16
BLOCK_ROWS = 32
LEFT, RIGHT = 4, 6  # the first of two tiles for operands

# A thread's memory: sums of a block, int32; what the sums of each unpacked group start at; unpacked lines; sums of an item's
# rows, float32.
OFFSETS = BLOCK_ROWS * LINE
LINES = OFFSETS + CHUNK // GROUP * LINE
TOTALS = LINES + CHUNK * PANEL
MEMORY = TOTALS + TASK_ROWS4 * LINE


@dataclass(frozen=True, slots=True)
class Block:
    """Up to 32 rows of one panel: arguments of a kernel, int64 values."""

    op: ir.Value
    row: ir.Value
    rows: ir.Value
    panel: ir.Value
    step: ir.Value  # inputs of one dot: 16, 32 or 64
    start: ir.Value  # of an int4 matrix: the first input that is unpacked now
    end: ir.Value  # and the one behind the last
    memory: ir.Value
    totals: ir.Value  # of an int4 matrix: the place in memory of these rows' sums


def _number(value: int) -> ir.Constant:
    return ir.Constant(I64, value)


def _tile(b: ir.IRBuilder, block: Block, first: int, cells: Cells, scales: ir.Value) -> Tile:
    """The fields of the operation for the rows of a block and the columns of a pass. `scales`: bytes of a panel's."""
    t = Tile(b, block.op, 1, 1 + max(c for _, c in cells))
    place(b, t, block.row, block.panel, _number(first), 64, scales)
    return t


def _sums(
    b: ir.IRBuilder,
    cells: Cells,
    start: ir.Value,
    left: tuple[ir.Value, ir.Value],
    right: ir.Value,
    k: tuple[ir.Value, ir.Value],
    to: ir.Value,
) -> None:
    """int32 lines at `to` = start + rows at left[0], left[1] bytes apart, x lines at `right`, for k[0] inputs, k[1] a step."""
    rows, stride = left
    size, step = k
    for total, (_, c) in enumerate(cells):
        amx.load(b, total, offset(b, start, 64 * c), _number(0))
    with cgutils.for_range_slice(b, _number(0), size, step, inc=True) as (i, _):
        row, line = b.add(rows, i), b.add(right, b.mul(i, _number(PANEL)))
        held: dict[int, int] = {}
        for total, (r, c) in enumerate(cells):
            x, w = LEFT + r, RIGHT + c % 2
            if held.get(x) != r:
                amx.load(b, x, b.add(row, b.mul(stride, _number(amx.TILE_ROWS * r))), stride)
            if held.get(w) != c:
                amx.load(b, w, offset(b, line, 64 * c), _number(LINE))
            held[x], held[w] = r, c
            amx.dot(b, total, x, w, "us")
    for total, (r, c) in enumerate(cells):
        amx.store(b, total, offset(b, to, amx.TILE_ROWS * LINE * r + 64 * c), _number(LINE))


def _finish(
    b: ir.IRBuilder, block: Block, t: Tile, sums: ir.Value, values: Callable[[ir.Value, ir.Value], list[ir.Value]]
) -> None:
    """Write every row: values(address of its sums, its scale in all lanes)."""
    out = t.out
    with cgutils.for_range(b, block.rows) as loop:
        scale = b.load(at(b, b.add(t.a_scale, b.mul(loop.index, _number(4))), F32), align=4)
        t.out = b.add(out, b.mul(loop.index, t.out_stride))
        put(b, t, [values(b.add(sums, b.mul(loop.index, _number(LINE))), broadcast(b, scale, V16F))])


def _int8(b: ir.IRBuilder, block: Block, passes: Passes) -> None:
    """(sum + offset) * column scale * row scale. What one pass has summed is scaled while the next one multiplies."""
    for first, cells in passes:
        t = _tile(b, block, first, cells, _number(LINE))
        right = b.add(t.w, b.mul(block.panel, b.mul(t.k, _number(PANEL))))
        sums = offset(b, block.memory, 64 * first)
        _sums(b, cells, t.w_offset, (t.a, t.a_stride), right, (t.k, block.step), sums)
        scale = load_columns(b, offset(b, t.w_scale, 64 * first), V16F, t.blocks)

        def values(line: ir.Value, factor: ir.Value, scale: list[ir.Value] = scale) -> list[ir.Value]:
            whole = load_columns(b, line, V16I, len(scale))
            return [b.fmul(b.fmul(b.sitofp(x, V16F), s), factor) for x, s in zip(whole, scale)]

        _finish(b, block, t, sums, values)


def _int4(b: ir.IRBuilder, block: Block, passes: Passes) -> None:
    """(sum over groups, in order, of group's sum * group scale) * row scale: the groups that are unpacked, and behind the
    last of all the rest."""
    k = Tile(b, block.op, 1, 4).k
    groups = b.udiv(b.add(k, _number(GROUP - 1)), _number(GROUP))
    tiles = [_tile(b, block, first, cells, b.mul(groups, _number(2 * PANEL))) for first, cells in passes]
    with cgutils.for_range_slice(b, block.start, block.end, _number(GROUP), inc=True) as (i, group):
        start = b.add(offset(b, block.memory, OFFSETS), b.mul(group, _number(LINE)))
        right = b.add(offset(b, block.memory, LINES), b.mul(group, _number(GROUP * PANEL)))
        scales = b.mul(b.udiv(i, _number(GROUP)), _number(2 * PANEL))
        for t, (first, cells) in zip(tiles, passes):
            start_here, right_here, sums, totals = (
                offset(b, x, 64 * first) for x in (start, right, block.memory, block.totals)
            )
            _sums(b, cells, start_here, (b.add(t.a, i), t.a_stride), right_here, (_group(b, i, block.end), block.step), sums)
            scale = [emit_load_bf16(b, offset(b, b.add(t.w_scale, scales), 32 * (first + c))) for c in range(t.blocks)]
            _add_group(b, block.rows, sums, scale, totals)
    with b.if_then(b.icmp_signed("==", block.end, k)):
        for t, (first, _) in zip(tiles, passes):

            def values(line: ir.Value, factor: ir.Value, blocks: int = t.blocks) -> list[ir.Value]:
                return [b.fmul(x, factor) for x in load_columns(b, line, V16F, blocks)]

            _finish(b, block, t, offset(b, block.totals, 64 * first), values)


def _add_group(b: ir.IRBuilder, rows: ir.Value, sums: ir.Value, scale: list[ir.Value], totals: ir.Value) -> None:
    """totals += sums * scale, lines of int32 and of float32."""
    with cgutils.for_range(b, rows) as loop:
        line = b.mul(loop.index, _number(LINE))
        for c, x in enumerate(load_columns(b, b.add(sums, line), V16I, len(scale))):
            total = at(b, offset(b, b.add(totals, line), 64 * c), V16F)
            b.store(b.fadd(b.load(total, align=64), b.fmul(b.sitofp(x, V16F), scale[c])), total, align=64)


def _group(b: ir.IRBuilder, start: ir.Value, end: ir.Value) -> ir.Value:
    """Inputs of the group that begins at `start`: 128, or what is left."""
    left = b.sub(end, start)
    return b.select(b.icmp_signed("<", left, _number(GROUP)), left, _number(GROUP))


def _unpack(b: ir.IRBuilder, lines: ir.Value, size: ir.Value, memory: ir.Value) -> None:
    """`size` inputs of int4 lines as int8 lines of nibble - 8, and of each of their groups -128 * the columns' sums."""
    low, eight, weight = (ir.Constant(V64B, [x] * 64) for x in (15, 8, -128))  # -128: the bits of 128, unsigned
    with cgutils.for_range_slice(b, _number(0), size, _number(GROUP), inc=True) as (start, group):

        def step(i: ir.Value, sums: Sums) -> Sums:
            k = b.add(start, i)
            to = b.add(offset(b, memory, LINES), b.mul(k, _number(PANEL)))
            new = []
            for c, v in enumerate(load_columns(b, b.add(lines, b.mul(k, _number(PANEL // 2))), V64B, 4)):
                high = b.bitcast(b.lshr(b.bitcast(v, V16I), ir.Constant(V16I, [4] * 16)), V64B)
                total = sums[0][c]
                for part, nibbles in enumerate((v, high)):
                    w = b.sub(b.and_(nibbles, low), eight)
                    b.store(w, at(b, offset(b, to, LINE * part + 64 * c), V64B), align=64)
                    total = emit_dot_unsigned(b, total, weight, w)
                new.append(total)
            return [new]

        to = b.add(offset(b, memory, OFFSETS), b.mul(group, _number(LINE)))
        for c, total in enumerate(k_loop(b, zeros(V16I, 1, 4), _group(b, start, size), 8, step)[0]):
            b.store(b.neg(total), at(b, offset(b, to, 64 * c), V16I), align=64)


def _shape(b: ir.IRBuilder, low: ir.Value, high: ir.Value, step: ir.Value) -> None:
    """Tiles for `low` rows above and `high` rows below them in a block, and `step` inputs of a dot."""
    right = (b.udiv(step, _number(4)), 64)
    amx.configure(b, [(low, 64), (low, 64), (high, 64), (high, 64), (low, step), (high, step), right, right])


shape = ternary(types.void, (types.int64,) * 3, _shape)
unpack = ternary(types.void, (types.int64,) * 3, _unpack)
release = nullary(types.void, amx.release)
memory_of_thread = nullary(types.int64, lambda b: amx.scratch(b, MEMORY))


def _kernel(emit: Callable[..., None], passes: Passes) -> Any:
    """One format's kernel for a Block."""

    @intrinsic
    def kernel(typingctx, op, row, rows, panel, step, start, end, memory, totals):
        def lower(context: Any, b: Any, sig: Any, args: Any) -> Any:
            emit(b, Block(*args), passes)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 9), lower

    return kernel


def _panel_rows(emit: Callable[..., None]) -> Any:
    """panel_rows(op, row, stop, panel, step, start, end, memory): rows [row, stop) of one panel, at most 32 at a time."""
    tall, flat = _kernel(emit, TALL_BLOCK), _kernel(emit, FLAT_BLOCK)

    @njit(boundscheck=False)
    def panel_rows(op, row, stop, panel, step, start, end, memory):
        totals = memory + TOTALS
        if stop - row >= BLOCK_ROWS:
            shape(16, 16, step)
        while stop - row >= BLOCK_ROWS:
            tall(op, row, BLOCK_ROWS, panel, step, start, end, memory, totals)
            row += BLOCK_ROWS
            totals += BLOCK_ROWS * LINE
        rest = stop - row
        if rest > 16:
            shape(16, rest - 16, step)
            tall(op, row, rest, panel, step, start, end, memory, totals)
        elif rest > 0:
            shape(rest, rest, step)
            flat(op, row, rest, panel, step, start, end, memory, totals)

    return panel_rows


panel_rows8, panel_rows4 = _panel_rows(_int8), _panel_rows(_int4)
few = njit(boundscheck=False)(gemm)


def gemm_tiles(op, step, thread):
    """`gemm.gemm`, in tiles where there are rows enough for them."""
    rows, panels, k, kind = get(step, get(op, ROWS)), get(op, PANELS), get(op, K), get(op, FORMAT)
    if rows < LEAST or kind == BF16:
        few(op, step, thread)
        return
    memory = memory_of_thread()
    k_step = 64 if k % 64 == 0 else (32 if k % 32 == 0 else 16)
    most = TASK_ROWS if kind == INT8 else TASK_ROWS4
    blocks = (rows + most - 1) // most
    while True:
        task = fetch_add(op + 8 * COUNTER, 1)
        if task >= panels * blocks:
            break
        panel = task // blocks
        row = (task - panel * blocks) * most
        stop = min(rows, row + most)
        if kind == INT8:
            panel_rows8(op, row, stop, panel, k_step, 0, k, memory)
            continue
        for i in range(0, (stop - row) * LINE, 64):
            store(memory + TOTALS + i, splat(ZERO))
        for start in range(0, k, CHUNK):
            end = min(k, start + CHUNK)
            unpack(get(op, W) + (panel * k + start) * (PANEL // 2), end - start, memory)
            panel_rows4(op, row, stop, panel, k_step, start, end, memory)
    release()


KERNELS = {"gemm": gemm_tiles} if target().tiles else {}
