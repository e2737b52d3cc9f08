"""One page of K/V and the products of query vectors with it, in float32 or exact int32.

A page of one layer and head holds 64 tokens. float32: K transposed [head_dim, 64], then V [64, head_dim]. int8: K as u8 value
+ 128 [head_dim / 4, 64, 4], V as s8 [16, head_dim, 4] (tokens i, 16 + i, 32 + i and 48 + i side by side), then float32 [64] the
scales of each token's K, float32 [64] the logarithms to base 2 of those of each token's V. With int8, query vectors are rounded
to s8 once, and softmax weights, times V's scales, to 0..127 for every page: all products are exact int32 dots.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from senryu.kernels.fused import LIMIT, TINY, ZERO
from senryu.kernels.layout import ALPHAS, FACTORS, PAGE, QUERIES, STARTS, UNROUND, WEIGHTS
from senryu.kernels.simd import (
    I32,
    I64,
    SIGNED,
    V16F,
    V16I,
    absolute,
    add,
    at,
    broadcast,
    f32,
    load,
    max_lanes,
    maximum,
    mul,
    nearest,
    offset,
    prefetch,
    put_f32,
    splat,
    store,
    store_i8,
    sum_lanes,
)
from senryu.kernels.softmax import LOG2E, fma, load_i32
from senryu.kernels.target import target
from senryu.kernels.tiles import Sums, float_sums, int8_sums, load_columns, row_addresses, row_scalars, zeros

TILE = 4  # query vectors of one register tile
WIDE = target().float_blocks  # 16-column blocks of a tile that registers hold
ADDRESS = types.int64


def lowered(arguments: int, emit: Any) -> Any:
    """The Numba intrinsic of `arguments` addresses that emits `emit(builder, arguments)`."""

    def lower(context: Any, b: Any, sig: Any, args: Any) -> Any:
        emit(b, args)
        return context.get_dummy_value()

    return types.void(*([ADDRESS] * arguments)), lower


def _store(b: ir.IRBuilder, values: Sums, out: ir.Value, stride: ir.Value) -> None:
    for row, address in zip(values, row_addresses(b, out, stride, len(values))):
        for c, value in enumerate(row):
            b.store(value, at(b, offset(b, address, 64 * c), value.type), align=64)


def _shrunk(b: ir.IRBuilder, out: ir.Value, stride: ir.Value, alpha: ir.Value, blocks: int) -> Sums:
    """The old sums of a tile, each row times its alpha."""
    rows = zip(row_addresses(b, out, stride, TILE), row_scalars(b, alpha, TILE))
    return [[b.fmul(x, factor) for x in load_columns(b, row, V16F, blocks)] for row, factor in rows]


def float_tile(blocks: int, scaled: bool) -> Any:
    """c [4, 16 * blocks] = a [4, k] @ b [k, 16 * blocks], plus c * alpha when scaled; all float32, k in order, fused."""

    def emit(b: ir.IRBuilder, args: list[ir.Value]) -> None:
        *rows, k, right, right_stride, out, out_stride, alpha = args
        start = _shrunk(b, out, out_stride, alpha, blocks) if scaled else zeros(V16F, TILE, blocks)
        sums = float_sums(b, rows, right, right_stride, k, start, lambda line, count: load_columns(b, line, V16F, count))
        _store(b, sums, out, out_stride)

    @intrinsic
    def kernel(typingctx, a0, a1, a2, a3, k, b, b_stride, c, c_stride, alpha):
        return lowered(10, emit)

    return kernel


def score_tile(blocks: int) -> Any:
    """scores int32 [4, 16 * blocks] = q @ K; q s8 [4, head_dim]; scores of a vector are 256 bytes apart."""

    def emit(b: ir.IRBuilder, args: list[ir.Value]) -> None:
        q, head_dim, starts, keys, out = args
        first = row_addresses(b, starts, ir.Constant(I64, 64), TILE)
        start = zeros(V16I, TILE, blocks) if SIGNED else [load_columns(b, row, V16I, 1) * blocks for row in first]
        left = row_addresses(b, q, head_dim, TILE)
        sums = int8_sums(b, left, keys, ir.Constant(I64, 4 * PAGE), head_dim, start, "keys")
        _store(b, sums, out, ir.Constant(I64, 4 * PAGE))

    @intrinsic
    def kernel(typingctx, q, head_dim, starts, keys, out):
        return lowered(5, emit)

    return kernel


def value_tile(blocks: int) -> Any:
    """sums int32 [4, 16 * blocks] = weights @ V; weights u8 up to 127 [4, 64]; line: bytes of a line of V, of a row of sums."""

    def emit(b: ir.IRBuilder, args: list[ir.Value]) -> None:
        weights, values, line, out = args
        left = row_addresses(b, weights, ir.Constant(I64, PAGE), TILE)
        sums = int8_sums(b, left, values, line, ir.Constant(I64, PAGE), zeros(V16I, TILE, blocks), "values")
        _store(b, sums, out, line)

    @intrinsic
    def kernel(typingctx, weights, values, line, out):
        return lowered(4, emit)

    return kernel


SCORE_TILE, VALUE_TILE, VALUE_TILE_NARROW = float_tile(WIDE, False), float_tile(WIDE, True), float_tile(1, True)
SCORE_TILE8, VALUE_TILE8, VALUE_TILE8_NARROW = score_tile(WIDE), value_tile(WIDE), value_tile(1)


@njit(boundscheck=False)
def head_bytes(head_dim, quantized):
    """Bytes of one page of one layer and head."""
    return 2 * PAGE * head_dim + 8 * PAGE if quantized else 8 * PAGE * head_dim


@njit(boundscheck=False)
def ask(start, end):
    """For memory that is wanted soon."""
    for byte in range(start, end, 64):
        prefetch(byte)


@njit(boundscheck=False)
def round_query(x, head_dim, i, scratch):
    """Query vector i of the block to s8, with what its scores times K's scales must be multiplied by, in powers of 2, and what
    its sums with K start at."""
    top = splat(ZERO)
    for j in range(0, head_dim, 16):
        top = maximum(top, absolute(load(x + 4 * j)))
    high = max_lanes(top)
    factor = splat(LIMIT / high if high > TINY else ZERO)
    put_f32(scratch + FACTORS + 4 * i, high / LIMIT * LOG2E if high > TINY else ZERO)
    total = splat(ZERO)
    for j in range(0, head_dim, 16):
        q = nearest(mul(load(x + 4 * j), factor))
        total = add(total, q)
        store_i8(scratch + QUERIES + i * head_dim + j, q)
    start = np.int64(sum_lanes(total)) * -128  # whole numbers below 2^24: exact
    put_start(scratch + STARTS + 64 * i, start)  # type: ignore[call-arg]


@intrinsic
def put_start(typingctx, address, value):
    """The int32 in sixteen lanes."""
    return lowered(2, lambda b, args: b.store(broadcast(b, b.trunc(args[1], I32), V16I), at(b, args[0], V16I), align=64))


@njit(boundscheck=False)
def page_scores8(keys, head_dim, first, count, scratch, scores):
    """int32 scores [count, 64] = q . K of one int8 page, for vectors of the block from number `first` on."""
    for i in range(0, count, TILE):
        q, starts = scratch + QUERIES + (first + i) * head_dim, scratch + STARTS + 64 * (first + i)
        for block in range(0, 4 * PAGE, 64 * WIDE):
            SCORE_TILE8(q, head_dim, starts, keys + block, scores + i * 4 * PAGE + block)


@njit(boundscheck=False)
def page_sums8(values, head_dim, count, scratch, sums):
    """int32 sums [count, head_dim] = weights @ V of one int8 page."""
    for i in range(0, count, TILE):
        weights, out, column = scratch + WEIGHTS + i * PAGE, sums + i * 4 * head_dim, 0
        while column < head_dim:
            if column + 16 * WIDE <= head_dim:
                VALUE_TILE8(weights, values + 4 * column, 4 * head_dim, out + 4 * column)
                column += 16 * WIDE
            else:
                VALUE_TILE8_NARROW(weights, values + 4 * column, 4 * head_dim, out + 4 * column)
                column += 16


@njit(boundscheck=False)
def add_sums8(head_dim, count, scratch, sums, states, state_bytes):
    """Sums of states = sums * alpha + int32 sums of one page * what they are worth."""
    for i in range(count):
        alpha, unit = splat(f32(scratch + ALPHAS + 4 * i)), splat(f32(scratch + UNROUND + 4 * i))
        state, new = states + i * state_bytes, sums + i * 4 * head_dim
        for j in range(0, 4 * head_dim, 64):
            store(state + j, fma(load(state + j), alpha, mul(load_i32(new + j), unit)))


@njit(boundscheck=False)
def page_values(values, head_dim, count, scratch, scores, states, state_bytes):
    """Sums of states = sums * alpha + weights @ V of one float32 page."""
    for i in range(0, count, TILE):
        weights, state, alpha = scores + i * 4 * PAGE, states + i * state_bytes, scratch + ALPHAS + 4 * i
        w1, w2, w3 = weights + 4 * PAGE, weights + 8 * PAGE, weights + 12 * PAGE
        column = 0
        while column < head_dim:
            right, out = values + 4 * column, state + 4 * column
            if column + 16 * WIDE <= head_dim:
                VALUE_TILE(weights, w1, w2, w3, PAGE, right, 4 * head_dim, out, state_bytes, alpha)
                column += 16 * WIDE
            else:
                VALUE_TILE_NARROW(weights, w1, w2, w3, PAGE, right, 4 * head_dim, out, state_bytes, alpha)
                column += 16


@njit(boundscheck=False)
def begin_tiles():
    """Tile registers before a thread's work items: there are none."""


@njit(boundscheck=False)
def end_tiles():
    """And after them."""
