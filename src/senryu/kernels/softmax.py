"""Softmax of attention, page by page: scores of query vectors to weights, in numbers that do not depend on neighbours.

What is one number for each vector (its maximum, how its sums shrink) is one lane of sixteen. Powers are of 2, so that log2(e)
goes into a vector's factor and costs no step of its own; so do V's scales of an int8 page, which are kept as their logarithms:
a score then stands for weight x scale, and a page's heaviest is rounded to 127 as it comes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from senryu.kernels.fused import MUTE, ZERO
from senryu.kernels.layout import ALPHAS, BASES, BETAS, INVERSES, PAGE, PEAKS, TOPS, UNROUND, WIDEST
from senryu.kernels.simd import (
    V16F,
    V16I,
    WHOLE,
    WHOLE_BITS,
    add,
    at,
    emit_fma,
    emit_power,
    f32,
    keep,
    load,
    max_lanes,
    maximum,
    mul,
    offset,
    put_f32,
    splat,
    store,
    sub,
    ternary,
    unary,
    vec,
)

NEVER = np.float32(-1e30)  # below every score
LOG2E = np.float32(1.4426950408889634)
UNIT = np.float32(1 / 127)
FEW = 4  # vectors up to which maxima are taken one by one

LOWEST = -100.0  # smaller powers count as this one: it is nothing beside a weight of 1, and far from denormal numbers
POWER = (1.326472731e-3, 9.671512991e-3, 5.550733581e-2, 2.402224243e-1, 6.931470037e-1, 1.0)  # 2^r, |r| <= 1/2, to 1.7e-7
BRIEF = (9.582852945e-3, 5.590642616e-2, 2.402409911e-1, 6.931240752e-1, 1.0)  # to 3e-6: enough for weights that become bytes


def _constant(value: float) -> ir.Constant:
    return ir.Constant(V16F, [value] * 16)


def power_by(coefficients: tuple[float, ...]) -> Any:
    """2^x for x up to 126; 2^0 is exactly 1."""

    def emit(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
        return emit_power(b, b.select(b.fcmp_ordered(">", x, _constant(LOWEST)), x, _constant(LOWEST)), coefficients)

    return unary(vec, vec, emit)


power, brief_power = power_by(POWER), power_by(BRIEF)
fma = ternary(vec, (vec, vec, vec), emit_fma)  # x * y + z, rounded once
load_i32 = unary(vec, types.int64, lambda b, a: b.sitofp(b.load(at(b, a, V16I), align=64), V16F))


def _max_of_rows(b: ir.IRBuilder, address: ir.Value) -> ir.Value:
    """Lane i: the maximum of the sixteen floats at address + 64 * i. A third of the steps of sixteen maxima of lanes."""
    rows = [b.load(at(b, offset(b, address, 64 * i), V16F), align=64) for i in range(16)]
    half = 8
    while half:
        # of each run of 2 * half lanes the low half is row i's, the high half that of the row `len(rows) / 2` on
        low = [lane // half % 2 * 16 + lane // (2 * half) * 2 * half + lane % half for lane in range(16)]
        index = [ir.Constant(V16I, low), ir.Constant(V16I, [lane + half for lane in low])]
        pairs = list(zip(rows, rows[len(rows) // 2 :]))
        rows = []
        for x, y in pairs:
            one, two = (b.shuffle_vector(x, y, lanes) for lanes in index)
            rows.append(b.select(b.fcmp_ordered(">", one, two), one, two))
        half //= 2
    return rows[0]


max_of_rows = unary(vec, types.int64, _max_of_rows)


@intrinsic
def put_bytes(typingctx, address, w0, w1, w2, w3):
    """64 bytes: byte j of four is wj * 127 rounded, so that token 16 * j + i stands in byte 4 * i + j."""

    def lower(context: Any, b: Any, sig: Any, args: Any) -> Any:
        address, *weights = args
        total, spare = None, 0
        for j, w in enumerate(weights):
            whole = b.bitcast(emit_fma(b, w, _constant(127.0), _constant(WHOLE)), V16I)
            part = b.shl(whole, ir.Constant(V16I, [8 * j] * 16)) if j else whole
            total, spare = b.xor(total, part) if j else part, spare ^ WHOLE_BITS << (8 * j)
        total = b.xor(total, ir.Constant(V16I, [spare & 0xFFFFFFFF] * 16))
        b.store(total, at(b, address, V16I), align=64)
        return context.get_dummy_value()

    return types.void(types.int64, vec, vec, vec, vec), lower


@njit(boundscheck=False)
def put_row(scores, s0, s1, s2, s3):
    store(scores, s0)
    store(scores + 64, s1)
    store(scores + 128, s2)
    store(scores + 192, s3)


@njit(boundscheck=False)
def scale_scores(scores, factor, k_scale, v_scale, first, end):
    """A vector's scores of one page made ready in place, NEVER outside lanes first..end; what they are at most, in sixteen
    lanes. float32: score * factor. int8, where k_scale is not 0: int32 score * K's scale * factor + logarithm of V's scale."""
    if k_scale:
        s0, s1 = mul(load_i32(scores), load(k_scale)), mul(load_i32(scores + 64), load(k_scale + 64))
        s2, s3 = mul(load_i32(scores + 128), load(k_scale + 128)), mul(load_i32(scores + 192), load(k_scale + 192))
        s0, s1 = fma(s0, factor, load(v_scale)), fma(s1, factor, load(v_scale + 64))
        s2, s3 = fma(s2, factor, load(v_scale + 128)), fma(s3, factor, load(v_scale + 192))
    else:
        s0, s1 = mul(load(scores), factor), mul(load(scores + 64), factor)
        s2, s3 = mul(load(scores + 128), factor), mul(load(scores + 192), factor)
    if first > 0 or end < PAGE:  # only pages at the ends of what a row sees need masks
        s0, s1 = keep(s0, first, end, NEVER), keep(s1, first - 16, end - 16, NEVER)
        s2, s3 = keep(s2, first - 32, end - 32, NEVER), keep(s3, first - 48, end - 48, NEVER)
    put_row(scores, s0, s1, s2, s3)
    return maximum(maximum(s0, s1), maximum(s2, s3))


@njit(boundscheck=False)
def sixteen_maxima(scratch, first, count):
    """Lane i: the maximum of the sixteen floats that vector first + i left among PEAKS, up to number `count`."""
    if count - first > FEW:
        return max_of_rows(scratch + PEAKS + 64 * first)
    for i in range(first, count):
        put_f32(scratch + WIDEST + 4 * i, max_lanes(load(scratch + PEAKS + 64 * i)))
    return load(scratch + WIDEST + 4 * first)


@njit(boundscheck=False)
def raise_tops(scratch, count, rounded):
    """The vectors' maxima with this page, and how their old sums shrink. What a score's power is relative to: with float32 the
    new maximum, with int8 (`rounded`) the page's own, and then how much the page counts."""
    for i in range(0, count, 16):
        peak, old = sixteen_maxima(scratch, i, count), load(scratch + TOPS + 4 * i)
        high = maximum(old, peak)
        store(scratch + TOPS + 4 * i, high)
        store(scratch + ALPHAS + 4 * i, power(sub(old, high)))
        if rounded:
            beta = power(sub(peak, high))
            store(scratch + BASES + 4 * i, peak)
            store(scratch + BETAS + 4 * i, beta)
            store(scratch + UNROUND + 4 * i, mul(beta, splat(UNIT)))
        else:
            store(scratch + BASES + 4 * i, high)


@njit(boundscheck=False)
def weigh(scores, i, first, end, partial, scratch):
    """A vector's scores to weights in place; its sixteen partial sums of weights."""
    base = splat(f32(scratch + BASES + 4 * i))
    s0, s1 = power(sub(load(scores), base)), power(sub(load(scores + 64), base))
    s2, s3 = power(sub(load(scores + 128), base)), power(sub(load(scores + 192), base))
    if first > 0 or end < PAGE:
        s0, s1 = keep(s0, first, end, ZERO), keep(s1, first - 16, end - 16, ZERO)
        s2, s3 = keep(s2, first - 32, end - 32, ZERO), keep(s3, first - 48, end - 48, ZERO)
    store(partial, fma(load(partial), splat(f32(scratch + ALPHAS + 4 * i)), add(add(s0, s1), add(s2, s3))))
    put_row(scores, s0, s1, s2, s3)


@njit(boundscheck=False)
def weigh8(scores, i, first, end, partial, weights, scratch):
    """A vector's scores to weights x V's scales as bytes; its sixteen partial sums of weights."""
    base, inverses = splat(f32(scratch + BASES + 4 * i)), scratch + INVERSES
    s0, s1 = brief_power(sub(load(scores), base)), brief_power(sub(load(scores + 64), base))
    s2, s3 = brief_power(sub(load(scores + 128), base)), brief_power(sub(load(scores + 192), base))
    if first > 0 or end < PAGE:
        s0, s1 = keep(s0, first, end, ZERO), keep(s1, first - 16, end - 16, ZERO)
        s2, s3 = keep(s2, first - 32, end - 32, ZERO), keep(s3, first - 48, end - 48, ZERO)
    put_bytes(weights, s0, s1, s2, s3)  # type: ignore[call-arg]
    s0, s1 = fma(s0, load(inverses), mul(s1, load(inverses + 64))), fma(s2, load(inverses + 128), mul(s3, load(inverses + 192)))
    alpha, beta = splat(f32(scratch + ALPHAS + 4 * i)), splat(f32(scratch + BETAS + 4 * i))
    store(partial, fma(load(partial), alpha, mul(add(s0, s1), beta)))


@njit(boundscheck=False)
def invert_scales(v_scale, scratch):
    """1 / V's scales of a page from their logarithms; whatever lies in slots that nobody has written stays finite."""
    for j in range(0, 4 * PAGE, 64):
        store(scratch + INVERSES + j, power(sub(splat(ZERO), maximum(load(v_scale + j), splat(MUTE)))))
