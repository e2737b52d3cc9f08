"""Paged attention against its float64 twin: groups, windows, page edges, segments, splitting."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
from harness import compiled, copy, step, step_record

from senryu.kernels import Kernels, reference
from senryu.kernels.layout import SEGMENT, STATE_EXTRA, kv_bytes, operation, scratch_floats

TOLERANCE = 2e-5
"""Scores here are sums of head_dim fused products of size about 1, so their error is below head_dim * 2^-24 * |q||k| < 1e-5
for head_dim <= 128; weights err by that much, and outputs are averages of values of size about 1."""


def case(
    sequences: list[tuple[int, int]], heads: int, kv_heads: int, head_dim: int, kv: str = "float32"
) -> tuple[Any, dict[str, Any]]:
    """Sequences of (first position, rows), a pool full of random K/V, pages in random order."""
    rng = np.random.default_rng(0)
    rows = sum(n for _, n in sequences)
    width = max((first + n + 63) // 64 for first, n in sequences)
    pages = rng.permutation(width * len(sequences) + 1)[1:].reshape(len(sequences), width).astype(np.int32)
    values = step(
        rows=rows,
        sequences=len(sequences),
        positions=np.concatenate([np.arange(first, first + n) for first, n in sequences]).astype(np.int32),
        row_start=np.cumsum([0, *(n for _, n in sequences)]).astype(np.int32),
        page_table=pages,
    )
    arrays = {
        "qkv": copy(rng.standard_normal((rows, heads * head_dim)).astype(np.float32) * np.float32(head_dim**-0.5)),
        "pool": copy(rng.standard_normal((width * len(sequences) + 1, kv_heads, 2, head_dim * 64)).astype(np.float32)),
    }
    if kv == "int8":
        arrays["pool"] = rounded(arrays["pool"], head_dim)
    return values, arrays | {"heads": heads, "kv_heads": kv_heads, "head_dim": head_dim, "quantized": int(kv == "int8")}


def rounded(pool: np.ndarray, head_dim: int) -> np.ndarray:
    """The same K/V in an int8 pool."""
    pages, kv_heads = pool.shape[:2]
    k, v = reference.halves(pool, head_dim)
    pool8 = copy(np.zeros((pages, kv_heads, kv_bytes(head_dim, quantized=True)), np.uint8))
    op = operation(
        "rope", qkv=k, heads=1, kv_heads=kv_heads, head_dim=head_dim, rope=0, q_norm=None, k_norm=None, eps=0.0, q_scale=1.0,
        quantized=1, pool=pool8,
    )  # fmt: skip
    for slot in range(64):
        reference.put_kv8(op, np.arange(pages), np.full(pages, slot), k[..., slot], v[:, :, slot])
    return pool8


def run(
    kernels: Kernels, values: dict[str, Any], fields: dict[str, Any], window: int, threads: int = 1, which: str = "rows"
) -> np.ndarray:
    """plan, attend and gather; what o_proj would read, before it is quantised."""
    shape = {name: fields[name] for name in ("heads", "kv_heads", "head_dim")}
    rows, width, state = values["rows"], shape["heads"] * shape["head_dim"], shape["head_dim"] + STATE_EXTRA
    out, partial = copy(np.zeros((rows, width), np.float32)), copy(np.zeros((2048, state), np.float32))
    scratch = copy(np.full((1, scratch_floats(shape["head_dim"])), np.nan, np.float32))
    record = step_record(values)  # one record for all three: the plan writes into it
    groups = {"heads": shape["heads"], "kv_heads": shape["kv_heads"]}
    compiled(kernels, operation("plan", **groups, threads=threads, capacity=2048), record)
    place = {"out": out, "scratch": scratch, "partial": partial, "rows": which, "threads": threads}
    compiled(kernels, operation("attend", **fields, window=window, **place), record)
    rest = {"out": copy(np.zeros((rows, width), np.uint8)), "out_scale": copy(np.zeros(rows, np.float32)), "out_sums": None}
    compiled(kernels, operation("gather", x=out, **shape, partial=partial, **rest, rows=which), record)
    chosen = values["sample_rows"] if which == "sampled" else slice(None)
    q, scale = np.zeros_like(rest["out"]), np.zeros_like(rest["out_scale"])
    q[: len(out[chosen])], scale[: len(out[chosen])] = reference.quantize(out[chosen])
    np.testing.assert_array_equal(rest["out"], q)
    np.testing.assert_array_equal(rest["out_scale"], scale)
    return out


def digest(kernels: Kernels) -> str:
    """Of attention's results over both kinds of K/V: what every instruction set should agree on."""
    found = hashlib.sha256()
    for shape in ([(0, 130), (200, 70), (9, 1)], 7, 1, 80), ([(70, 40), (127, 2)], 4, 2, 64), ([(250, 20)], 3, 3, 128):
        for kv in ("float32", "int8"):
            values, fields = case(*shape, kv)
            for window in (0, 70):
                found.update(run(kernels, values, fields, window).tobytes())
    return found.hexdigest()


def twin(values: dict[str, Any], fields: dict[str, Any], window: int) -> np.ndarray:
    out = np.zeros((values["rows"], fields["heads"] * fields["head_dim"]), np.float32)
    room = {"out": out, "scratch": None, "partial": None, "rows": "rows", "threads": 1}
    reference.attend(operation("attend", **fields, window=window, **room), values)
    return out


SHAPES = pytest.mark.parametrize(
    ("sequences", "heads", "kv_heads", "head_dim", "window"),
    [
        ([(0, 1)], 1, 1, 16, 0),
        ([(0, 64)], 4, 1, 64, 0),
        ([(63, 3), (5, 1), (64, 1)], 4, 2, 32, 0),
        ([(0, 130), (200, 70)], 7, 1, 80, 0),
        ([(0, 200)], 6, 2, 48, 50),
        ([(190, 40), (127, 1), (128, 1)], 3, 3, 128, 64),
        ([(1000, 60)], 4, 2, 16, 0),  # rows on both sides of a segment's end
        ([(2100, 2)], 4, 4, 64, 1500),  # a window that begins inside the first segment
        ([(2100, 20)], 14, 2, 64, 0),
        ([(300, 40), (7, 3), (62, 9)], 8, 1, 64, 0),  # several blocks, and some of few vectors
        ([(126, 5)], 5, 1, 64, 0),  # a draft across a page's end
        ([(400, 33)], 6, 2, 128, 100),
        ([(0, 70)], 2, 1, 256, 0),
    ],
)


@SHAPES
def test_close_to_its_twin(
    compiled_kernels: Kernels, sequences: list[tuple[int, int]], heads: int, kv_heads: int, head_dim: int, window: int
) -> None:
    values, fields = case(sequences, heads, kv_heads, head_dim)
    fast = run(compiled_kernels, values, fields, window)
    reference.plan(None, values)
    np.testing.assert_allclose(fast, twin(values, fields, window), atol=TOLERANCE)


@SHAPES
def test_int8_is_close_to_its_twin(
    compiled_kernels: Kernels, sequences: list[tuple[int, int]], heads: int, kv_heads: int, head_dim: int, window: int
) -> None:
    """Both round the same numbers. Where float32 and float64 fall on two sides of a half, a weight differs by one step of 127
    of the page's heaviest; that is rare, so all but a few values agree as closely as without rounding."""
    values, fields = case(sequences, heads, kv_heads, head_dim, "int8")
    fast = run(compiled_kernels, values, fields, window)
    reference.plan(None, values)
    difference = np.abs(fast - twin(values, fields, window))
    assert difference.max() < 4 / 127
    assert (difference > TOLERANCE).mean() < 0.02


@SHAPES
def test_int8_is_close_to_float32(
    compiled_kernels: Kernels, sequences: list[tuple[int, int]], heads: int, kv_heads: int, head_dim: int, window: int
) -> None:
    """Rounding moves a score by at most sum|q| * max|k| / 254, and here by 1 % of its size; q, V and weights alike."""
    values, fields = case(sequences, heads, kv_heads, head_dim)
    exact = run(compiled_kernels, values, fields, window)
    close = run(compiled_kernels, values, fields | {"pool": rounded(fields["pool"], head_dim), "quantized": 1}, window)
    assert np.linalg.norm(close - exact) < 0.02 * np.linalg.norm(exact)


@pytest.mark.parametrize("kv", ["float32", "int8"])
@pytest.mark.parametrize(("window", "head_dim", "rows"), [(0, 32, 3), (1100, 32, 3), (0, 64, 8)])
def test_splitting_by_segments_changes_no_bit(
    compiled_kernels: Kernels, window: int, head_dim: int, rows: int, kv: str
) -> None:
    """Few work items for many threads: the plan splits; with one thread it does not."""
    values, fields = case([(3000, rows)], 4, 2, head_dim, kv)
    whole = run(compiled_kernels, values, fields, window, threads=1)
    assert not values["split"][0]
    divided = run(compiled_kernels, values, fields, window, threads=8)
    assert values["split"][0] == (2999 + rows) // (64 * SEGMENT) + 1
    np.testing.assert_array_equal(whole, divided)


@pytest.mark.parametrize("kv", ["float32", "int8"])
@pytest.mark.parametrize("window", [0, 70])
def test_blocks_of_any_size_give_the_same_bits(compiled_kernels: Kernels, window: int, kv: str) -> None:
    """The fewer the work items for the threads, the smaller the blocks of query vectors."""
    values, fields = case([(250, 120), (10, 90)], 4, 1, 64, kv)
    outs, items = [], []
    for threads in (1, 2, 4, 64):
        outs.append(run(compiled_kernels, values, fields, window, threads))
        items.append(int(values["item_start"][-1]))
    assert items == [4 + 3, 15 + 12, 30 + 23, 30 + 23]
    for out in outs[1:]:
        np.testing.assert_array_equal(out, outs[0])


@pytest.mark.parametrize("kv", ["float32", "int8"])
@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim", "window"),
    [(6, 2, 32, 0), (1, 1, 64, 0), (4, 2, 64, 9), (3, 1, 64, 0), (5, 1, 64, 65), (8, 1, 64, 0), (14, 2, 128, 0), (3, 1, 80, 0)],
)
def test_a_row_does_not_depend_on_its_chunk(
    compiled_kernels: Kernels, heads: int, kv_heads: int, head_dim: int, window: int, kv: str
) -> None:
    """Alone a row is a few vectors, in registers' tiles; in a chunk it may share tile registers with others."""
    values, fields = case([(0, 150)], heads, kv_heads, head_dim, kv)
    whole = run(compiled_kernels, values, fields, window)
    for first, rows in ((0, 1), (1, 1), (63, 2), (64, 1), (149, 1), (60, 9), (100, 37)):
        part = slice(first, first + rows)
        few = dict(values, rows=rows, positions=values["positions"][part].copy(), row_start=np.int32([0, rows]))
        some = run(compiled_kernels, few, fields | {"qkv": copy(fields["qkv"][part])}, window)
        np.testing.assert_array_equal(some, whole[part])


@pytest.mark.parametrize("kv", ["float32", "int8"])
def test_rows_that_are_not_sampled_may_be_left_out(compiled_kernels: Kernels, kv: str) -> None:
    """In the last layer: blocks without a sampled row are skipped, the others are what they were."""
    values, fields = case([(0, 150), (70, 1)], 6, 2, 32, kv)
    whole = run(compiled_kernels, values, fields, 0)
    chosen = dict(values, sampled=2, sample_rows=np.array([149, 150], np.int32))
    some = run(compiled_kernels, chosen, fields, 0, which="sampled")
    np.testing.assert_array_equal(some[[149, 150]], whole[[149, 150]])
    assert not some[:100].any()


def test_slots_beyond_a_row_are_never_read_into_it(compiled_kernels: Kernels) -> None:
    """Later slots of the last page may hold anything finite: another sequence's leftovers."""
    values, fields = case([(10, 4)], 4, 2, 16)
    before = run(compiled_kernels, values, fields, 0)
    keys, contents = reference.halves(fields["pool"], 16)
    keys[..., 14:], contents[:, :, 14:] = 1e30, -1e30
    np.testing.assert_array_equal(run(compiled_kernels, values, fields, 0), before)


def test_slots_beyond_a_row_are_never_read_into_it_from_int8(compiled_kernels: Kernels) -> None:
    values, fields = case([(10, 4)], 4, 2, 16, "int8")
    before = run(compiled_kernels, values, fields, 0)
    keys, contents, scales = reference.parts8(fields["pool"], 16)
    keys[:, :, :, 14:], scales[:, :, 14:64], scales[:, :, 64 + 14 :] = 255, 1e30, 1e30
    contents[:, :, 14:, :, 0], contents[..., 1:] = 127, -127
    np.testing.assert_array_equal(run(compiled_kernels, values, fields, 0), before)
