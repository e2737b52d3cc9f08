"""Choosing the next token: temperature, then top_k, then top_p over what is left, then one draw; temperature 0 is argmax.

A row may come with a mask of the tokens that it may become: for the others it is as if their logits were -inf.

Tokens rank by weight, equal weights by id; top_k and top_p keep a prefix of that ranking, found without sorting by a radix walk
over the weights' bits. The draw is a pure function of (seed, position, logits): SplitMix64's finaliser over both numbers.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from senryu.kernels.fused import POSITIONS, SAMPLE_ROWS, SAMPLED
from senryu.kernels.layout import BUCKETS, COUNTER, STEP, slots
from senryu.kernels.simd import (
    exp,
    f32,
    f64,
    fetch_add,
    get,
    i32,
    i64,
    keep,
    load,
    max_lanes,
    maximum,
    mul,
    put_f32,
    put_f64,
    put_i32,
    put_i64,
    splat,
    store,
    sub,
)
from senryu.kernels.team import wait_until

TEMPERATURE, TOP_P, TOP_K, SEEDS = (STEP.index(name) for name in ("temperature", "top_p", "top_k", "seeds"))
MASKS, MASKS_STRIDE, MASKS_READY = (STEP.index(name) for name in ("masks", "masks_stride", "masks_ready"))
LOGITS, LOGITS_STRIDE, VOCAB, WEIGHTS, WEIGHTS_STRIDE, HISTOGRAM, HISTOGRAM_STRIDE, OUT = slots("sample")
LOWEST, COOLEST, REFUSED = np.float32(-3.4e38), np.float32(1e-5), np.float32(-np.inf)
GOLDEN, MIX1, MIX2 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


@njit(boundscheck=False)
def mix(z):
    """SplitMix64's finaliser (Steele, Lea, Flood 2014): a bijection of 64 bits."""
    z = (z ^ (z >> np.uint64(30))) * MIX1
    z = (z ^ (z >> np.uint64(27))) * MIX2
    return z ^ (z >> np.uint64(31))


@njit(boundscheck=False)
def uniform(seed, position):
    """A float64 in [0, 1) that depends on nothing else."""
    z = mix(mix(np.uint64(seed) + GOLDEN) + np.uint64(position) * GOLDEN)
    return np.float64(np.int64(z >> np.uint64(11))) * 2.0**-53


@njit(boundscheck=False)
def refuse(mask, x, n, value):
    """x[i] = value for every token i whose bit of `mask` is 0."""
    for first in range(0, n, 32):
        bits = i32(mask + first // 8)
        if bits == -1:
            continue
        for i in range(first, min(first + 32, n)):
            if not (bits >> (i - first)) & 1:
                put_f32(x + 4 * i, value)


@njit(boundscheck=False)
def largest(x, n):
    """max of x [n]; NaN never wins."""
    top = splat(LOWEST)
    for i in range(0, n, 16):
        top = maximum(keep(load(x + 4 * i), 0, n - i, LOWEST), top)
    return max_lanes(top)


@njit(boundscheck=False)
def argmax(x, n):
    """The lowest id of the largest value."""
    high = largest(x, n)
    for i in range(n):
        if f32(x + 4 * i) >= high:
            return i
    return 0


@njit(boundscheck=False)
def prefix(weights, n, count, mass, histogram):
    """The shortest prefix of the ranking with at least `count` tokens or at least `mass`: (bits of its last weight, how many of
    that very weight, its mass). A radix walk: 11, 11 and 10 bits from the top."""
    above, passed, chosen = 0.0, 0, 0
    for level in range(3):
        shift = 21 - 11 * level if level < 2 else 0
        width = 11 if level < 2 else 10
        for bucket in range(BUCKETS):
            put_f64(histogram + 16 * bucket, 0.0)
            put_i64(histogram + 16 * bucket + 8, 0)
        for i in range(n):
            bits = i32(weights + 4 * i)
            if bits >> (shift + width) == chosen:
                slot = histogram + 16 * ((bits >> shift) & ((1 << width) - 1))
                put_f64(slot, f64(slot) + np.float64(f32(weights + 4 * i)))
                put_i64(slot + 8, i64(slot + 8) + 1)
        found = False
        for bucket in range((1 << width) - 1, -1, -1):
            slot = histogram + 16 * bucket
            here = i64(slot + 8)
            if here and (passed + here >= count or above + f64(slot) >= mass):
                chosen = (chosen << width) | bucket
                found = True
                break
            above += f64(slot)
            passed += here
        if not found:
            return 0, n, above
    slot = histogram + 16 * (chosen & 1023)
    here = i64(slot + 8)
    each = f64(slot) / here
    most = np.int64(np.ceil((mass - above) / each)) if mass < 1e300 and each > 0 else here
    ties = min(here, max(1, min(count - passed, most)))
    return chosen, ties, above + ties * each


@njit(boundscheck=False)
def draw(weights, n, last, ties, u):
    """Inverse of the cumulative weight of the kept tokens, in order of ids. A token of weight 0 is never drawn."""
    total = 0.0
    left = ties
    for i in range(n):
        bits = i32(weights + 4 * i)
        if bits > last or (bits == last and left > 0):
            left -= bits == last
            total += np.float64(f32(weights + 4 * i))
    target, cumulative, token, left = u * total, 0.0, 0, ties
    for i in range(n):
        bits = i32(weights + 4 * i)
        if bits > 0 and (bits > last or (bits == last and left > 0)):
            left -= bits == last
            cumulative += np.float64(f32(weights + 4 * i))
            token = i
            if cumulative > target:
                break
    return token


@njit(boundscheck=False)
def choose(step, row, logits, mask, n, weights, histogram):
    """The token of one row that is not greedy."""
    temperature = f32(get(step, TEMPERATURE) + 4 * row)
    high, inverse = splat(largest(logits, n)), splat(np.float32(1) / max(temperature, COOLEST))
    for i in range(0, n, 16):
        weight = exp(mul(sub(load(logits + 4 * i), high), inverse))
        store(weights + 4 * i, keep(weight, 0, n - i, np.float32(0)))
    if mask:
        refuse(mask, weights, n, np.float32(0))
    last, ties, mass = 0, n, 0.0
    top_k, top_p = i32(get(step, TOP_K) + 4 * row), np.float64(f32(get(step, TOP_P) + 4 * row))
    if 0 < top_k < n:
        last, ties, mass = prefix(weights, n, top_k, 1e308, histogram)
    elif top_p < 1.0:
        for i in range(n):
            mass += np.float64(f32(weights + 4 * i))
    if top_p < 1.0:
        last_p, ties_p, _ = prefix(weights, n, n + 1, top_p * mass, histogram)
        if last_p > last or (last_p == last and ties_p < ties):
            last, ties = last_p, ties_p
    position = i32(get(step, POSITIONS) + 4 * i32(get(step, SAMPLE_ROWS) + 4 * row))
    return draw(weights, n, last, ties, uniform(i64(get(step, SEEDS) + 8 * row), position))


def sample(op, step, thread):
    """out[row] = next token of each sampled row; logits of refused tokens become -inf. A mask has at least one bit set."""
    n = get(op, VOCAB)
    mask = get(step, MASKS)
    if mask:
        wait_until(get(step, MASKS_READY), 1)  # filled beside the layers: nearly always done by now
    while True:
        row = fetch_add(op + 8 * COUNTER, 1)
        if row >= get(step, SAMPLED):
            return
        logits = get(op, LOGITS) + row * get(op, LOGITS_STRIDE)
        if get(step, MASKS):
            mask = get(step, MASKS) + row * get(step, MASKS_STRIDE)
            refuse(mask, logits, n, REFUSED)
        if f32(get(step, TEMPERATURE) + 4 * row) > 0:
            weights = get(op, WEIGHTS) + thread * get(op, WEIGHTS_STRIDE)
            token = choose(step, row, logits, mask, n, weights, get(op, HISTOGRAM) + thread * get(op, HISTOGRAM_STRIDE))
        else:
            token = argmax(logits, n)
        put_i32(get(op, OUT) + 4 * row, token)


KERNELS = {"sample": sample}
