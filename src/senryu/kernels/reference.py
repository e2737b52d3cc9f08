"""A numpy twin of every kernel: the tests' truth, and the path for CPUs that we have no kernel for.

A twin takes the same `Operation` and the same formats. Where a compiled kernel rounds once per step, its twin does the same in
the same order and is equal bit for bit; attention, where compiled code fuses multiply and add, is done in float64 here.
With float32 rows and matrices the same functions are the fp32 reference path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from senryu.kernels.batch import await_masks
from senryu.kernels.layout import GROUP, PAGE, Operation
from senryu.kernels.pack import unpack, unpack4, unpack16, widen

TINY, LIMIT = np.float32(1e-30), np.float32(127)
EXACT = 1024  # products of int8 by int8 that float32 sums exactly: 1024 * 127 * 128 < 2^24
EXP_LOW, EXP_HIGH, LOG2E = np.float32(-87.33654), np.float32(88.0), np.float32(1.4426950408889634)
LN2_HIGH, LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
EXP_POLYNOMIAL = np.array(
    [1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1], np.float32
)
BRIEF = (9.582852945e-3, 5.590642616e-2, 2.402409911e-1, 6.931240752e-1, 1.0)
MUTE, HALF_ROOT = np.float32(-60), 0x3F3504F3
LOG2 = tuple(np.float32(2 / (np.log(2) * n)) for n in (1, 3, 5, 7))
Step = dict[str, Any]  # the fields of layout.STEP, arrays in place of addresses


def exp(x: np.ndarray) -> np.ndarray:
    """simd.exp, step by step in float32."""
    x = np.minimum(np.maximum(x, EXP_LOW), EXP_HIGH)
    n = np.rint(x * LOG2E)
    r = (x - n * LN2_HIGH) - n * LN2_LOW
    p = np.full_like(r, EXP_POLYNOMIAL[0])
    for coefficient in EXP_POLYNOMIAL[1:]:
        p = p * r + coefficient
    y = (p * r * r + r) + np.float32(1)
    return (y.view(np.int32) + (n.astype(np.int32) << 23)).view(np.float32)


def lane_sum(x: np.ndarray) -> np.ndarray:
    """Sum over the last axis [.., n] in simd's order: sixteen running lanes, then halves."""
    total = np.zeros((*x.shape[:-1], 16), np.float32)
    for i in range(0, x.shape[-1], 16):
        total = total + x[..., i : i + 16]
    for half in (8, 4, 2, 1):
        total = total[..., :half] + total[..., half : 2 * half]
    return total[..., 0]


def quantize(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float32 [rows, n] -> (uint8 q + 128 [rows, n], float32 scale [rows])."""
    high = np.abs(x).max(axis=1)
    zero = high <= TINY
    factor = np.where(zero, np.float32(0), LIMIT / np.where(zero, np.float32(1), high))
    q = np.rint(x * factor[:, None]).astype(np.int32) + 128
    return q.astype(np.uint8), np.where(zero, np.float32(0), high / LIMIT)


def group_sums(q: np.ndarray) -> np.ndarray:
    """uint8 q + 128 [rows, n] -> int32 sums of q over each group [rows, groups]."""
    return np.add.reduceat(q.astype(np.int32) - 128, np.arange(0, q.shape[1], GROUP), axis=1, dtype=np.int32)


def put_rows(op: Operation, x: np.ndarray) -> None:
    """Rows to the operation's output: int8 with a scale (and sums, where it has a place for them), or float32 as they are."""
    rows, n = x.shape
    if op.out_scale is None:
        op.out[:rows, :n] = x
        return
    op.out[:rows, :n], op.out_scale[:rows] = quantize(x)
    if op.out_sums is not None:
        op.out_sums[:rows] = group_sums(op.out[:rows, :n])


def embed(op: Operation, step: Step) -> None:
    rows = op.table[step["tokens"]]
    if op.half:
        rows = (rows.astype(np.uint32) << 16).view(np.float32)
    op.x[: len(rows), : op.hidden] = rows


def pick(op: Operation, step: Step) -> None:
    op.out[: step["sampled"], : op.n] = op.x[step["sample_rows"], : op.n]


def norm(op: Operation, step: Step) -> None:
    x = op.x[: step[op.rows], : op.n]
    count = np.float32(op.n)
    if op.centred:
        x = x - (lane_sum(x) / count)[:, None]
    factor = np.float32(1) / np.sqrt(lane_sum(x * x) / count + np.float32(op.eps))
    put_rows(op, x * factor[:, None] * op.weight)


def gemm(op: Operation, step: Step) -> None:
    """By the matrix's format."""
    {8: gemm8, 4: gemm4, 16: gemm16, 32: gemm16}[op.format](op, step)


def gemm8(op: Operation, step: Step) -> None:
    rows = step[op.rows]
    q, w = op.a[:rows, : op.k].astype(np.float32) - 128, unpack(op.w)
    total = np.zeros((rows, len(w)))
    for i in range(0, op.k, EXACT):
        total += q[:, i : i + EXACT] @ w[:, i : i + EXACT].T.astype(np.float32)
    put_results(op, total.astype(np.float32) * op.w_scale * op.a_scale[:rows, None] + op.bias)


def gemm4(op: Operation, step: Step) -> None:
    """A group's dot of nibbles and q, less 8 times the group's sum of q, is a whole number below 2^24: exact in float32."""
    rows = step[op.rows]
    q, w, scale = op.a[:rows, : op.k].astype(np.float32) - 128, unpack4(op.w), widen(op.w_scale)
    value = np.zeros((rows, len(w)), np.float32)
    for group in range(scale.shape[1]):
        part = slice(group * GROUP, (group + 1) * GROUP)
        dot = q[:, part] @ w[:, part].T.astype(np.float32) - 8 * op.a_sums[:rows, group, None].astype(np.float32)
        value = value + dot * scale[:, group].reshape(-1)
    put_results(op, value * op.a_scale[:rows, None] + op.bias)


def gemm16(op: Operation, step: Step) -> None:
    """float32 rows; the matrix packed bfloat16, or for the fp32 reference path float32 [n, k] as it is."""
    w = unpack16(op.w) if op.w.dtype == np.uint16 else op.w
    put_results(op, op.a[: step[op.rows], : op.k] @ w.T + op.bias[: len(w)])


def put_results(op: Operation, value: np.ndarray) -> None:
    """What a matrix made, written or added."""
    out = op.out[: len(value), : value.shape[1]]
    out[...] = out + value if op.add else value


def rotate(x: np.ndarray, kind: int, cos: np.ndarray, sin: np.ndarray) -> np.ndarray:
    """Heads [rows, heads, head_dim] turned by cos, sin [rows, head_dim / 2]."""
    if kind == 0:
        return x
    pairs = x.reshape(*x.shape[:2], 2, -1) if kind == 1 else x.reshape(*x.shape[:2], -1, 2).swapaxes(2, 3)
    a, b = pairs[:, :, 0], pairs[:, :, 1]
    c, s = cos[:, None], sin[:, None]
    turned = np.stack([a * c - b * s, b * c + a * s], axis=2 if kind == 1 else 3)
    return turned.reshape(x.shape)


def head_norm(x: np.ndarray, weight: np.ndarray | None, eps: float) -> np.ndarray:
    if weight is None:
        return x
    factor = np.float32(1) / np.sqrt(lane_sum(x * x) / np.float32(x.shape[-1]) + np.float32(eps))
    return x * factor[..., None] * weight


def rope(op: Operation, step: Step) -> None:
    rows, positions = step["rows"], step["positions"]
    cos, sin = step["cos"][positions], step["sin"][positions]
    width = op.heads + 2 * op.kv_heads
    x = op.qkv[:rows, : width * op.head_dim].reshape(rows, width, op.head_dim)
    q, k, v = np.split(x, [op.heads, op.heads + op.kv_heads], axis=1)
    q = rotate(head_norm(q, op.q_norm, op.eps), op.rope, cos, sin) * np.float32(op.q_scale)
    k = rotate(head_norm(k, op.k_norm, op.eps), op.rope, cos, sin)
    op.qkv[:rows, : (op.heads + op.kv_heads) * op.head_dim] = np.concatenate([q, k], axis=1).reshape(rows, -1)
    pages = step["page_table"][step["row_sequence"], positions // PAGE]
    if op.quantized:
        put_kv8(op, pages, positions % PAGE, k, v)
        return
    keys, values = halves(op.pool, op.head_dim)
    keys[pages, :, :, positions % PAGE] = k
    values[pages, :, positions % PAGE] = v


def halves(pool: np.ndarray, head_dim: int) -> tuple[np.ndarray, np.ndarray]:
    """K [pages, kv_heads, head_dim, 64] and V [pages, kv_heads, 64, head_dim] of a layer's pool, as views."""
    pages, kv_heads = pool.shape[:2]
    return pool[:, :, 0].reshape(pages, kv_heads, head_dim, PAGE), pool[:, :, 1].reshape(pages, kv_heads, PAGE, head_dim)


def parts8(pool: np.ndarray, head_dim: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """K uint8 [pages, kv_heads, head_dim / 4, 64, 4], V int8 [pages, kv_heads, 16, head_dim, 4] (token 16j + i in [i, :, j]),
    float32 [pages, kv_heads, 128] (scales of K, then logarithms of V's) of a layer's int8 pool, as views."""
    pages, kv_heads = pool.shape[:2]
    n = PAGE * head_dim
    keys = pool[..., :n].reshape(pages, kv_heads, head_dim // 4, PAGE, 4)
    values = pool[..., n : 2 * n].view(np.int8).reshape(pages, kv_heads, PAGE // 4, head_dim, 4)
    return keys, values, pool[..., 2 * n :].view(np.float32)


def log2(x: np.ndarray) -> np.ndarray:
    """fused.take_log2, step by step in float32."""
    bits = x.view(np.int32)
    n = (bits - HALF_ROOT) >> 23
    m = (bits - (n << 23)).view(np.float32)
    s = (m - np.float32(1)) / (m + np.float32(1))
    q = s * s
    return np.maximum(s * (LOG2[0] + q * (LOG2[1] + q * (LOG2[2] + q * LOG2[3]))) + n.astype(np.float32), MUTE)


def put_kv8(op: Operation, pages: np.ndarray, slots: np.ndarray, k: np.ndarray, v: np.ndarray) -> None:
    keys, values, scales = parts8(op.pool, op.head_dim)
    rows = len(pages)
    for x, first in ((k, 0), (v, PAGE)):
        q, scale = quantize(x.reshape(-1, op.head_dim))
        scales[pages, :, first + slots] = (log2(scale) if first else scale).reshape(rows, -1)
        q = q.reshape(rows, op.kv_heads, op.head_dim)
        if first:
            values[pages, :, slots % 16, :, slots // 16] = q.astype(np.int16) - 128
        else:
            keys[pages, :, :, slots] = q.reshape(rows, op.kv_heads, -1, 4)


def visible(op: Operation, step: Step) -> Iterator[tuple[slice, np.ndarray, np.ndarray, np.ndarray]]:
    """Of each sequence: its rows, their positions, the pages that some row sees, and which of their tokens each row sees."""
    for sequence in range(step["sequences"]):
        rows = slice(step["row_start"][sequence], step["row_start"][sequence + 1])
        positions = step["positions"][rows]
        first = max(0, int(positions[0]) - op.window + 1) // PAGE if op.window else 0
        pages = step["page_table"][sequence, first : int(positions[-1]) // PAGE + 1]
        distance = positions[:, None] - (first * PAGE + np.arange(len(pages) * PAGE))
        yield rows, positions, pages, (distance >= 0) & ((distance < op.window) if op.window else True)


def brief_power(x: np.ndarray) -> np.ndarray:
    """2^x, x <= 0, by softmax.BRIEF in float64."""
    x = np.maximum(x, -100)
    whole = np.rint(x)
    return np.polyval(BRIEF, x - whole) * np.exp2(whole)


def attend8(op: Operation, step: Step) -> None:
    """Attention over int8 pages: whole numbers as in kernels/kv.py, everything else in float64."""
    keys, values, scales = parts8(op.pool, op.head_dim)
    group, width = op.heads // op.kv_heads, op.heads * op.head_dim
    for rows, positions, pages, seen in visible(op, step):
        k = keys[pages].transpose(1, 2, 4, 0, 3).reshape(op.kv_heads, op.head_dim, -1).astype(np.float64) - 128
        v = values[pages].transpose(1, 0, 4, 2, 3).reshape(op.kv_heads, -1, op.head_dim).astype(np.float64)
        scale = scales[pages].transpose(1, 0, 2).astype(np.float64)
        k_scale, v_scale = (part.reshape(op.kv_heads, 1, 1, -1) for part in (scale[..., :PAGE], scale[..., PAGE:]))
        q, q_scale = quantize(op.qkv[rows, :width].reshape(-1, op.head_dim))
        q = (q.astype(np.float64) - 128).reshape(len(positions), op.kv_heads, group, op.head_dim).transpose(1, 2, 0, 3)
        q_scale = q_scale.astype(np.float64).reshape(len(positions), op.kv_heads, group, 1).transpose(1, 2, 0, 3)
        scores = np.where(seen, q @ k[:, None] * k_scale * q_scale / np.log(2) + v_scale, -1e30)
        scores = scores.reshape(*scores.shape[:3], -1, PAGE)
        tops = scores.max(axis=-1, keepdims=True)
        scaled = np.where(scores > -1e29, brief_power(scores - tops), 0)  # weights x V's scales, 1 for a page's heaviest
        worth = np.exp2(tops - tops.max(axis=-2, keepdims=True))
        rounded = np.rint(scaled * 127) / 127 * worth
        weights = scaled * worth * np.exp2(-v_scale).reshape(-1, 1, 1, *scores.shape[3:])
        mixed = rounded.reshape(*q.shape[:3], -1) @ v[:, None] / weights.sum(axis=(-2, -1))[..., None]
        op.out[rows, :width] = mixed.transpose(2, 0, 1, 3).reshape(len(positions), width)


def attend(op: Operation, step: Step) -> None:
    if op.quantized:
        attend8(op, step)
        return
    keys, values = halves(op.pool, op.head_dim)
    group, width = op.heads // op.kv_heads, op.heads * op.head_dim
    for rows, positions, pages, seen in visible(op, step):
        k = keys[pages].transpose(1, 2, 0, 3).reshape(op.kv_heads, op.head_dim, -1).astype(np.float64)
        v = values[pages].transpose(1, 0, 2, 3).reshape(op.kv_heads, -1, op.head_dim).astype(np.float64)
        q = op.qkv[rows, :width].reshape(len(positions), op.kv_heads, group, op.head_dim).transpose(1, 2, 0, 3)
        scores = q.astype(np.float64) @ k[:, None]
        scores = np.where(seen, scores, -np.inf)
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        v = np.where(np.asarray(seen.any(axis=0))[:, None], v, 0)  # unwritten slots may hold nan, and 0 * nan is nan
        mixed = (weights / weights.sum(axis=-1, keepdims=True)) @ v[:, None]
        op.out[rows, :width] = mixed.transpose(2, 0, 1, 3).reshape(len(positions), width)


def gather(op: Operation, step: Step) -> None:
    rows = slice(step["rows"]) if op.rows == "rows" else step["sample_rows"]
    put_rows(op, op.x[rows, : op.heads * op.head_dim])


def hadamard(x: np.ndarray, block: int) -> np.ndarray:
    """Walsh-Hadamard transform (unnormalised, symmetric) of every `block` values of the last axis; 0 leaves them."""
    half = block // 2
    while half:
        pairs = x.reshape(*x.shape[:-1], x.shape[-1] // (2 * half), 2, half)  # no -1: a step may sample no row
        a, b = pairs[..., 0, :], pairs[..., 1, :]
        x = np.stack([a + b, a - b], axis=-2).reshape(x.shape)
        half //= 2
    return x


def glu(op: Operation, step: Step) -> None:
    gate, up = op.x[: step[op.rows], : op.n], op.x[: step[op.rows], op.n : 2 * op.n]
    product = hadamard(gate * (np.float32(1) / (np.float32(1) + exp(np.float32(0) - gate))) * up, op.block)
    op.x[: step[op.rows], : op.n] = product
    put_rows(op, product)


def plan(op: Operation, step: Step) -> None:
    step["row_sequence"] = np.repeat(np.arange(step["sequences"]), np.diff(step["row_start"]))


def mix(z: int) -> int:
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
    return z ^ (z >> 31)


def uniform(seed: int, position: int) -> float:
    """The draw of sample.py: [0, 1) from (seed, position)."""
    golden, whole = 0x9E3779B97F4A7C15, 0xFFFFFFFFFFFFFFFF
    return (mix((mix((seed + golden) & whole) + position * golden) & whole) >> 11) * 2.0**-53


def distribution(logits: np.ndarray, temperature: float, top_k: int, top_p: float) -> np.ndarray:
    """float64 weights of the tokens that may be drawn, 0 for the others and for logits of -inf; not normalised."""
    inverse = np.float32(1) / max(np.float32(temperature), np.float32(1e-5))
    weights = np.where(np.isneginf(logits), 0, exp((logits - logits.max()) * inverse).astype(np.float64))
    order = np.argsort(-weights, kind="stable")
    kept = top_k if 0 < top_k < len(weights) else len(weights)
    if top_p < 1:
        cumulative = np.cumsum(weights[order[:kept]])
        kept = min(kept, int(np.searchsorted(cumulative, float(np.float32(top_p)) * cumulative[-1])) + 1)
    result = np.zeros(len(weights))
    result[order[:kept]] = weights[order[:kept]]
    return result


def allowed(mask: np.ndarray, vocab: int) -> np.ndarray:
    """bool [vocab] of a mask, uint32 [ceil(vocab / 32)]."""
    return np.unpackbits(mask.view(np.uint8), bitorder="little")[:vocab].astype(bool)


def sample(op: Operation, step: Step) -> None:
    masks = step.get("masks")
    if masks is not None:
        await_masks(step["masks_ready"])
    for row in range(step["sampled"]):
        logits = op.logits[row, : op.vocab]
        if masks is not None:
            logits[~allowed(masks[row], op.vocab)] = -np.inf
        if step["temperature"][row] > 0:
            weights = distribution(logits, step["temperature"][row], int(step["top_k"][row]), float(step["top_p"][row]))
            position = int(step["positions"][step["sample_rows"][row]])
            cumulative = np.cumsum(weights)
            target = uniform(int(step["seeds"][row]), position) * cumulative[-1]
            op.out[row] = min(int(np.searchsorted(cumulative, target, side="right")), int(np.flatnonzero(weights)[-1]))
        else:
            op.out[row] = int(np.argmax(logits))


TWINS: dict[str, Callable[[Operation, Step], None]] = {
    function.__name__: function for function in (plan, embed, pick, norm, gemm, rope, attend, gather, glu, sample)
}


def run(operations: list[Operation], step: Step) -> None:
    """The whole forward pass: what forward.step does, by the twins."""
    with np.errstate(under="ignore"):
        for op in operations:
            TWINS[op.kind](op, step)
