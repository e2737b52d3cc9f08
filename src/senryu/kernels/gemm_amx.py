"""`gemm.py` for many rows where the CPU has tile registers: the same results, bit for bit, in blocks of 32 x 32.

Sums of integers are exact, so it does not matter where they are made; the float steps after them are those of `gemm.py`.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from senryu.kernels import amx
from senryu.kernels.gemm import FORMAT, INT8, K, PANELS, ROWS, Tile, _place, _store, gemm
from senryu.kernels.layout import COUNTER, PANEL
from senryu.kernels.simd import F32, I64, V16F, V16I, at, broadcast, fetch_add, get, offset
from senryu.kernels.target import target
from senryu.kernels.tiles import load_columns

LINE = ir.Constant(I64, 4 * PANEL)
TALL = ((0, 0), (0, 1), (1, 0), (1, 1))
FLAT = ((0, 0), (0, 1), (0, 2), (0, 3))
LEAST, TASK_ROWS, BLOCK_ROWS = 7, 512, 32
LEFT, RIGHT = 4, 6


def _c(x): return ir.Constant(I64, x)


@intrinsic
def shape(typingctx, low, high, step):
    def lower(context: Any, b: Any, sig: Any, args: Any) -> Any:
        low, high, step = args
        right = (b.udiv(step, _c(4)), 64)
        amx.configure(b, [(low, 64), (low, 64), (high, 64), (high, 64), (low, step), (high, step), right, right])
        return context.get_dummy_value()

    return types.void(*[types.int64] * 3), lower


@intrinsic
def unshape(typingctx):
    def lower(context: Any, b: Any, sig: Any, args: Any) -> Any:
        amx.release(b)
        return context.get_dummy_value()
    return types.void(), lower


def products(b, a, a_stride, w, step, k, blocks):
    with cgutils.for_range_slice(b, _c(0), k, step, inc=True) as (i, _):
        left, right = b.add(a, i), b.add(w, b.mul(i, _c(PANEL)))
        held = {}
        for total, (r, c) in enumerate(blocks):
            for tile, what, address, stride in (
                (LEFT + r, ("left", r), lambda: b.add(left, b.mul(a_stride, _c(16 * r))), a_stride),
                (RIGHT + c % 2, ("right", c), lambda: offset(b, right, 64 * c), LINE),
            ):
                if held.get(tile) != what:
                    amx.load(b, tile, address(), stride)
                    held[tile] = what
            amx.dot(b, total, LEFT + r, RIGHT + c % 2, "us")


def block8(blocks):
    @intrinsic
    def kernel(typingctx, op, row, rows, panel, first, step):
        def lower(context: Any, b: Any, sig: Any, args: Any) -> Any:
            op, row, rows, panel, first, step = args
            wide = 1 + max(c for _, c in blocks)
            t = Tile(b, op, 1, wide)
            _place(b, t, row, panel, first, 64, _c(4 * PANEL))
            t.w = b.add(t.w, b.mul(panel, b.mul(t.k, _c(PANEL))))
            t.w_scale = b.add(t.w_scale, b.mul(first, _c(64)))
            for total, (_, c) in enumerate(blocks):
                amx.load(b, total, offset(b, t.w_offset, 64 * c), _c(0))
            products(b, t.a, t.a_stride, t.w, step, t.k, blocks)
            scratch = cgutils.alloca_once(b, ir.ArrayType(V16I, 64))
            scratch.align = 64
            sums = b.ptrtoint(scratch, I64)
            for total, (r, c) in enumerate(blocks):
                amx.store(b, total, offset(b, sums, 16 * 64 * wide * r + 64 * c), _c(64 * wide))
            scale = load_columns(b, t.w_scale, V16F, wide)
            out = t.out
            with cgutils.for_range(b, rows) as loop:
                line = load_columns(b, b.add(sums, b.mul(loop.index, _c(64 * wide))), V16I, wide)
                factor = broadcast(b, b.load(at(b, b.add(t.a_scale, b.mul(loop.index, _c(4))), F32), align=4), V16F)
                t.out = b.add(out, b.mul(loop.index, t.out_stride))
                _store(b, t, [[b.fmul(b.fmul(b.sitofp(x, V16F), s), factor) for x, s in zip(line, scale)]])
            return context.get_dummy_value()
        return types.void(*[types.int64] * 6), lower
    return kernel

TALL8, FLAT8 = block8(TALL), block8(FLAT)


@njit(boundscheck=False)
def panel_blocks(op, row, end, panel, step):
    full = row + (end - row) // BLOCK_ROWS * BLOCK_ROWS
    if full > row:
        shape(16, 16, step)
        for first in (0, 2):
            for r in range(row, full, BLOCK_ROWS):
                TALL8(op, r, BLOCK_ROWS, panel, first, step)
    rest = end - full
    if rest > 16:
        shape(16, rest - 16, step)
        for first in (0, 2):
            TALL8(op, full, rest, panel, first, step)
    elif rest > 0:
        shape(rest, rest, step)
        FLAT8(op, full, rest, panel, 0, step)


few = njit(boundscheck=False)(gemm)


def gemm_tiles(op, step, thread):
    rows, panels, k = get(step, get(op, ROWS)), get(op, PANELS), get(op, K)
    if rows < LEAST or get(op, FORMAT) != INT8:
        few(op, step, thread)
        return
    k_step = 64 if k % 64 == 0 else (32 if k % 32 == 0 else 16)
    blocks = (rows + TASK_ROWS - 1) // TASK_ROWS
    while True:
        task = fetch_add(op + 8 * COUNTER, 1)
        if task >= panels * blocks:
            break
        row = task // panels * TASK_ROWS
        panel_blocks(op, row, min(rows, row + TASK_ROWS), task % panels, k_step)
    unshape()


KERNELS = {"gemm": gemm_tiles} if target().tiles else {}
