"""The products of `kv.py` with int8 pages where the CPU has tile registers: the same int32, for up to 32 query vectors at once.

Keys and values lie as tiles want them: four consecutive bytes of k of sixteen columns side by side. A tile of them serves two
tiles of query vectors, and a sum is stored while the next is being made.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import njit
from numba.core import cgutils
from numba.extending import intrinsic

from senryu.kernels import amx
from senryu.kernels.kv import lowered, page_scores8, page_sums8
from senryu.kernels.layout import PAGE, QUERIES, STARTS, WEIGHTS
from senryu.kernels.simd import I64, offset

LEAST = 5  # query vectors from which tiles are faster
LEFT, RIGHT = (4, 5), (6, 7)  # tiles; the first four hold sums, two at a time


def _c(value: int) -> ir.Constant:
    return ir.Constant(I64, value)


@intrinsic
def shape_tiles(typingctx):
    return lowered(0, lambda b, args: amx.configure(b, [(16, 64)] * 8))


@intrinsic
def release_tiles(typingctx):
    return lowered(0, lambda b, args: amx.release(b))


def load_left(b: ir.IRBuilder, tiles: int, rows: ir.Value, stride: ir.Value) -> None:
    """64 bytes of each of 16 * tiles rows."""
    for i in range(tiles):
        amx.load(b, LEFT[i], b.add(rows, b.mul(stride, _c(16 * i))), stride)


def four_columns(
    b: ir.IRBuilder, tiles: int, start: ir.Value | None, add: Callable[[int, int], None], out: ir.Value, stride: ir.Value
) -> None:
    """out int32 [16 * tiles, 64], rows `stride` bytes apart: what add(c, right) makes of the first sum of column block c, which
    starts at zero or, in all columns, at int32 [16] for each row at `start`."""

    def put(c: int) -> None:
        for i in range(tiles):
            place = b.add(offset(b, out, 64 * c), b.mul(stride, _c(16 * i)))
            amx.store(b, 2 * (c % 2) + i, place, stride)

    for c in range(4):
        for i in range(tiles):
            if start is None:
                amx.zero(b, 2 * (c % 2) + i)
            else:
                amx.load(b, 2 * (c % 2) + i, offset(b, start, 1024 * i), _c(64))
        add(2 * (c % 2), c)
        if c:
            put(c - 1)
    put(3)


def multiply(b: ir.IRBuilder, tiles: int, total: int, lines: ir.Value, stride: ir.Value, signs: amx.Signs) -> None:
    """Sums `total` and the next += what stands left x sixteen lines of four bytes of sixteen columns."""
    right = RIGHT[total // 2]
    amx.load(b, right, lines, stride)
    for i in range(tiles):
        amx.dot(b, total + i, LEFT[i], right, signs)


def score_tiles(tiles: int, whole: bool) -> Any:
    """scores int32 [16 * tiles, 64] = starts + q @ K; `whole`: head_dim is 64, so that queries are loaded once."""

    def emit(b: ir.IRBuilder, args: list[ir.Value]) -> None:
        q, head_dim, starts, keys, out = args

        def add(total: int, c: int) -> None:
            block = offset(b, keys, 64 * c)
            if whole:
                multiply(b, tiles, total, block, _c(4 * PAGE), "su")
                return
            with cgutils.for_range_slice(b, _c(0), head_dim, _c(64), inc=True) as (i, _):
                load_left(b, tiles, b.add(q, i), head_dim)
                multiply(b, tiles, total, b.add(block, b.mul(i, _c(PAGE))), _c(4 * PAGE), "su")

        if whole:
            load_left(b, tiles, q, head_dim)
        four_columns(b, tiles, starts, add, out, _c(4 * PAGE))

    @intrinsic
    def kernel(typingctx, q, head_dim, starts, keys, out):
        return lowered(5, emit)

    return kernel


def value_tiles(tiles: int) -> Any:
    """sums int32 [16 * tiles, head_dim] = weights @ V."""

    def emit(b: ir.IRBuilder, args: list[ir.Value]) -> None:
        weights, values, head_dim, out = args
        line = b.mul(head_dim, _c(4))
        load_left(b, tiles, weights, _c(PAGE))
        with cgutils.for_range_slice(b, _c(0), line, _c(256), inc=True) as (i, _):

            def add(total: int, c: int) -> None:
                multiply(b, tiles, total, b.add(offset(b, values, 64 * c), i), line, "us")

            four_columns(b, tiles, None, add, b.add(out, i), line)

    @intrinsic
    def kernel(typingctx, weights, values, head_dim, out):
        return lowered(4, emit)

    return kernel


ONE_WHOLE, TWO_WHOLE, ONE_LONG, TWO_LONG = (score_tiles(tiles, whole) for whole in (True, False) for tiles in (1, 2))
ONE_VALUES, TWO_VALUES = value_tiles(1), value_tiles(2)


@njit(boundscheck=False)
def fits(head_dim, count):
    """Whether tiles are used."""
    return count >= LEAST and head_dim % 64 == 0


@njit(boundscheck=False)
def tiled_scores8(keys, head_dim, first, count, scratch, scores):
    """`kv.page_scores8`."""
    q, starts = scratch + QUERIES + first * head_dim, scratch + STARTS + 64 * first
    if not fits(head_dim, count):
        page_scores8(keys, head_dim, first, count, scratch, scores)
    elif head_dim == 64:
        if count > 16:
            TWO_WHOLE(q, head_dim, starts, keys, scores)
        else:
            ONE_WHOLE(q, head_dim, starts, keys, scores)
    elif count > 16:
        TWO_LONG(q, head_dim, starts, keys, scores)
    else:
        ONE_LONG(q, head_dim, starts, keys, scores)


@njit(boundscheck=False)
def tiled_sums8(values, head_dim, count, scratch, sums):
    """`kv.page_sums8`."""
    if not fits(head_dim, count):
        page_sums8(values, head_dim, count, scratch, sums)
    elif count > 16:
        TWO_VALUES(scratch + WEIGHTS, values, head_dim, sums)
    else:
        ONE_VALUES(scratch + WEIGHTS, values, head_dim, sums)


@njit(boundscheck=False)
def begin_tiles():
    shape_tiles()  # type: ignore[call-arg]


@njit(boundscheck=False)
def end_tiles():
    release_tiles()  # type: ignore[call-arg]
