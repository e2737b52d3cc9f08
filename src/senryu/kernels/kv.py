"""What one page of K/V does to a block of query vectors: scores, softmax weights, weighted values; in float32 or int8.

A page of one layer and head holds 64 tokens. float32: K transposed [head_dim, 64], then V [64, head_dim]. int8: K as u8 value
+ 128 [head_dim / 4, 64, 4], V as s8 [16, head_dim, 4] (four tokens side by side), then float32 scales: one for each token's K,
one for each token's V. With int8, query vectors are rounded to s8 once, and softmax weights, times V's scales, to 0..127 for
every page: all products are exact int32 dots.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from senryu.kernels.fused import LIMIT, TINY, ZERO
from senryu.kernels.layout import PAGE, STATE_EXTRA
from senryu.kernels.layout import QUERY_BLOCK as BLOCK
from senryu.kernels.simd import (
    I32,
    I64,
    SIGNED,
    V16F,
    V16I,
    absolute,
    add,
    at,
    exp_negative,
    keep,
    load,
    max_lanes,
    maximum,
    mul,
    nearest,
    offset,
    put_f32,
    put_i32,
    splat,
    store,
    store_i8,
    sub,
    sum_lanes,
)
from senryu.kernels.target import target
from senryu.kernels.tiles import Sums, float_sums, int8_sums, load_columns, row_addresses, row_scalars, zeros

TILE = 4  # query vectors of one register tile
WIDE = target().float_blocks  # 16-column blocks of a tile that registers hold
NEVER = np.float32(-1e30)  # below every score
ADDRESS = types.int64

# Scratch of one thread, in bytes after its states: scores (one page's, float32; int8 weights overwrite them), then for each
# vector: how its old sums shrink, and for int8 the query's scale, what its sums start at, its weights' scale, its bytes.
SCORES_BYTES = BLOCK * PAGE * 4
ALPHAS, Q_SCALE, Q_START, P_SCALE, Q_BYTES = (SCORES_BYTES + 4 * BLOCK * i for i in range(5))


def lowered(arguments: int, emit: Any) -> Any:
    """The Numba intrinsic of `arguments` addresses that emits `emit(builder, arguments)`."""

    def lower(context: Any, b: Any, sig: Any, args: Any) -> Any:
        emit(b, args)
        return context.get_dummy_value()

    return types.void(*([ADDRESS] * arguments)), lower


def _store(b: ir.IRBuilder, values: Sums, out: ir.Value, stride: ir.Value) -> None:
    for row, address in zip(values, row_addresses(b, out, stride, len(values))):
        for c, value in enumerate(row):
            b.store(value, at(b, offset(b, address, 64 * c), V16F), align=64)


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
    """scores [4, 16 * blocks] = (q @ K) * K's scale * q's scale; q s8 [4, head_dim]."""

    def emit(b: ir.IRBuilder, args: list[ir.Value]) -> None:
        q, head_dim, q_scale, q_start, keys, k_scale, out = args
        starts = [ir.Constant(V16I, [0] * 16)] * TILE if SIGNED else row_scalars(b, q_start, TILE, I32)
        left = row_addresses(b, q, head_dim, TILE)
        sums = int8_sums(b, left, keys, ir.Constant(I64, 4 * PAGE), head_dim, [[x] * blocks for x in starts], "keys")
        scale = load_columns(b, k_scale, V16F, blocks)
        factors = row_scalars(b, q_scale, TILE)
        scores = [[b.fmul(b.fmul(b.sitofp(x, V16F), s), f) for x, s in zip(row, scale)] for row, f in zip(sums, factors)]
        _store(b, scores, out, ir.Constant(I64, 4 * PAGE))

    @intrinsic
    def kernel(typingctx, q, head_dim, q_scale, q_start, keys, k_scale, out):
        return lowered(7, emit)

    return kernel


def value_tile(blocks: int) -> Any:
    """c [4, 16 * blocks] = c * alpha + (weights @ V) * weights' scale; weights u8 up to 127, 64 of them every 256 bytes."""

    def emit(b: ir.IRBuilder, args: list[ir.Value]) -> None:
        weights, p_scale, values, line, out, out_stride, alpha = args
        left = row_addresses(b, weights, ir.Constant(I64, 4 * PAGE), TILE)
        sums = int8_sums(b, left, values, line, ir.Constant(I64, PAGE), zeros(V16I, TILE, blocks), "values")
        old = _shrunk(b, out, out_stride, alpha, blocks)
        factors = row_scalars(b, p_scale, TILE)
        new = [
            [b.fadd(x, b.fmul(b.sitofp(y, V16F), factor)) for x, y in zip(before, row)]
            for before, row, factor in zip(old, sums, factors)
        ]
        _store(b, new, out, out_stride)

    @intrinsic
    def kernel(typingctx, weights, p_scale, values, line, out, out_stride, alpha):
        return lowered(7, emit)

    return kernel


SCORES, VALUES, VALUES_NARROW = float_tile(WIDE, False), float_tile(WIDE, True), float_tile(1, True)
SCORES8, VALUES8, VALUES8_NARROW = score_tile(WIDE), value_tile(WIDE), value_tile(1)


@njit(boundscheck=False)
def head_bytes(head_dim, quantized):
    """Bytes of one page of one layer and head."""
    return 2 * PAGE * head_dim + 8 * PAGE if quantized else 8 * PAGE * head_dim


@njit(boundscheck=False)
def round_query(x, head_dim, i, scratch):
    """Query vector i of the block to s8, with its scale and what its sums with K start at."""
    top = splat(ZERO)
    for j in range(0, head_dim, 16):
        top = maximum(top, absolute(load(x + 4 * j)))
    high = max_lanes(top)
    factor = splat(LIMIT / high if high > TINY else ZERO)
    put_f32(scratch + Q_SCALE + 4 * i, high / LIMIT if high > TINY else ZERO)
    total = splat(ZERO)
    for j in range(0, head_dim, 16):
        q = nearest(mul(load(x + 4 * j), factor))
        total = add(total, q)
        store_i8(scratch + Q_BYTES + i * head_dim + j, q)
    put_i32(scratch + Q_START + 4 * i, np.int64(sum_lanes(total)) * -128)  # whole numbers below 2^24: exact


@njit(boundscheck=False)
def page_scores8(keys, head_dim, count, scratch):
    """scores [count, 64] = q . K of one int8 page, for the query vectors that `round_query` left in scratch."""
    scales = keys + 2 * PAGE * head_dim
    for i in range(0, count, TILE):
        q, per = scratch + Q_BYTES + i * head_dim, scratch + 4 * i
        for block in range(0, 4 * PAGE, 64 * WIDE):
            out = scratch + i * 4 * PAGE + block
            SCORES8(q, head_dim, per + Q_SCALE, per + Q_START, keys + block, scales + block, out)


@njit(boundscheck=False)
def page_values(head_dim, values, count, scratch, states, state_bytes, quantized):
    """Sums of states = sums * alpha + weights @ V of one page."""
    for i in range(0, count, TILE):
        weights, state, alpha = scratch + i * 4 * PAGE, states + i * state_bytes, scratch + ALPHAS + 4 * i
        w1, w2, w3, p_scale = weights + 4 * PAGE, weights + 8 * PAGE, weights + 12 * PAGE, scratch + P_SCALE + 4 * i
        column = 0
        while column < head_dim:
            right, out, wide = values + 4 * column, state + 4 * column, column + 16 * WIDE <= head_dim
            if quantized:
                if wide:
                    VALUES8(weights, p_scale, right, 4 * head_dim, out, state_bytes, alpha)
                else:
                    VALUES8_NARROW(weights, p_scale, right, 4 * head_dim, out, state_bytes, alpha)
            elif wide:
                VALUES(weights, w1, w2, w3, PAGE, right, 4 * head_dim, out, state_bytes, alpha)
            else:
                VALUES_NARROW(weights, w1, w2, w3, PAGE, right, 4 * head_dim, out, state_bytes, alpha)
            column += 16 * WIDE if wide else 16


@njit(boundscheck=False)
def soften(scores, state, i, scratch, head_dim, first, end, v_scale):
    """Scores of one page (lanes first..end valid) of vector i to weights exp(s - max); its old sums must shrink by alpha.

    v_scale: the address of V's scales in an int8 page, whose weights are then rounded; 0 in a float32 page.
    """
    top = state + 4 * (head_dim + STATE_EXTRA // 2)
    s0, s1, s2, s3 = load(scores), load(scores + 64), load(scores + 128), load(scores + 192)
    edge = first > 0 or end < PAGE  # only pages at the ends of what a row sees need masks
    if edge:
        s0, s1 = keep(s0, first, end, NEVER), keep(s1, first - 16, end - 16, NEVER)
        s2, s3 = keep(s2, first - 32, end - 32, NEVER), keep(s3, first - 48, end - 48, NEVER)
    old = load(top)
    high = maximum(splat(max_lanes(maximum(maximum(s0, s1), maximum(s2, s3)))), old)
    shrink = exp_negative(sub(old, high))
    s0, s1 = exp_negative(sub(s0, high)), exp_negative(sub(s1, high))
    s2, s3 = exp_negative(sub(s2, high)), exp_negative(sub(s3, high))
    if edge:
        s0, s1 = keep(s0, first, end, ZERO), keep(s1, first - 16, end - 16, ZERO)
        s2, s3 = keep(s2, first - 32, end - 32, ZERO), keep(s3, first - 48, end - 48, ZERO)
    total = add(add(s0, s1), add(s2, s3))
    weights = state + 4 * head_dim
    store(weights, add(mul(load(weights), shrink), total))
    store(top, high)
    put_f32(scratch + ALPHAS + 4 * i, max_lanes(shrink))
    if v_scale:
        s0, s1 = mul(s0, load(v_scale)), mul(s1, load(v_scale + 64))
        s2, s3 = mul(s2, load(v_scale + 128)), mul(s3, load(v_scale + 192))
        heaviest = max_lanes(maximum(maximum(s0, s1), maximum(s2, s3)))
        factor = splat(LIMIT / heaviest if heaviest > TINY else ZERO)
        put_f32(scratch + P_SCALE + 4 * i, heaviest / LIMIT if heaviest > TINY else ZERO)
        store_i8(scores, mul(s0, factor))
        store_i8(scores + 16, mul(s1, factor))
        store_i8(scores + 32, mul(s2, factor))
        store_i8(scores + 48, mul(s3, factor))
    else:
        store(scores, s0)
        store(scores + 64, s1)
        store(scores + 128, s2)
        store(scores + 192, s3)
