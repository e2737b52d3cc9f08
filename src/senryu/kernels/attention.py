"""Paged attention with grouped queries and sliding windows: the same arithmetic for prefill rows and decode rows.

The query heads that share a K/V head are worked on together, four vectors to a tile, so K/V is read once for all of them.
A vector's softmax runs page by page in order, starts afresh every SEGMENT pages, and the segments are merged in order.
So a long sequence may be split over threads by segments without changing one bit of the result.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from senryu.kernels.fused import (
    PAGE_TABLE,
    PAGE_TABLE_STRIDE,
    POSITIONS,
    ROW_SEQUENCE,
    ROW_START,
    ROWS,
    SEQUENCES,
    ZERO,
    quantize,
)
from senryu.kernels.layout import COUNTER, PAGE, SEGMENT, STATE_EXTRA, STEP, slots
from senryu.kernels.layout import QUERY_BLOCK as BLOCK
from senryu.kernels.simd import (
    F32,
    I64,
    V16F,
    add,
    at,
    broadcast,
    div,
    emit_fma,
    exp_negative,
    fetch_add,
    get,
    i32,
    keep,
    load,
    max_lanes,
    maximum,
    mul,
    offset,
    put_f32,
    put_i32,
    put_i64,
    splat,
    store,
    sub,
    sum_lanes,
)
from senryu.kernels.target import target

TILE = 4  # query vectors of one register tile
NEVER = np.float32(-1e30)  # below every score
ITEMS, ITEM_START, SPLIT, SLOTS, SEQUENCE_SLOT = (
    STEP.index(name) for name in ("items", "item_start", "split", "slots", "sequence_slot")
)


def float_tile(columns: int, scaled: bool) -> Any:
    """c [4, 16 * columns] = a [4, k] @ b [k, 16 * columns], plus c * alpha when scaled; all float32, k in order, fused."""

    @intrinsic
    def kernel(typingctx, a0, a1, a2, a3, k, b, b_stride, c, c_stride, alpha):
        def lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            _emit_float_tile(builder, columns, scaled, args)
            return context.get_dummy_value()

        return types.void(*([types.int64] * 10)), lower

    return kernel


def _emit_float_tile(b: ir.IRBuilder, columns: int, scaled: bool, args: list[ir.Value]) -> None:
    *rows, k, right, right_stride, out, out_stride, alpha = args
    cells = [(r, c) for r in range(TILE) for c in range(columns)]
    target = {(r, c): at(b, offset(b, b.add(out, b.mul(out_stride, ir.Constant(I64, r))), 64 * c), V16F) for r, c in cells}
    start = {cell: ir.Constant(V16F, [0.0] * 16) for cell in cells}
    if scaled:
        factor = [broadcast(b, b.load(at(b, offset(b, alpha, 4 * r), F32), align=4), V16F) for r in range(TILE)]
        start = {(r, c): b.fmul(b.load(target[r, c], align=64), factor[r]) for r, c in cells}
    entry, loop, done = b.block, b.append_basic_block("k"), b.append_basic_block("done")
    b.branch(loop)
    b.position_at_end(loop)
    i, line = b.phi(I64), b.phi(I64)
    sums = {cell: b.phi(V16F) for cell in cells}
    four = b.mul(i, ir.Constant(I64, 4))
    right_values = [b.load(at(b, offset(b, line, 64 * c), V16F), align=64) for c in range(columns)]
    new = {}
    for r in range(TILE):
        left = broadcast(b, b.load(at(b, b.add(rows[r], four), F32), align=4), V16F)
        for c in range(columns):
            new[r, c] = emit_fma(b, left, right_values[c], sums[r, c])
    following = b.add(i, ir.Constant(I64, 1))
    for phi, first, then in [(i, ir.Constant(I64, 0), following), (line, right, b.add(line, right_stride))]:
        phi.add_incoming(first, entry)
        phi.add_incoming(then, loop)
    for cell in cells:
        sums[cell].add_incoming(start[cell], entry)
        sums[cell].add_incoming(new[cell], loop)
    b.cbranch(b.icmp_signed("<", following, k), loop, done)
    b.position_at_end(done)
    for cell in cells:
        b.store(new[cell], target[cell], align=64)


WIDE = target().float_blocks  # 16-column blocks of a tile that registers hold
SCORE_TILE, VALUE_TILE, VALUE_TILE_NARROW = float_tile(WIDE, False), float_tile(WIDE, True), float_tile(1, True)

P_HEADS, P_KV_HEADS, P_THREADS, P_CAPACITY = slots("plan")


@njit(boundscheck=False)
def sequence_shape(step, sequence, group):
    """(query vectors per K/V head, their blocks, segments of K/V) of one sequence."""
    first, end = i32(get(step, ROW_START) + 4 * sequence), i32(get(step, ROW_START) + 4 * sequence + 4)
    vectors = (end - first) * group
    segments = i32(get(step, POSITIONS) + 4 * (end - 1)) // (PAGE * SEGMENT) + 1
    return vectors, (vectors + BLOCK - 1) // BLOCK, segments


def plan(op, step, thread):
    """Once a step: which sequence each row belongs to, attention's work items, and which sequences are split by segments."""
    if fetch_add(op + 8 * COUNTER, 1):
        return
    kv_heads, sequences = get(op, P_KV_HEADS), get(step, SEQUENCES)
    group = get(op, P_HEADS) // kv_heads
    plain = 0
    for sequence in range(sequences):
        for row in range(i32(get(step, ROW_START) + 4 * sequence), i32(get(step, ROW_START) + 4 * sequence + 4)):
            put_i32(get(step, ROW_SEQUENCE) + 4 * row, sequence)
        plain += kv_heads * sequence_shape(step, sequence, group)[1]
    few = get(op, P_THREADS) > 1 and plain < 4 * get(op, P_THREADS)
    items, used = 0, 0
    for sequence in range(sequences):
        vectors, blocks, segments = sequence_shape(step, sequence, group)
        need = kv_heads * vectors * segments
        divide = few and blocks == 1 and segments > 1 and used + need <= get(op, P_CAPACITY)
        put_i32(get(step, ITEM_START) + 4 * sequence, items)
        put_i32(get(step, SPLIT) + 4 * sequence, segments if divide else 0)
        put_i32(get(step, SEQUENCE_SLOT) + 4 * sequence, used)
        items += kv_heads * (segments if divide else blocks)
        used += need if divide else 0
    put_i32(get(step, ITEM_START) + 4 * sequences, items)
    put_i64(step + 8 * ITEMS, items)


@njit(boundscheck=False)
def clear(state, head_dim):
    """The state of a vector that has seen nothing: sums and weights 0, maximum NEVER."""
    for i in range(0, head_dim + STATE_EXTRA // 2, 16):
        store(state + 4 * i, splat(ZERO))
    store(state + 4 * (head_dim + STATE_EXTRA // 2), splat(NEVER))


@njit(boundscheck=False)
def merge(total, part, head_dim):
    """total += part, both states; a part that has seen nothing changes nothing."""
    weights, top = 4 * head_dim, 4 * (head_dim + STATE_EXTRA // 2)
    if sum_lanes(load(part + weights)) == ZERO:
        return
    high = maximum(load(total + top), load(part + top))
    a, b = exp_negative(sub(load(total + top), high)), exp_negative(sub(load(part + top), high))
    for i in range(0, top, 64):
        store(total + i, add(mul(load(total + i), a), mul(load(part + i), b)))
    store(total + top, high)


@njit(boundscheck=False)
def finish(state, head_dim, out):
    """out [head_dim] = sums / total weight."""
    weight = splat(sum_lanes(load(state + 4 * head_dim)))
    for i in range(0, 4 * head_dim, 64):
        store(out + i, div(load(state + i), weight))


@njit(boundscheck=False)
def soften(scores, state, alpha, head_dim, first, end):
    """Scores of one page (lanes first..end valid) to weights exp(s - max); the old sums must shrink by alpha."""
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
    store(scores, s0)
    store(scores + 64, s1)
    store(scores + 128, s2)
    store(scores + 192, s3)
    total = add(add(s0, s1), add(s2, s3))
    weights = state + 4 * head_dim
    store(weights, add(mul(load(weights), shrink), total))
    store(top, high)
    put_f32(alpha, max_lanes(shrink))


A_QKV, A_QKV_STRIDE, A_HEADS, A_KV_HEADS, A_HEAD_DIM, A_WINDOW, A_POOL, A_POOL_STRIDE = slots("attend")[:8]
A_OUT, A_OUT_STRIDE, A_SCRATCH, A_SCRATCH_STRIDE, A_PARTIAL, A_PARTIAL_STRIDE = slots("attend")[8:]


@njit(boundscheck=False)
def query(op, row, vector, head):
    """Address of query vector `vector` (counted over rows, then heads of the group) of K/V head `head`."""
    group = get(op, A_HEADS) // get(op, A_KV_HEADS)
    column = (head * group + vector % group) * get(op, A_HEAD_DIM) * 4
    return get(op, A_QKV) + (row + vector // group) * get(op, A_QKV_STRIDE) + column


@njit(boundscheck=False)
def page_scores(op, keys, row, vector, count, head, scores):
    """scores [count, 64] = q . K of one page."""
    last = vector + count - 1
    for i in range(0, count, TILE):
        v = vector + i
        q0, q1 = query(op, row, v, head), query(op, row, min(v + 1, last), head)
        q2, q3 = query(op, row, min(v + 2, last), head), query(op, row, min(v + 3, last), head)
        for block in range(0, 4 * PAGE, 64 * WIDE):
            out = scores + i * 4 * PAGE + block
            SCORE_TILE(q0, q1, q2, q3, get(op, A_HEAD_DIM), keys + block, 4 * PAGE, out, 4 * PAGE, 0)


@njit(boundscheck=False)
def page_values(head_dim, values, count, scores, states, state_bytes, alphas):
    """Sums of states = sums * alpha + weights @ V of one page."""
    for i in range(0, count, TILE):
        a, state, alpha = scores + i * 4 * PAGE, states + i * state_bytes, alphas + 4 * i
        column = 0
        while column < head_dim:
            right, out = values + 4 * column, state + 4 * column
            a1, a2, a3 = a + 4 * PAGE, a + 8 * PAGE, a + 12 * PAGE
            if column + 16 * WIDE <= head_dim:
                VALUE_TILE(a, a1, a2, a3, PAGE, right, 4 * head_dim, out, state_bytes, alpha)
                column += 16 * WIDE
            else:
                VALUE_TILE_NARROW(a, a1, a2, a3, PAGE, right, 4 * head_dim, out, state_bytes, alpha)
                column += 16


@njit(boundscheck=False)
def attend_segment(op, step, table, row, vector, count, head, segment, scratch):
    """States at `scratch` of `count` query vectors over the pages of one segment that they may see."""
    head_dim, window = get(op, A_HEAD_DIM), get(op, A_WINDOW)
    group = get(op, A_HEADS) // get(op, A_KV_HEADS)
    state_bytes = 4 * (head_dim + STATE_EXTRA)
    scores = scratch + BLOCK * state_bytes
    alphas = scores + BLOCK * PAGE * 4
    for i in range(count):
        clear(scratch + i * state_bytes, head_dim)
    positions = get(step, POSITIONS) + 4 * row
    low = i32(positions + 4 * (vector // group)) - window + 1
    high = i32(positions + 4 * ((vector + count - 1) // group))
    first = max(segment * SEGMENT, low // PAGE if window and low > 0 else 0)
    end = min((segment + 1) * SEGMENT, high // PAGE + 1)
    for page in range(first, end):
        keys = get(op, A_POOL) + i32(table + 4 * page) * get(op, A_POOL_STRIDE) + head * 2 * head_dim * PAGE * 4
        page_scores(op, keys, row, vector, count, head, scores)
        for i in range(count):
            position = i32(positions + 4 * ((vector + i) // group))
            start = position - window + 1 - page * PAGE if window else 0
            stop = position + 1 - page * PAGE
            soften(scores + i * 4 * PAGE, scratch + i * state_bytes, alphas + 4 * i, head_dim, start, stop)
        page_values(head_dim, keys + head_dim * PAGE * 4, count, scores, scratch, state_bytes, alphas)


def attend(op, step, thread):
    """Work items: (sequence, K/V head, block of query vectors), or (sequence, K/V head, segment) where the plan says split."""
    kv_heads, head_dim = get(op, A_KV_HEADS), get(op, A_HEAD_DIM)
    group = get(op, A_HEADS) // kv_heads
    state_bytes = 4 * (head_dim + STATE_EXTRA)
    totals = get(op, A_SCRATCH) + thread * get(op, A_SCRATCH_STRIDE)
    scratch = totals + BLOCK * state_bytes
    while True:
        item = fetch_add(op + 8 * COUNTER, 1)
        if item >= get(step, ITEMS):
            return
        sequence = 0
        while i32(get(step, ITEM_START) + 4 * sequence + 4) <= item:
            sequence += 1
        item -= i32(get(step, ITEM_START) + 4 * sequence)
        row = i32(get(step, ROW_START) + 4 * sequence)
        table = get(step, PAGE_TABLE) + sequence * get(step, PAGE_TABLE_STRIDE)
        vectors, blocks, segments = sequence_shape(step, sequence, group)
        if i32(get(step, SPLIT) + 4 * sequence):
            head, segment = item // segments, item % segments
            attend_segment(op, step, table, row, 0, vectors, head, segment, scratch)
            slot = i32(get(step, SEQUENCE_SLOT) + 4 * sequence) + head * vectors * segments + segment
            for i in range(vectors):
                target = get(op, A_PARTIAL) + (slot + i * segments) * get(op, A_PARTIAL_STRIDE)
                for byte in range(0, state_bytes, 64):
                    store(target + byte, load(scratch + i * state_bytes + byte))
            continue
        head, vector = item % kv_heads, (blocks - 1 - item // kv_heads) * BLOCK  # the longest first
        count = min(BLOCK, vectors - vector)
        low = i32(get(step, POSITIONS) + 4 * (row + vector // group)) - get(op, A_WINDOW) + 1
        high = i32(get(step, POSITIONS) + 4 * (row + (vector + count - 1) // group))
        begin = low // (PAGE * SEGMENT) if get(op, A_WINDOW) and low > 0 else 0
        for i in range(count):
            clear(totals + i * state_bytes, head_dim)
        for segment in range(begin, high // (PAGE * SEGMENT) + 1):
            attend_segment(op, step, table, row, vector, count, head, segment, scratch)
            for i in range(count):
                merge(totals + i * state_bytes, scratch + i * state_bytes, head_dim)
        for i in range(count):
            column = (head * group + (vector + i) % group) * head_dim * 4
            target = get(op, A_OUT) + (row + (vector + i) // group) * get(op, A_OUT_STRIDE) + column
            finish(totals + i * state_bytes, head_dim, target)


C_X, C_X_STRIDE, C_HEADS, C_KV_HEADS, C_HEAD_DIM, C_PARTIAL, C_PARTIAL_STRIDE, C_OUT, C_OUT_STRIDE, C_SCALE = slots("gather")


def gather(op, step, thread):
    """Rows of attention's output to int8; rows of split sequences are merged from their segments first."""
    heads, kv_heads, head_dim = get(op, C_HEADS), get(op, C_KV_HEADS), get(op, C_HEAD_DIM)
    group = heads // kv_heads
    while True:
        row = fetch_add(op + 8 * COUNTER, 1)
        if row >= get(step, ROWS):
            return
        x = get(op, C_X) + row * get(op, C_X_STRIDE)
        sequence = i32(get(step, ROW_SEQUENCE) + 4 * row)
        segments = i32(get(step, SPLIT) + 4 * sequence)
        if segments:
            vectors = sequence_shape(step, sequence, group)[0]
            vector = (row - i32(get(step, ROW_START) + 4 * sequence)) * group
            for head in range(heads):
                slot = i32(get(step, SEQUENCE_SLOT) + 4 * sequence)
                slot += (head // group * vectors + vector + head % group) * segments
                # merged into its own first part: the same as into a cleared state, since exp(0) is exactly 1
                total = get(op, C_PARTIAL) + slot * get(op, C_PARTIAL_STRIDE)
                for segment in range(1, segments):
                    merge(total, total + segment * get(op, C_PARTIAL_STRIDE), head_dim)
                finish(total, head_dim, x + head * head_dim * 4)
        quantize(x, heads * head_dim, get(op, C_OUT) + row * get(op, C_OUT_STRIDE), get(op, C_SCALE) + 4 * row)


KERNELS = {"plan": plan, "attend": attend, "gather": gather}
