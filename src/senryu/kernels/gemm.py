"""int8 matrices x int8 rows: out = (q - 128) @ W.T * scales + bias, exact in int32, for any number of rows.

One micro-kernel, generated for each number of rows x as many columns as registers hold, keeps all its sums there for the whole
of K. A row's result does not depend on which rows stand beside it, nor on the instruction set: the integer sum is exact, and
the float steps after it are per element.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from senryu.kernels.layout import COUNTER, PANEL, slots
from senryu.kernels.simd import (
    F32,
    I32,
    I64,
    SIGNED,
    V16F,
    V16I,
    V64B,
    at,
    broadcast,
    emit_dot,
    emit_shared,
    emit_single,
    fetch_add,
    get,
    offset,
)
from senryu.kernels.target import target

A, A_STRIDE, A_SCALE, W, W_SCALE, W_OFFSET, BIAS, K, PANELS, OUT, OUT_STRIDE, ADD, ROWS = slots("gemm")
MAX_ROWS = target().rows  # of a tile
TASK_ROWS = 96  # rows of one work item when there are many: a multiple of MAX_ROWS


def tile(rows: int) -> Any:
    """The micro-kernel for `rows` x 64: out = (dot + offset) * column scale * row scale + bias, plus out itself if `add`."""

    @intrinsic
    def kernel(typingctx, a, a_stride, a_scale, w, w_scale, w_offset, bias, k, out, out_stride, add):
        def lower(context: Any, b: Any, sig: Any, args: Any) -> Any:
            blocks = target().blocks[rows]
            a, a_stride, a_scale, w, *columns, k, out, out_stride, add = args
            with cgutils.for_range(b, ir.Constant(I64, PANEL // (16 * blocks))) as loop:
                shift = b.mul(loop.index, ir.Constant(I64, 64 * blocks))  # bytes of 16 columns, of every array here
                w, *columns, out = (b.add(address, shift) for address in (w, *columns, out))
                sums = _emit_sums(b, rows, blocks, (a, a_stride, w, columns[1], k))
                _emit_results(b, sums, (a_scale, columns[0], columns[2], out, out_stride, add))
            return context.get_dummy_value()

        return types.void(*([types.int64] * 11)), lower

    return kernel


def _emit_sums(b: ir.IRBuilder, rows: int, blocks: int, args: tuple[ir.Value, ...]) -> list[list[ir.Value]]:
    """int32 sums [rows][blocks] over K; the offset of columns is in them where the dot needs it."""
    a, a_stride, w, w_offset, k = args
    row = [b.add(a, b.mul(a_stride, ir.Constant(I64, r))) for r in range(rows)]
    start = [ir.Constant(V16I, [0] * 16)] * blocks
    if not SIGNED:
        start = [b.load(at(b, offset(b, w_offset, 64 * c), V16I), align=64) for c in range(blocks)]
    entry, loop, done = b.block, b.append_basic_block("k"), b.append_basic_block("done")
    b.branch(loop)
    b.position_at_end(loop)
    i = b.phi(I64)  # bytes of K done: a multiple of 4
    i.add_incoming(ir.Constant(I64, 0), entry)
    sums = [[b.phi(V16I) for _ in range(blocks)] for _ in range(rows)]
    line = b.add(w, b.mul(i, ir.Constant(I64, PANEL)))
    lines = [b.load(at(b, offset(b, line, 64 * c), V64B), align=64) for c in range(blocks)]
    weights = [emit_shared(b, each, offset=False) for each in lines]
    new = []
    for r in range(rows):
        four = b.bitcast(broadcast(b, b.load(at(b, b.add(row[r], i), I32), align=4), V16I), V64B)
        four = emit_single(b, four, offset=True)
        new.append([emit_dot(b, sums[r][c], weights[c], four, offset=False) for c in range(blocks)])
        for c in range(blocks):
            sums[r][c].add_incoming(start[c], entry)
            sums[r][c].add_incoming(new[r][c], loop)
    following = b.add(i, ir.Constant(I64, 4))
    i.add_incoming(following, loop)
    b.cbranch(b.icmp_signed("<", following, k), loop, done)
    b.position_at_end(done)
    return new


def _emit_results(b: ir.IRBuilder, sums: list[list[ir.Value]], args: tuple[ir.Value, ...]) -> None:
    a_scale, w_scale, bias, out, out_stride, add = args
    adding = b.icmp_signed("!=", add, ir.Constant(I64, 0))
    results = []
    for c in range(len(sums[0])):
        scale = b.load(at(b, offset(b, w_scale, 64 * c), V16F), align=64)
        shift = b.load(at(b, offset(b, bias, 64 * c), V16F), align=64)
        for r, line in enumerate(sums):
            row_scale = broadcast(b, b.load(at(b, offset(b, a_scale, 4 * r), F32), align=4), V16F)
            value = b.fadd(b.fmul(b.fmul(b.sitofp(line[c], V16F), scale), row_scale), shift)
            target = at(b, offset(b, b.add(out, b.mul(out_stride, ir.Constant(I64, r))), 64 * c), V16F)
            results.append((value, target))
    with b.if_else(adding) as (then, otherwise):
        with then:
            for value, target in results:
                b.store(b.fadd(b.load(target, align=64), value), target, align=64)
        with otherwise:
            for value, target in results:
                b.store(value, target, align=64)


TILE1, TILE2, TILE3, TILE4, TILE5, TILE6 = (tile(min(rows, MAX_ROWS)) for rows in range(1, 7))  # 5 and 6 may never run


@njit(boundscheck=False)
def _rows(n, a, a_stride, a_scale, w, w_scale, w_offset, bias, k, out, out_stride, add):
    """n = 1 to MAX_ROWS rows of one panel."""
    if n == 6:
        TILE6(a, a_stride, a_scale, w, w_scale, w_offset, bias, k, out, out_stride, add)
    elif n == 1:
        TILE1(a, a_stride, a_scale, w, w_scale, w_offset, bias, k, out, out_stride, add)
    elif n == 2:
        TILE2(a, a_stride, a_scale, w, w_scale, w_offset, bias, k, out, out_stride, add)
    elif n == 3:
        TILE3(a, a_stride, a_scale, w, w_scale, w_offset, bias, k, out, out_stride, add)
    elif n == 4:
        TILE4(a, a_stride, a_scale, w, w_scale, w_offset, bias, k, out, out_stride, add)
    else:
        TILE5(a, a_stride, a_scale, w, w_scale, w_offset, bias, k, out, out_stride, add)


def gemm(op, step, thread):
    """Work items are panels x blocks of rows, taken from the counter: a slow core takes fewer."""
    rows, panels, k = get(step, get(op, ROWS)), get(op, PANELS), get(op, K)
    blocks = (rows + TASK_ROWS - 1) // TASK_ROWS
    while True:
        task = fetch_add(op + 8 * COUNTER, 1)
        if task >= panels * blocks:
            return
        panel = task // blocks
        row = (task - panel * blocks) * TASK_ROWS
        end = min(rows, row + TASK_ROWS)
        column = panel * (PANEL * 4)  # bytes of a panel's 64 float32
        while row < end:
            left = end - row
            n = left if left <= MAX_ROWS else (MAX_ROWS if left >= 2 * MAX_ROWS else (left + 1) // 2)
            _rows(
                n,
                get(op, A) + row * get(op, A_STRIDE),
                get(op, A_STRIDE),
                get(op, A_SCALE) + 4 * row,
                get(op, W) + panel * PANEL * k,
                get(op, W_SCALE) + column,
                get(op, W_OFFSET) + column,
                get(op, BIAS) + column,
                k,
                get(op, OUT) + row * get(op, OUT_STRIDE) + column,
                get(op, OUT_STRIDE),
                get(op, ADD),
            )
            row += n


KERNELS = {"gemm": gemm}
