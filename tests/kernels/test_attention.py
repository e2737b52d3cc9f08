"""Paged attention against its float64 twin: groups, windows, page edges, segments, splitting."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from harness import compiled, copy, step, step_record

from senryu.kernels import Kernels, reference
from senryu.kernels.layout import QUERY_BLOCK, SEGMENT, STATE_EXTRA, kv_bytes, operation

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
    out, partial = copy(np.zeros((rows, width), np.float32)), copy(np.zeros((512, state), np.float32))
    scratch = copy(np.full((1, QUERY_BLOCK * (2 * state + 68 + shape["head_dim"] // 4)), np.nan, np.float32))
    record = step_record(values)  # one record for all three: the plan writes into it
    groups = {"heads": shape["heads"], "kv_heads": shape["kv_heads"]}
    compiled(kernels, operation("plan", **groups, threads=threads, capacity=512), record)
    place = {"out": out, "scratch": scratch, "partial": partial, "rows": which}
    compiled(kernels, operation("attend", **fields, window=window, **place), record)
    rest = {"out": copy(np.zeros((rows, width), np.uint8)), "out_scale": copy(np.zeros(rows, np.float32)), "out_sums": None}
    compiled(kernels, operation("gather", x=out, **shape, partial=partial, **rest, rows=which), record)
    chosen = values["sample_rows"] if which == "sampled" else slice(None)
    q, scale = np.zeros_like(rest["out"]), np.zeros_like(rest["out_scale"])
    q[: len(out[chosen])], scale[: len(out[chosen])] = reference.quantize(out[chosen])
    np.testing.assert_array_equal(rest["out"], q)
    np.testing.assert_array_equal(rest["out_scale"], scale)
    return out


def twin(values: dict[str, Any], fields: dict[str, Any], window: int) -> np.ndarray:
    out = np.zeros((values["rows"], fields["heads"] * fields["head_dim"]), np.float32)
    reference.attend(operation("attend", **fields, window=window, out=out, scratch=None, partial=None, rows="rows"), values)
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
@pytest.mark.parametrize("window", [0, 1100])
def test_splitting_by_segments_changes_no_bit(compiled_kernels: Kernels, window: int, kv: str) -> None:
    """Few work items for many threads: the plan splits; with one thread it does not."""
    values, fields = case([(3000, 3)], 4, 2, 32, kv)
    whole = run(compiled_kernels, values, fields, window, threads=1)
    assert not values["split"][0]
    divided = run(compiled_kernels, values, fields, window, threads=8)
    assert values["split"][0] == 3002 // (64 * SEGMENT) + 1
    np.testing.assert_array_equal(whole, divided)


@pytest.mark.parametrize("kv", ["float32", "int8"])
def test_a_row_does_not_depend_on_its_chunk(compiled_kernels: Kernels, kv: str) -> None:
    values, fields = case([(0, 150)], 6, 2, 32, kv)
    whole = run(compiled_kernels, values, fields, 0)
    for row in (0, 1, 63, 64, 149):
        alone = dict(values, rows=1, positions=np.int32([row]), row_start=np.int32([0, 1]))
        one = run(compiled_kernels, alone, fields | {"qkv": copy(fields["qkv"][row : row + 1])}, 0)
        np.testing.assert_array_equal(one[0], whole[row])


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
    contents[:, :, 14 // 4, :, 14 % 4 :], contents[:, :, 4:] = 127, -127
    np.testing.assert_array_equal(run(compiled_kernels, values, fields, 0), before)
