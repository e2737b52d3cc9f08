"""What happens to a row between matrices: embedding, norm, rotation and K/V write, gated activation; most end in int8 rows.

Rows are shared out one by one. Sums over a row run in sixteen lanes combined in a fixed order. Quantisation: scale =
max|x| / 127, q = round half to even(x * (127 / max|x|)), stored as q + 128; a row of zeros has scale 0. For int4 matrices
the sums of q over groups are written too; for bf16 matrices rows stay float32 (see layout.OUTPUT).
"""

from __future__ import annotations

import numpy as np
from numba import njit

from senryu.kernels.layout import COUNTER, GROUP, OUTPUT, PAGE, STEP, slots
from senryu.kernels.simd import (
    absolute,
    add,
    copy_signed,
    div,
    exp,
    f32,
    f64,
    fetch_add,
    get,
    hadamard,
    i32,
    load,
    load_bf16,
    max_lanes,
    maximum,
    mul,
    nearest,
    put_f32,
    put_i32,
    splat,
    store,
    store_u8,
    sub,
    sum_lanes,
)

ROWS, SEQUENCES, SAMPLED, TOKENS, POSITIONS, ROW_START, PAGE_TABLE, PAGE_TABLE_STRIDE = range(8)
SAMPLE_ROWS = STEP.index("sample_rows")
COS, SIN, COS_STRIDE = STEP.index("cos"), STEP.index("sin"), STEP.index("cos_stride")
ROW_SEQUENCE = STEP.index("row_sequence")
ZERO, ONE, LIMIT = np.float32(0), np.float32(1), np.float32(127)
TINY = np.float32(1e-30)  # a row with no larger value counts as zeros
MUTE = np.float32(-60)  # the least logarithm of V's scales
HALF_ROOT = 0x3F3504F3  # bits of the root of 1/2
LOG2 = tuple(np.float32(2 / (np.log(2) * n)) for n in (1, 3, 5, 7))
O_OUT, O_STRIDE, O_SCALE, O_SUMS, O_SUMS_STRIDE = range(len(OUTPUT))  # after the slot of an operation's `out`

E_TABLE, E_TABLE_STRIDE, E_HALF, E_HIDDEN, E_X, E_X_STRIDE = slots("embed")


def embed(op, step, thread):
    """x[row] = table[token], from float32 or bfloat16."""
    while True:
        row = fetch_add(op + 8 * COUNTER, 1)
        if row >= get(step, ROWS):
            return
        source = get(op, E_TABLE) + i32(get(step, TOKENS) + 4 * row) * get(op, E_TABLE_STRIDE)
        target = get(op, E_X) + row * get(op, E_X_STRIDE)
        if get(op, E_HALF):
            for i in range(0, get(op, E_HIDDEN), 16):
                store(target + 4 * i, load_bf16(source + 2 * i))
        else:
            for i in range(0, get(op, E_HIDDEN), 16):
                store(target + 4 * i, load(source + 4 * i))


PICK_X, PICK_X_STRIDE, PICK_N, PICK_OUT, PICK_OUT_STRIDE = slots("pick")


def pick(op, step, thread):
    """out[i] = x[sample_rows[i]]."""
    while True:
        i = fetch_add(op + 8 * COUNTER, 1)
        if i >= get(step, SAMPLED):
            return
        x = get(op, PICK_X) + i32(get(step, SAMPLE_ROWS) + 4 * i) * get(op, PICK_X_STRIDE)
        out = get(op, PICK_OUT) + i * get(op, PICK_OUT_STRIDE)
        for byte in range(0, 4 * get(op, PICK_N), 64):
            store(out + byte, load(x + byte))


@njit(boundscheck=False)
def rescale_of(high, out_scale):
    """What to multiply a row by whose largest magnitude is `high`; its scale is written."""
    put_f32(out_scale, high / LIMIT if high > TINY else ZERO)
    return splat(LIMIT / high if high > TINY else ZERO)


@njit(boundscheck=False)
def put_sum(total, out_sums, start):
    """The sum of q over the group that starts at value `start` (whole numbers below 2^24: exact in any order)."""
    if out_sums:
        put_i32(out_sums + start // GROUP * 4, np.int64(sum_lanes(total)))


@njit(boundscheck=False)
def quantize(x, n, out, out_scale, out_sums):
    """float32 [n] at x to bytes at out (which may be x), a scale, and if out_sums is not 0 the sums of groups."""
    top = splat(ZERO)
    for i in range(0, n, 16):
        top = maximum(top, absolute(load(x + 4 * i)))
    rescale = rescale_of(max_lanes(top), out_scale)
    for start in range(0, n, GROUP):
        total = splat(ZERO)
        for i in range(start, min(n, start + GROUP), 16):
            q = nearest(mul(load(x + 4 * i), rescale))
            total = add(total, q)
            store_u8(out + i, q)
        put_sum(total, out_sums, start)


@njit(boundscheck=False)
def put_row(op, out, row, x, n):
    """float32 [n] at x to `row` of the operation's output; `out` is the slot of its field of that name."""
    target = get(op, out + O_OUT) + row * get(op, out + O_STRIDE)
    if get(op, out + O_SCALE):
        sums = get(op, out + O_SUMS) + row * get(op, out + O_SUMS_STRIDE)
        quantize(x, n, target, get(op, out + O_SCALE) + 4 * row, sums)
        return
    for i in range(0, 4 * n, 64):
        store(target + i, load(x + i))


@njit(boundscheck=False)
def square_sum(x, n, mean):
    """Sum over n values of (x - mean)^2."""
    total, centre = splat(ZERO), splat(mean)
    for i in range(0, n, 16):
        d = sub(load(x + 4 * i), centre)
        total = add(total, mul(d, d))
    return sum_lanes(total)


N_X, N_X_STRIDE, N_WEIGHT, N_N, N_EPS, N_CENTRED, N_OUT, N_OUT_STRIDE, N_SCALE, N_SUMS, N_SUMS_STRIDE, N_ROWS = slots("norm")


def norm(op, step, thread):
    """RMSNorm, or LayerNorm without bias when centred, then as `put_row`."""
    n, weight = get(op, N_N), get(op, N_WEIGHT)
    count = np.float32(n)
    while True:
        row = fetch_add(op + 8 * COUNTER, 1)
        if row >= get(step, get(op, N_ROWS)):
            return
        x = get(op, N_X) + row * get(op, N_X_STRIDE)
        mean = ZERO
        if get(op, N_CENTRED):
            total = splat(ZERO)
            for i in range(0, n, 16):
                total = add(total, load(x + 4 * i))
            mean = sum_lanes(total) / count
        factor = splat(ONE / np.sqrt(square_sum(x, n, mean) / count + np.float32(f64(op + 8 * N_EPS))))
        centre, top = splat(mean), splat(ZERO)
        for i in range(0, n, 16):
            y = mul(mul(sub(load(x + 4 * i), centre), factor), load(weight + 4 * i))
            top = maximum(top, absolute(y))
        out = get(op, N_OUT) + row * get(op, N_OUT_STRIDE)
        if get(op, N_SCALE) == 0:
            for i in range(0, n, 16):
                store(out + 4 * i, mul(mul(sub(load(x + 4 * i), centre), factor), load(weight + 4 * i)))
            continue
        rescale = rescale_of(max_lanes(top), get(op, N_SCALE) + 4 * row)
        sums = get(op, N_SUMS) + row * get(op, N_SUMS_STRIDE)
        for start in range(0, n, GROUP):
            total = splat(ZERO)
            for i in range(start, min(n, start + GROUP), 16):
                y = mul(mul(sub(load(x + 4 * i), centre), factor), load(weight + 4 * i))
                q = nearest(mul(y, rescale))
                total = add(total, q)
                store_u8(out + i, q)
            put_sum(total, sums, start)


@njit(boundscheck=False)
def spread(x, n, block):
    """Walsh-Hadamard transform of every `block` values (64 or 16; 0 leaves them): one outlier becomes many small values.

    The matrix that reads them was turned the other way round when it was packed (QuaRot, arXiv:2404.00456).
    """
    if block == 64:
        for i in range(0, 4 * n, 256):
            v0, v1, v2, v3 = load(x + i), load(x + i + 64), load(x + i + 128), load(x + i + 192)
            a0, a1, a2, a3 = add(v0, v2), add(v1, v3), sub(v0, v2), sub(v1, v3)
            store(x + i, hadamard(add(a0, a1)))
            store(x + i + 64, hadamard(sub(a0, a1)))
            store(x + i + 128, hadamard(add(a2, a3)))
            store(x + i + 192, hadamard(sub(a2, a3)))
    elif block == 16:
        for i in range(0, 4 * n, 64):
            store(x + i, hadamard(load(x + i)))


G_X, G_X_STRIDE, G_N, G_BLOCK, G_OUT = slots("glu")[:5]
G_ROWS = slots("glu")[-1]


def glu(op, step, thread):
    """silu(gate) * up, spread, then as `put_row`: x row = [gate n][up n]; the result overwrites the gate."""
    n = get(op, G_N)
    while True:
        row = fetch_add(op + 8 * COUNTER, 1)
        if row >= get(step, get(op, G_ROWS)):
            return
        gate = get(op, G_X) + row * get(op, G_X_STRIDE)
        up = gate + 4 * n
        for i in range(0, 4 * n, 64):
            g = load(gate + i)
            sigmoid = div(splat(ONE), add(splat(ONE), exp(sub(splat(ZERO), g))))
            store(gate + i, mul(mul(g, sigmoid), load(up + i)))
        spread(gate, n, get(op, G_BLOCK))
        put_row(op, G_OUT, row, gate, n)


R_QKV, R_QKV_STRIDE, R_HEADS, R_KV_HEADS, R_HEAD_DIM, R_ROPE = slots("rope")[:6]
R_Q_NORM, R_K_NORM, R_EPS, R_Q_SCALE, R_QUANTIZED, R_POOL, R_POOL_STRIDE = slots("rope")[6:]


@njit(boundscheck=False)
def head_norm(x, n, weight, eps):
    """RMSNorm of one head in place."""
    factor = splat(ONE / np.sqrt(square_sum(x, n, ZERO) / np.float32(n) + eps))
    for i in range(0, 4 * n, 64):
        store(x + i, mul(mul(load(x + i), factor), load(weight + i)))


@njit(boundscheck=False)
def rotate(x, head_dim, kind, cos, sin):
    """Turn the pairs of one head: (i, i + head_dim/2) for kind 1, (2i, 2i + 1) for kind 2."""
    half = head_dim // 2
    step, apart = (4, 4 * half) if kind == 1 else (8, 4)
    done = half // 16 * 16 if kind == 1 else 0
    for i in range(0, 4 * done, 64):
        c, s = load(cos + i), load(sin + i)
        a, b = load(x + i), load(x + i + apart)
        store(x + i, sub(mul(a, c), mul(b, s)))
        store(x + i + apart, add(mul(b, c), mul(a, s)))
    for i in range(done, half):
        c, s = f32(cos + 4 * i), f32(sin + 4 * i)
        a, b = f32(x + step * i), f32(x + step * i + apart)
        put_f32(x + step * i, a * c - b * s)
        put_f32(x + step * i + apart, b * c + a * s)


@njit(boundscheck=False)
def put_kv(keys, slot, k, v, head_dim):
    """K and V [head_dim] of one token and head into a float32 page."""
    for i in range(head_dim):
        put_f32(keys + (i * PAGE + slot) * 4, f32(k + 4 * i))
    values = keys + PAGE * head_dim * 4 + slot * head_dim * 4
    for i in range(0, head_dim * 4, 64):
        store(values + i, load(v + i))


@njit(boundscheck=False)
def take_log2(place):
    """The float32 at place by its logarithm to base 2, at least MUTE: of 2^n * m, by a series in (m - 1) / (m + 1)."""
    bits = i32(place)
    n = (bits - HALF_ROOT) >> 23
    put_i32(place, bits - (n << 23))  # m, between the roots of 1/2 and 2
    s = (f32(place) - ONE) / (f32(place) + ONE)
    q = s * s
    log = s * (LOG2[0] + q * (LOG2[1] + q * (LOG2[2] + q * LOG2[3]))) + np.float32(n)
    put_f32(place, max(log, MUTE))


@njit(boundscheck=False)
def put_kv8(keys, slot, k, v, head_dim):
    """The same into an int8 page; k and v are overwritten by their own bytes on the way."""
    values = keys + PAGE * head_dim
    scales = values + PAGE * head_dim + 4 * slot
    quantize(k, head_dim, k, scales, 0)
    for i in range(0, head_dim, 4):
        put_i32(keys + i * PAGE + 4 * slot, i32(k + i))
    quantize(v, head_dim, v, scales + 4 * PAGE, 0)
    take_log2(scales + 4 * PAGE)
    place = values + slot % 16 * 4 * head_dim + slot // 16
    for i in range(head_dim):
        copy_signed(place + 4 * i, v + i)


def rope(op, step, thread):
    """Norm (if any) and rotation of q and k heads, scale of q, then K and V into their page slots (`kv.py` has the layout)."""
    heads, kv_heads, head_dim = get(op, R_HEADS), get(op, R_KV_HEADS), get(op, R_HEAD_DIM)
    eps, kind = np.float32(f64(op + 8 * R_EPS)), get(op, R_ROPE)
    q_scale = splat(np.float32(f64(op + 8 * R_Q_SCALE)))
    while True:
        row = fetch_add(op + 8 * COUNTER, 1)
        if row >= get(step, ROWS):
            return
        position = i32(get(step, POSITIONS) + 4 * row)
        cos = get(step, COS) + position * get(step, COS_STRIDE)
        sin = get(step, SIN) + position * get(step, COS_STRIDE)
        x = get(op, R_QKV) + row * get(op, R_QKV_STRIDE)
        for head in range(heads + kv_heads):
            at = x + head * head_dim * 4
            weight = get(op, R_Q_NORM) if head < heads else get(op, R_K_NORM)
            if weight:
                head_norm(at, head_dim, weight, eps)
            if kind:
                rotate(at, head_dim, kind, cos, sin)
            if head < heads:
                for i in range(0, head_dim * 4, 64):
                    store(at + i, mul(load(at + i), q_scale))
        sequence = i32(get(step, ROW_SEQUENCE) + 4 * row)
        table = get(step, PAGE_TABLE) + sequence * get(step, PAGE_TABLE_STRIDE)
        page = get(op, R_POOL) + i32(table + 4 * (position // PAGE)) * get(op, R_POOL_STRIDE)
        slot = position % PAGE
        for head in range(kv_heads):
            k = x + (heads + head) * head_dim * 4
            v = k + kv_heads * head_dim * 4
            if get(op, R_QUANTIZED):
                put_kv8(page + head * (2 * PAGE * head_dim + 8 * PAGE), slot, k, v, head_dim)
            else:
                put_kv(page + head * 8 * PAGE * head_dim, slot, k, v, head_dim)


KERNELS = {"embed": embed, "pick": pick, "norm": norm, "rope": rope, "glu": glu}
