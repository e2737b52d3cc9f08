"""Paged attention with grouped queries and sliding windows: the same arithmetic for prefill rows and decode rows.

The query heads that share a K/V head are worked on together, four vectors to a tile, so K/V is read once for all of them.
A vector's softmax runs page by page in order, starts afresh every SEGMENT pages, and the segments are merged in order.
So a long sequence may be split over threads by segments without changing one bit of the result.
"""

from __future__ import annotations

from numba import njit

from senryu.kernels.fused import (
    PAGE_TABLE,
    PAGE_TABLE_STRIDE,
    POSITIONS,
    ROW_SEQUENCE,
    ROW_START,
    ROWS,
    SAMPLE_ROWS,
    SAMPLED,
    SEQUENCES,
    ZERO,
    put_row,
)
from senryu.kernels.kv import NEVER, SCORES, TILE, WIDE, head_bytes, page_scores8, page_values, round_query, soften
from senryu.kernels.layout import COUNTER, PAGE, SEGMENT, STATE_EXTRA, STEP, slots
from senryu.kernels.layout import QUERY_BLOCK as BLOCK
from senryu.kernels.simd import (
    add,
    div,
    exp_negative,
    fetch_add,
    get,
    i32,
    load,
    maximum,
    mul,
    put_i32,
    put_i64,
    splat,
    store,
    sub,
    sum_lanes,
)

ITEMS, ITEM_START, SPLIT, SLOTS, SEQUENCE_SLOT = (
    STEP.index(name) for name in ("items", "item_start", "split", "slots", "sequence_slot")
)

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


A_QKV, A_QKV_STRIDE, A_HEADS, A_KV_HEADS, A_HEAD_DIM, A_WINDOW, A_QUANTIZED, A_POOL, A_POOL_STRIDE = slots("attend")[:9]
A_OUT, A_OUT_STRIDE, A_SCRATCH, A_SCRATCH_STRIDE, A_PARTIAL, A_PARTIAL_STRIDE, A_ROWS = slots("attend")[9:]


@njit(boundscheck=False)
def query(op, row, vector, head):
    """Address of query vector `vector` (counted over rows, then heads of the group) of K/V head `head`."""
    group = get(op, A_HEADS) // get(op, A_KV_HEADS)
    column = (head * group + vector % group) * get(op, A_HEAD_DIM) * 4
    return get(op, A_QKV) + (row + vector // group) * get(op, A_QKV_STRIDE) + column


@njit(boundscheck=False)
def page_scores(op, keys, row, vector, count, head, scores):
    """scores [count, 64] = q . K of one float32 page."""
    last = vector + count - 1
    for i in range(0, count, TILE):
        v = vector + i
        q0, q1 = query(op, row, v, head), query(op, row, min(v + 1, last), head)
        q2, q3 = query(op, row, min(v + 2, last), head), query(op, row, min(v + 3, last), head)
        for block in range(0, 4 * PAGE, 64 * WIDE):
            out = scores + i * 4 * PAGE + block
            SCORES(q0, q1, q2, q3, get(op, A_HEAD_DIM), keys + block, 4 * PAGE, out, 4 * PAGE, 0)


@njit(boundscheck=False)
def attend_segment(op, step, table, row, vector, count, head, segment, states):
    """States of `count` query vectors over the pages of one segment that they may see."""
    head_dim, window, quantized = get(op, A_HEAD_DIM), get(op, A_WINDOW), get(op, A_QUANTIZED)
    group = get(op, A_HEADS) // get(op, A_KV_HEADS)
    state_bytes = 4 * (head_dim + STATE_EXTRA)
    scratch = states + BLOCK * state_bytes
    for i in range(count):
        clear(states + i * state_bytes, head_dim)
    positions = get(step, POSITIONS) + 4 * row
    low = i32(positions + 4 * (vector // group)) - window + 1
    high = i32(positions + 4 * ((vector + count - 1) // group))
    first = max(segment * SEGMENT, low // PAGE if window and low > 0 else 0)
    end = min((segment + 1) * SEGMENT, high // PAGE + 1)
    size = head_bytes(head_dim, quantized)
    for page in range(first, end):
        keys = get(op, A_POOL) + i32(table + 4 * page) * get(op, A_POOL_STRIDE) + head * size
        values = keys + PAGE * head_dim * (1 if quantized else 4)
        v_scale = values + PAGE * head_dim + 4 * PAGE if quantized else 0
        if quantized:
            page_scores8(keys, head_dim, count, scratch)
        else:
            page_scores(op, keys, row, vector, count, head, scratch)
        for i in range(count):
            position = i32(positions + 4 * ((vector + i) // group))
            start = position - window + 1 - page * PAGE if window else 0
            stop = position + 1 - page * PAGE
            soften(scratch + i * 4 * PAGE, states + i * state_bytes, i, scratch, head_dim, start, stop, v_scale)
        page_values(head_dim, values, count, scratch, states, state_bytes, quantized)


@njit(boundscheck=False)
def round_queries(op, row, vector, count, head, scratch):
    """A block's query vectors to int8, once for all its pages."""
    if get(op, A_QUANTIZED):
        for i in range(count):
            round_query(query(op, row, vector + i, head), get(op, A_HEAD_DIM), i, scratch)


@njit(boundscheck=False)
def wanted(op, step, first, last):
    """Whether any of the rows first..last is worked on."""
    if get(op, A_ROWS) == ROWS or get(step, SAMPLED) == get(step, ROWS):
        return True
    for i in range(get(step, SAMPLED)):  # noqa: SIM110 - Numba has no generators
        if first <= i32(get(step, SAMPLE_ROWS) + 4 * i) <= last:
            return True
    return False


def attend(op, step, thread):
    """Work items: (sequence, K/V head, block of query vectors), or (sequence, K/V head, segment) where the plan says split."""
    kv_heads, head_dim = get(op, A_KV_HEADS), get(op, A_HEAD_DIM)
    group = get(op, A_HEADS) // kv_heads
    state_bytes = 4 * (head_dim + STATE_EXTRA)
    totals = get(op, A_SCRATCH) + thread * get(op, A_SCRATCH_STRIDE)
    states = totals + BLOCK * state_bytes
    scratch = states + BLOCK * state_bytes
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
            round_queries(op, row, 0, vectors, head, scratch)
            attend_segment(op, step, table, row, 0, vectors, head, segment, states)
            slot = i32(get(step, SEQUENCE_SLOT) + 4 * sequence) + head * vectors * segments + segment
            for i in range(vectors):
                target = get(op, A_PARTIAL) + (slot + i * segments) * get(op, A_PARTIAL_STRIDE)
                for byte in range(0, state_bytes, 64):
                    store(target + byte, load(states + i * state_bytes + byte))
            continue
        head, vector = item % kv_heads, (blocks - 1 - item // kv_heads) * BLOCK  # the longest first
        count = min(BLOCK, vectors - vector)
        if not wanted(op, step, row + vector // group, row + (vector + count - 1) // group):
            continue
        low = i32(get(step, POSITIONS) + 4 * (row + vector // group)) - get(op, A_WINDOW) + 1
        high = i32(get(step, POSITIONS) + 4 * (row + (vector + count - 1) // group))
        begin = low // (PAGE * SEGMENT) if get(op, A_WINDOW) and low > 0 else 0
        round_queries(op, row, vector, count, head, scratch)
        for i in range(count):
            clear(totals + i * state_bytes, head_dim)
        for segment in range(begin, high // (PAGE * SEGMENT) + 1):
            attend_segment(op, step, table, row, vector, count, head, segment, states)
            for i in range(count):
                merge(totals + i * state_bytes, states + i * state_bytes, head_dim)
        for i in range(count):
            column = (head * group + (vector + i) % group) * head_dim * 4
            target = get(op, A_OUT) + (row + (vector + i) // group) * get(op, A_OUT_STRIDE) + column
            finish(totals + i * state_bytes, head_dim, target)


C_X, C_X_STRIDE, C_HEADS, C_KV_HEADS, C_HEAD_DIM, C_PARTIAL, C_PARTIAL_STRIDE, C_OUT = slots("gather")[:8]
C_ROWS = slots("gather")[-1]


def gather(op, step, thread):
    """Rows of attention's output to int8; rows of split sequences are merged from their segments first."""
    heads, kv_heads, head_dim = get(op, C_HEADS), get(op, C_KV_HEADS), get(op, C_HEAD_DIM)
    group = heads // kv_heads
    while True:
        i = fetch_add(op + 8 * COUNTER, 1)
        if i >= get(step, get(op, C_ROWS)):
            return
        row = i if get(op, C_ROWS) == ROWS else i32(get(step, SAMPLE_ROWS) + 4 * i)
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
        put_row(op, C_OUT, i, x, heads * head_dim)


KERNELS = {"plan": plan, "attend": attend, "gather": gather}
