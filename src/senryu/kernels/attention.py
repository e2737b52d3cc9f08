"""Paged attention with grouped queries and sliding windows: the same arithmetic for prefill rows and decode rows.

The query heads that share a K/V head are worked on together, in blocks of vectors, so K/V is read once for all of a block.
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
from senryu.kernels.kv import SCORE_TILE, TILE, WIDE, add_sums8, ask, head_bytes, page_values, round_query
from senryu.kernels.layout import (
    BETAS,
    COUNTER,
    FACTORS,
    PAGE,
    PEAKS,
    PLACES,
    QUERIES,
    SEGMENT,
    STATE_EXTRA,
    STEP,
    TOPS,
    TOTAL_TOPS,
    UNROUND,
    WEIGHTS,
    slots,
)
from senryu.kernels.layout import QUERY_BLOCK as BLOCK
from senryu.kernels.layout import QUERY_STRIP as STRIP
from senryu.kernels.simd import (
    div,
    f32,
    fetch_add,
    get,
    i32,
    load,
    maximum,
    mul,
    put_f32,
    put_i32,
    put_i64,
    splat,
    store,
    sub,
    sum_lanes,
)
from senryu.kernels.softmax import LOG2E, NEVER, fma, invert_scales, power, raise_tops, scale_scores, weigh, weigh8
from senryu.kernels.target import target
from senryu.kernels.team import run_of

if target().tiles:
    from senryu.kernels.kv_amx import begin_tiles, end_tiles
    from senryu.kernels.kv_amx import tiled_scores8 as page_scores8
    from senryu.kernels.kv_amx import tiled_sums8 as page_sums8
else:
    from senryu.kernels.kv import begin_tiles, end_tiles, page_scores8, page_sums8

ITEMS, ITEM_START, SPLITS, SLOTS, SEQUENCE_SLOT, QUERY_BLOCK = (
    STEP.index(name) for name in ("items", "item_start", "split", "slots", "sequence_slot", "query_block")
)
LEAST_BLOCK = 16
SPLIT, SHRINK = 4, 8  # work items for each thread below which short sequences are split, and blocks shrink

P_HEADS, P_KV_HEADS, P_THREADS, P_CAPACITY = slots("plan")


@njit(boundscheck=False)
def sequence_shape(step, sequence, group):
    """(query vectors per K/V head, segments of K/V) of one sequence."""
    first, end = i32(get(step, ROW_START) + 4 * sequence), i32(get(step, ROW_START) + 4 * sequence + 4)
    return (end - first) * group, i32(get(step, POSITIONS) + 4 * (end - 1)) // (PAGE * SEGMENT) + 1


@njit(boundscheck=False)
def blocks_of(step, kv_heads, group, block):
    """Work items of a step whose sequences are not split, in blocks of that many vectors."""
    items = 0
    for sequence in range(get(step, SEQUENCES)):
        items += kv_heads * ((sequence_shape(step, sequence, group)[0] + block - 1) // block)
    return items


def plan(op, step, thread):
    """Once a step: which sequence each row belongs to, attention's work items, and which sequences are split by segments.

    Where there are few for the threads, blocks are smaller, and sequences of one small block are split by segments.
    """
    if fetch_add(op + 8 * COUNTER, 1):
        return
    kv_heads, sequences, threads = get(op, P_KV_HEADS), get(step, SEQUENCES), get(op, P_THREADS)
    group, block = get(op, P_HEADS) // kv_heads, BLOCK
    for sequence in range(sequences):
        for row in range(i32(get(step, ROW_START) + 4 * sequence), i32(get(step, ROW_START) + 4 * sequence + 4)):
            put_i32(get(step, ROW_SEQUENCE) + 4 * row, sequence)
    few = threads > 1 and blocks_of(step, kv_heads, group, LEAST_BLOCK) < SPLIT * threads
    while threads > 1 and block > LEAST_BLOCK and blocks_of(step, kv_heads, group, block) < SHRINK * threads:
        block //= 2
    items, used = 0, 0
    for sequence in range(sequences):
        vectors, segments = sequence_shape(step, sequence, group)
        need = kv_heads * vectors * segments
        divide = few and vectors <= LEAST_BLOCK and segments > 1 and used + need <= get(op, P_CAPACITY)
        put_i32(get(step, ITEM_START) + 4 * sequence, items)
        put_i32(get(step, SPLITS) + 4 * sequence, segments if divide else 0)
        put_i32(get(step, SEQUENCE_SLOT) + 4 * sequence, used)
        items += kv_heads * (segments if divide else (vectors + block - 1) // block)
        used += need if divide else 0
    put_i32(get(step, ITEM_START) + 4 * sequences, items)
    put_i64(step + 8 * ITEMS, items)
    put_i64(step + 8 * QUERY_BLOCK, block)


@njit(boundscheck=False)
def clear(states, tops, count, head_dim):
    """States of vectors that have seen nothing: sums and weights 0, maximum NEVER."""
    for i in range(0, count, 16):
        store(tops + 4 * i, splat(NEVER))
    for state in range(states, states + count * 4 * (head_dim + STATE_EXTRA), 4 * (head_dim + STATE_EXTRA)):
        for i in range(0, 4 * head_dim + 64, 64):
            store(state + i, splat(ZERO))


@njit(boundscheck=False)
def merge(total, part, head_dim, a, b):
    """total = total * a + part * b, of two states' sums and weights."""
    for i in range(0, 4 * head_dim + 64, 64):
        store(total + i, fma(load(total + i), a, mul(load(part + i), b)))


@njit(boundscheck=False)
def merge_strip(totals, tops, states, count, head_dim, scratch):
    """States of a segment into their totals, whose maxima are at `tops`; what has seen nothing changes nothing."""
    state_bytes = 4 * (head_dim + STATE_EXTRA)
    for i in range(0, 4 * count, 64):
        total, part = load(tops + i), load(scratch + TOPS + i)
        high = maximum(total, part)
        store(tops + i, high)
        store(scratch + BETAS + i, power(sub(total, high)))
        store(scratch + UNROUND + i, power(sub(part, high)))
    for i in range(count):
        a, b = splat(f32(scratch + BETAS + 4 * i)), splat(f32(scratch + UNROUND + 4 * i))
        merge(totals + i * state_bytes, states + i * state_bytes, head_dim, a, b)


@njit(boundscheck=False)
def finish(state, head_dim, out):
    """out [head_dim] = sums / total weight."""
    weight = splat(sum_lanes(load(state + 4 * head_dim)))
    for i in range(0, 4 * head_dim, 64):
        store(out + i, div(load(state + i), weight))


A_QKV, A_QKV_STRIDE, A_HEADS, A_KV_HEADS, A_HEAD_DIM, A_WINDOW, A_QUANTIZED, A_POOL, A_POOL_STRIDE = slots("attend")[:9]
A_OUT, A_OUT_STRIDE, A_SCRATCH, A_SCRATCH_STRIDE, A_PARTIAL, A_PARTIAL_STRIDE = slots("attend")[9:-2]
A_ROWS, A_THREADS = slots("attend")[-2:]


@njit(boundscheck=False)
def query(op, row, vector, head):
    """Address of query vector `vector` (counted over rows, then heads of the group) of K/V head `head`."""
    group = get(op, A_HEADS) // get(op, A_KV_HEADS)
    column = (head * group + vector % group) * get(op, A_HEAD_DIM) * 4
    return get(op, A_QKV) + (row + vector // group) * get(op, A_QKV_STRIDE) + column


@njit(boundscheck=False)
def page_scores(op, keys, row, vector, count, head, scores):
    """Scores [count, 64] = q . K of one float32 page."""
    last = vector + count - 1
    for i in range(0, count, TILE):
        v = vector + i
        q0, q1 = query(op, row, v, head), query(op, row, min(v + 1, last), head)
        q2, q3 = query(op, row, min(v + 2, last), head), query(op, row, min(v + 3, last), head)
        for block in range(0, 4 * PAGE, 64 * WIDE):
            out = scores + i * 4 * PAGE + block
            SCORE_TILE(q0, q1, q2, q3, get(op, A_HEAD_DIM), keys + block, 4 * PAGE, out, 4 * PAGE, 0)


@njit(boundscheck=False)
def seen(position, begin, window):
    """(first, end): the tokens that a vector at `position` sees of the page that begins at `begin`."""
    return position - window + 1 - begin if window else 0, position + 1 - begin


@njit(boundscheck=False)
def soften(scratch, scores, first, count, page, window, partials, state_bytes, k_scale, v_scale):
    """Scores of a strip with one page to weights, which join the states' partial sums; k_scale is 0 in a float32 page."""
    begin, low, end = page * PAGE, 0, PAGE
    places = scratch + PLACES + 4 * first
    edge = i32(places) < begin + PAGE - 1 or (window and i32(places + 4 * (count - 1)) - window >= begin)
    for i in range(count):
        if edge:
            low, end = seen(i32(places + 4 * i), begin, window)
        factor = splat(f32(scratch + FACTORS + 4 * (first + i)))
        store(scratch + PEAKS + 64 * i, scale_scores(scores + 4 * PAGE * i, factor, k_scale, v_scale, low, end))
    raise_tops(scratch, count, k_scale)
    if k_scale:
        invert_scales(v_scale, scratch)
    for i in range(count):
        if edge:
            low, end = seen(i32(places + 4 * i), begin, window)
        at, partial = scores + 4 * PAGE * i, partials + i * state_bytes
        if k_scale:
            weigh8(at, i, low, end, partial, scratch + WEIGHTS + PAGE * i, scratch)
        else:
            weigh(at, i, low, end, partial, scratch)


@njit(boundscheck=False)
def attend_page(op, keys, ahead, page, row, vector, first, count, head, states, scratch):
    """States of a strip over one page: `count` query vectors, from number `first` of the block, which is `vector` of its
    sequence, on. ahead: 0, or where the next page lies, which is asked for in between: all at once would stop us."""
    head_dim, quantized, window = get(op, A_HEAD_DIM), get(op, A_QUANTIZED), get(op, A_WINDOW)
    state_bytes, scores = 4 * (head_dim + STATE_EXTRA), scratch + QUERIES + BLOCK * head_dim
    partials, values = states + 4 * head_dim, keys + PAGE * head_dim * (1 if quantized else 4)
    third = (head_bytes(head_dim, quantized) // 3 + 63) // 64 * 64 if ahead else 0
    ask(ahead, ahead + third)
    if quantized:
        k_scale = values + PAGE * head_dim
        page_scores8(keys, head_dim, first, count, scratch, scores)
        ask(ahead + third, ahead + 2 * third)
        soften(scratch, scores, first, count, page, window, partials, state_bytes, k_scale, k_scale + 4 * PAGE)
        ask(ahead + 2 * third, ahead + 3 * third)
        page_sums8(values, head_dim, count, scratch, scores)
        add_sums8(head_dim, count, scratch, scores, states, state_bytes)
    else:
        page_scores(op, keys, row, vector + first, count, head, scores)
        ask(ahead + third, ahead + 2 * third)
        soften(scratch, scores, first, count, page, window, partials, state_bytes, 0, 0)
        ask(ahead + 2 * third, ahead + 3 * third)
        page_values(values, head_dim, count, scratch, scores, states, state_bytes)


@njit(boundscheck=False)
def attend_segment(op, table, row, vector, first, count, head, segment, states):
    """States of a strip, from number `first` on of a block of `count` query vectors, over the pages of one segment that it may
    see. The same pages of the next segment are asked for meanwhile, a part of them with each strip."""
    head_dim, window = get(op, A_HEAD_DIM), get(op, A_WINDOW)
    scratch = states + STRIP * 4 * (head_dim + STATE_EXTRA)
    some, places, size = min(STRIP, count - first), scratch + PLACES, head_bytes(head_dim, get(op, A_QUANTIZED))
    clear(states, scratch + TOPS, some, head_dim)
    low, high = i32(places + 4 * first) - window + 1, i32(places + 4 * (first + some - 1))
    begin = max(segment * SEGMENT, low // PAGE if window and low > 0 else 0)
    end, last = min((segment + 1) * SEGMENT, high // PAGE + 1), i32(places + 4 * (count - 1)) // PAGE
    part = (size * STRIP // count + 63) // 64 * 64
    for page in range(begin, end):
        if page + SEGMENT <= last and count > STRIP:
            ahead = get(op, A_POOL) + i32(table + 4 * (page + SEGMENT)) * get(op, A_POOL_STRIDE) + head * size
            ask(ahead + first // STRIP * part, ahead + min(size, (first // STRIP + 1) * part))
        keys = get(op, A_POOL) + i32(table + 4 * page) * get(op, A_POOL_STRIDE) + head * size
        ahead = 0
        if count <= STRIP and page < last:
            ahead = get(op, A_POOL) + i32(table + 4 * (page + 1)) * get(op, A_POOL_STRIDE) + head * size
        attend_page(op, keys, ahead, page, row, vector, first, some, head, states, scratch)


@njit(boundscheck=False)
def begin_block(op, step, row, vector, count, head, scratch):
    """What a block's vectors need for all pages: their places in the sequence, their factors, with int8 their bytes."""
    group = get(op, A_HEADS) // get(op, A_KV_HEADS)
    for i in range(count):
        put_i32(scratch + PLACES + 4 * i, i32(get(step, POSITIONS) + 4 * (row + (vector + i) // group)))
        if get(op, A_QUANTIZED):
            round_query(query(op, row, vector + i, head), get(op, A_HEAD_DIM), i, scratch)
        else:
            put_f32(scratch + FACTORS + 4 * i, LOG2E)


@njit(boundscheck=False)
def wanted(op, step, first, last):
    """Whether any of the rows first..last is worked on."""
    if get(op, A_ROWS) == ROWS or get(step, SAMPLED) == get(step, ROWS):
        return True
    for i in range(get(step, SAMPLED)):  # noqa: SIM110 - Numba has no generators
        if first <= i32(get(step, SAMPLE_ROWS) + 4 * i) <= last:
            return True
    return False


@njit(boundscheck=False)
def attend_part(op, step, sequence, head, segment, states):
    """One segment of a split sequence: the states of all its vectors, which fit in one strip, left for `gather`."""
    head_dim = get(op, A_HEAD_DIM)
    state_bytes = 4 * (head_dim + STATE_EXTRA)
    scratch = states + STRIP * state_bytes
    row, table = i32(get(step, ROW_START) + 4 * sequence), get(step, PAGE_TABLE) + sequence * get(step, PAGE_TABLE_STRIDE)
    vectors, segments = sequence_shape(step, sequence, get(op, A_HEADS) // get(op, A_KV_HEADS))
    slot = i32(get(step, SEQUENCE_SLOT) + 4 * sequence) + head * vectors * segments + segment
    begin_block(op, step, row, 0, vectors, head, scratch)
    attend_segment(op, table, row, 0, 0, vectors, head, segment, states)
    for i in range(vectors):
        target = get(op, A_PARTIAL) + (slot + i * segments) * get(op, A_PARTIAL_STRIDE)
        for byte in range(0, 4 * head_dim + 64, 64):
            store(target + byte, load(states + i * state_bytes + byte))
        store(target + 4 * head_dim + 64, splat(f32(scratch + TOPS + 4 * i)))


@njit(boundscheck=False)
def attend_block(op, step, sequence, head, vector, count, totals):
    """Outputs of a block of `count` query vectors of one K/V head, from number `vector` of the sequence on."""
    head_dim, window = get(op, A_HEAD_DIM), get(op, A_WINDOW)
    group = get(op, A_HEADS) // get(op, A_KV_HEADS)
    state_bytes = 4 * (head_dim + STATE_EXTRA)
    states = totals + BLOCK * state_bytes
    scratch = states + STRIP * state_bytes
    row, table = i32(get(step, ROW_START) + 4 * sequence), get(step, PAGE_TABLE) + sequence * get(step, PAGE_TABLE_STRIDE)
    begin_block(op, step, row, vector, count, head, scratch)
    low, high = i32(scratch + PLACES) - window + 1, i32(scratch + PLACES + 4 * (count - 1))
    clear(totals, scratch + TOTAL_TOPS, count, head_dim)
    for segment in range(low // (PAGE * SEGMENT) if window and low > 0 else 0, high // (PAGE * SEGMENT) + 1):
        for first in range(0, count, STRIP):
            attend_segment(op, table, row, vector, first, count, head, segment, states)
            some, tops = min(STRIP, count - first), scratch + TOTAL_TOPS + 4 * first
            merge_strip(totals + first * state_bytes, tops, states, some, head_dim, scratch)
    for i in range(count):
        column = (head * group + (vector + i) % group) * head_dim * 4
        target = get(op, A_OUT) + (row + (vector + i) // group) * get(op, A_OUT_STRIDE) + column
        finish(totals + i * state_bytes, head_dim, target)


@njit(boundscheck=False)
def attend_item(op, step, item, totals):
    """Work item: (sequence, K/V head, block of query vectors), or (sequence, K/V head, segment) where the plan says split.

    All blocks of a K/V head follow each other, so that its K/V stays in a core's cache, the longest first.
    """
    group, block = get(op, A_HEADS) // get(op, A_KV_HEADS), get(step, QUERY_BLOCK)
    sequence = 0
    while i32(get(step, ITEM_START) + 4 * sequence + 4) <= item:
        sequence += 1
    item -= i32(get(step, ITEM_START) + 4 * sequence)
    row = i32(get(step, ROW_START) + 4 * sequence)
    vectors, segments = sequence_shape(step, sequence, group)
    if i32(get(step, SPLITS) + 4 * sequence):
        attend_part(op, step, sequence, item // segments, item % segments, totals)
        return
    blocks = (vectors + block - 1) // block
    vector = (blocks - 1 - item % blocks) * block
    count = min(block, vectors - vector)
    if wanted(op, step, row + vector // group, row + (vector + count - 1) // group):
        attend_block(op, step, sequence, item // blocks, vector, count, totals)


def attend(op, step, thread):
    """Work items in runs, see `team.run_of`: the next page of K/V is then mostly one's own, and asked for in time."""
    totals = get(op, A_SCRATCH) + thread * get(op, A_SCRATCH_STRIDE)
    taken = start = size = 0
    begin_tiles()
    while True:
        run = fetch_add(op + 8 * COUNTER, 1)
        while taken <= run:
            start, size, taken = start + size, run_of(get(step, ITEMS) - start - size, get(op, A_THREADS)), taken + 1
        if not size:
            break
        for item in range(start, start + size):
            attend_item(op, step, item, totals)
    end_tiles()


C_X, C_X_STRIDE, C_HEADS, C_KV_HEADS, C_HEAD_DIM, C_PARTIAL, C_PARTIAL_STRIDE, C_OUT = slots("gather")[:8]
C_ROWS = slots("gather")[-1]


@njit(boundscheck=False)
def merge_state(total, part, head_dim):
    """`merge_strip` of one vector, whose maximum stands in all lanes behind its weights."""
    top = 4 * head_dim + 64
    high = maximum(load(total + top), load(part + top))
    merge(total, part, head_dim, power(sub(load(total + top), high)), power(sub(load(part + top), high)))
    store(total + top, high)


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
        segments = i32(get(step, SPLITS) + 4 * sequence)
        if segments:
            vectors = sequence_shape(step, sequence, group)[0]
            vector = (row - i32(get(step, ROW_START) + 4 * sequence)) * group
            for head in range(heads):
                slot = i32(get(step, SEQUENCE_SLOT) + 4 * sequence)
                slot += (head // group * vectors + vector + head % group) * segments
                # merged into its own first part: the same as into a cleared state, since 2^0 is exactly 1
                total = get(op, C_PARTIAL) + slot * get(op, C_PARTIAL_STRIDE)
                for segment in range(1, segments):
                    merge_state(total, total + segment * get(op, C_PARTIAL_STRIDE), head_dim)
                finish(total, head_dim, x + head * head_dim * 4)
        put_row(op, C_OUT, i, x, heads * head_dim)


KERNELS = {"plan": plan, "attend": attend, "gather": gather}
