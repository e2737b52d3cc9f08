"""Packed matrices x rows: out = rows @ W.T + bias (+ out), for any number of rows, in the formats of `pack.py`.

One micro-kernel, generated for each format and number of rows x as many columns as registers hold, keeps all its sums there
for the whole of K. A row's result does not depend on which rows stand beside it nor (int8, int4) on the instruction set:
integer sums are exact, and the float steps after them are per element, unfused and in order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from senryu.kernels.layout import BITS, COUNTER, GROUP, OPERATIONS, PANEL, slots
from senryu.kernels.simd import (
    I32,
    I64,
    SIGNED,
    V16F,
    V16I,
    V64B,
    at,
    broadcast,
    emit_dots_small,
    emit_load_bf16,
    fetch_add,
    get,
    offset,
)
from senryu.kernels.target import target
from senryu.kernels.team import run_of
from senryu.kernels.tiles import (
    Sums,
    float_sums,
    four_bytes,
    int8_sums,
    k_loop,
    load_columns,
    row_addresses,
    row_scalars,
    stream_columns,
    zeros,
)

FIELDS = OPERATIONS["gemm"]
FORMAT, W, K, PANELS, ROWS, THREADS = (
    slots("gemm")[FIELDS.index(name)] for name in ("format", "w", "k", "panels", "rows", "threads")
)
INT8, INT4, BF16 = (BITS[name] for name in ("int8", "int4", "bf16"))
MAX_ROWS, MAX_ROWS4 = target().rows, target().int4_rows  # of a tile
TASK_ROWS = 96  # rows of one work item when there are many


class Tile:
    """What a micro-kernel reads: fields of the operation's record, moved to its rows, panel and columns."""

    def __init__(self, b: ir.IRBuilder, op: ir.Value, rows: int, blocks: int) -> None:
        self.height, self.blocks = rows, blocks
        for name, slot in zip(FIELDS, slots("gemm")):
            setattr(self, name, b.load(at(b, offset(b, op, 8 * slot), I64), align=8))

    a: ir.Value
    a_stride: ir.Value
    a_scale: ir.Value
    a_sums: ir.Value
    a_sums_stride: ir.Value
    w: ir.Value
    w_scale: ir.Value
    w_offset: ir.Value
    bias: ir.Value
    k: ir.Value
    out: ir.Value
    out_stride: ir.Value
    add: ir.Value


def place(b: ir.IRBuilder, t: Tile, row: ir.Value, panel: ir.Value, block: ir.Value, weights: int, scales: ir.Value) -> None:
    """Move a tile's addresses: `weights` bytes of 16 columns in a line, `scales` bytes of a panel's scales."""
    column = b.add(b.mul(panel, ir.Constant(I64, PANEL)), b.mul(block, ir.Constant(I64, 16)))
    t.a, t.out = b.add(t.a, b.mul(row, t.a_stride)), b.add(t.out, b.mul(row, t.out_stride))
    t.a_scale = b.add(t.a_scale, b.mul(row, ir.Constant(I64, 4)))
    t.a_sums = b.add(t.a_sums, b.mul(row, t.a_sums_stride))
    t.w_scale = b.add(t.w_scale, b.mul(panel, scales))
    for name in ("w_offset", "bias", "out"):
        setattr(t, name, b.add(getattr(t, name), b.mul(column, ir.Constant(I64, 4))))
    t.w = b.add(t.w, b.mul(block, ir.Constant(I64, weights)))


def _int8(b: ir.IRBuilder, t: Tile, row: ir.Value, panel: ir.Value, block: ir.Value) -> Sums:
    """(sum + offset) * column scale * row scale."""
    place(b, t, row, panel, block, 64, ir.Constant(I64, 4 * PANEL))
    t.w = b.add(t.w, b.mul(panel, b.mul(t.k, ir.Constant(I64, PANEL))))
    scale = load_columns(b, b.add(t.w_scale, b.mul(block, ir.Constant(I64, 64))), V16F, t.blocks)
    first = zeros(V16I, t.height, t.blocks) if SIGNED else [load_columns(b, t.w_offset, V16I, t.blocks)] * t.height
    left = row_addresses(b, t.a, t.a_stride, t.height)
    sums = int8_sums(b, left, t.w, ir.Constant(I64, 4 * PANEL), t.k, first, "weights")
    factors = row_scalars(b, t.a_scale, t.height)
    return [[b.fmul(b.fmul(b.sitofp(x, V16F), s), f) for x, s in zip(row, scale)] for row, f in zip(sums, factors)]


def _int4(b: ir.IRBuilder, t: Tile, row: ir.Value, panel: ir.Value, block: ir.Value) -> Sums:
    """(sum over groups, in order, of (group's sum - 8 * sum of the row's values) * group scale) * row scale."""
    groups = b.udiv(b.add(t.k, ir.Constant(I64, GROUP - 1)), ir.Constant(I64, GROUP))
    place(b, t, row, panel, block, 64, b.mul(groups, ir.Constant(I64, 2 * PANEL)))
    t.w = b.add(t.w, b.mul(panel, b.mul(t.k, ir.Constant(I64, PANEL // 2))))
    t.w_scale = b.add(t.w_scale, b.mul(block, ir.Constant(I64, 32)))
    rows = row_addresses(b, t.a, t.a_stride, t.height)
    sums_of_rows = row_addresses(b, t.a_sums, t.a_sums_stride, t.height)

    def group(g: ir.Value, totals: Sums) -> Sums:
        start = b.mul(g, ir.Constant(I64, GROUP))
        left = b.sub(t.k, start)
        size = b.select(b.icmp_signed("<", left, ir.Constant(I64, GROUP)), left, ir.Constant(I64, GROUP))
        lines = b.add(t.w, b.mul(start, ir.Constant(I64, PANEL // 2)))
        ints = _nibble_sums(b, [b.add(r, start) for r in rows], lines, size, t.blocks)
        scales = b.add(t.w_scale, b.mul(g, ir.Constant(I64, 2 * PANEL)))
        scale = [emit_load_bf16(b, offset(b, scales, 32 * c)) for c in range(t.blocks)]
        new = []
        for address, line, total in zip(sums_of_rows, ints, totals):
            eight = b.mul(b.load(at(b, b.add(address, b.mul(g, ir.Constant(I64, 4))), I32), align=4), ir.Constant(I32, 8))
            zero_point = broadcast(b, eight, V16I)
            products = [b.fmul(b.sitofp(b.sub(x, zero_point), V16F), s) for x, s in zip(line, scale)]
            new.append([b.fadd(x, product) for x, product in zip(total, products)])
        return new

    totals = k_loop(b, zeros(V16F, t.height, t.blocks), groups, 1, group)
    return [[b.fmul(x, f) for x in row] for row, f in zip(totals, row_scalars(b, t.a_scale, t.height))]


def _nibble_sums(b: ir.IRBuilder, left: list[ir.Value], lines: ir.Value, size: ir.Value, blocks: int) -> Sums:
    """int32 sums of nibbles (0..15) x values over `size` bytes of K, sixteen a step: two lines of eight."""
    low = ir.Constant(V64B, [15] * 64)

    def step(i: ir.Value, sums: Sums) -> Sums:
        line = b.add(lines, b.mul(i, ir.Constant(I64, PANEL // 2)))
        nibbles: list[list[ir.Value]] = [[] for _ in range(blocks)]
        for part in range(2):
            for c, v in enumerate(stream_columns(b, offset(b, line, 4 * PANEL * part), V64B, blocks)):
                high = b.bitcast(b.lshr(b.bitcast(v, V16I), ir.Constant(V16I, [4] * 16)), V64B)
                nibbles[c] += [b.and_(v, low), b.and_(high, low)]
        new = []
        for address, row in zip(left, sums):
            fours = [four_bytes(b, offset(b, b.add(address, i), 4 * j), signed=True) for j in range(4)]
            new.append([emit_dots_small(b, x, list(zip(four, fours))) for x, four in zip(row, nibbles)])
        return new

    return k_loop(b, zeros(V16I, len(left), blocks), size, 16, step)


def _bf16(b: ir.IRBuilder, t: Tile, row: ir.Value, panel: ir.Value, block: ir.Value) -> Sums:
    """Float32 rows x bfloat16 columns, fused."""
    place(b, t, row, panel, block, 32, ir.Constant(I64, 0))
    t.w = b.add(t.w, b.mul(panel, b.mul(t.k, ir.Constant(I64, 2 * PANEL))))

    def load(line: ir.Value, blocks: int) -> list[ir.Value]:
        return [emit_load_bf16(b, offset(b, line, 32 * c)) for c in range(blocks)]

    left = row_addresses(b, t.a, t.a_stride, t.height)
    return float_sums(b, left, t.w, ir.Constant(I64, 2 * PANEL), t.k, zeros(V16F, t.height, t.blocks), load)


def put(b: ir.IRBuilder, t: Tile, values: Sums) -> None:
    """out = values + bias, plus out itself if `add`."""
    bias = load_columns(b, t.bias, V16F, t.blocks)
    values = [[b.fadd(x, shift) for x, shift in zip(row, bias)] for row in values]
    places = [
        at(b, offset(b, row, 64 * c), V16F) for row in row_addresses(b, t.out, t.out_stride, t.height) for c in range(t.blocks)
    ]
    flat = [x for row in values for x in row]
    with b.if_else(b.icmp_signed("!=", t.add, ir.Constant(I64, 0))) as (then, otherwise):
        with then:
            for value, to in zip(flat, places):
                b.store(b.fadd(b.load(to, align=64), value), to, align=64)
        with otherwise:
            for value, to in zip(flat, places):
                b.store(value, to, align=64)


def tiles(emit: Callable[..., Sums]) -> Any:
    """kernel(op, rows, row, panel): one format's micro-kernel for `rows` (1 to MAX_ROWS) rows from `row` on, x 64 columns."""

    @intrinsic
    def kernel(typingctx, op, rows, row, panel):
        def lower(context: Any, b: Any, sig: Any, args: Any) -> Any:
            op, rows, row, panel = args
            end = b.append_basic_block("tiled")
            choice = b.switch(rows, end)
            for count, blocks in target().blocks.items():
                if emit is _int4 and count > MAX_ROWS4:
                    continue
                case = b.append_basic_block(f"rows{count}")
                choice.add_case(ir.Constant(I64, count), case)
                b.position_at_end(case)
                with cgutils.for_range(b, ir.Constant(I64, PANEL // (16 * blocks))) as loop:
                    block = b.mul(loop.index, ir.Constant(I64, blocks))
                    tile = Tile(b, op, count, blocks)
                    put(b, tile, emit(b, tile, row, panel, block))
                b.branch(end)
            b.position_at_end(end)
            return context.get_dummy_value()

        return types.void(*([types.int64] * 4)), lower

    return kernel


TILES8, TILES4, TILES16 = tiles(_int8), tiles(_int4), tiles(_bf16)


@njit(boundscheck=False)
def panel_rows(op, row, end, panel):
    """Rows [row, end) of one panel, in tiles of even heights."""
    kind = get(op, FORMAT)
    most = MAX_ROWS4 if kind == INT4 else MAX_ROWS
    while row < end:
        left = end - row
        n = left if left <= most else (most if left >= 2 * most else (left + 1) // 2)
        if kind == INT8:
            TILES8(op, n, row, panel)
        elif kind == INT4:
            TILES4(op, n, row, panel)
        elif kind == BF16:
            TILES16(op, n, row, panel)
        row += n


def gemm(op, step, thread):
    """Work items are panels x blocks of rows, taken from the counter: a slow core takes fewer.

    Few rows wait for weights, so their panels are taken in runs, see `team.run_of`.
    """
    rows, panels = get(step, get(op, ROWS)), get(op, PANELS)
    blocks = (rows + TASK_ROWS - 1) // TASK_ROWS
    taken = start = size = 0
    while True:
        task = fetch_add(op + 8 * COUNTER, 1)
        if blocks > 1:
            if task >= panels * blocks:
                return
            panel = task // blocks
            row = (task - panel * blocks) * TASK_ROWS
            panel_rows(op, row, min(rows, row + TASK_ROWS), panel)
            continue
        while taken <= task:
            start, size, taken = start + size, run_of(panels - start - size, get(op, THREADS)), taken + 1
        if not size:
            return
        for panel in range(start, start + size):
            panel_rows(op, 0, rows, panel)


KERNELS = {"gemm": gemm}
