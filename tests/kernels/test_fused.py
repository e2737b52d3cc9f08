"""Row kernels against their twins, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from harness import both, step

from senryu.kernels import Kernels, reference
from senryu.kernels.layout import kv_bytes


def floats(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def quantized_rows(rows: int, n: int) -> dict[str, np.ndarray | None]:
    return {"out": np.zeros((rows, n), np.uint8), "out_scale": np.zeros(rows, np.float32), "out_sums": None}


def summed_rows(rows: int, n: int) -> dict[str, np.ndarray | None]:
    """What an int4 matrix reads."""
    return quantized_rows(rows, n) | {"out_sums": np.zeros((rows, -(-n // 128)), np.int32)}


def float_rows(rows: int, n: int) -> dict[str, np.ndarray | None]:
    """What a bf16 matrix reads."""
    return {"out": np.zeros((rows, n), np.float32), "out_scale": None, "out_sums": None}


def same(fast: Any, twin: Any, *names: str) -> None:
    for name in names:
        np.testing.assert_array_equal(getattr(fast, name), getattr(twin, name), err_msg=name)


@pytest.mark.parametrize("half", [0, 1])
def test_embed(compiled_kernels: Kernels, half: int) -> None:
    table = floats(0, 10, 48)
    table = (table.view(np.uint32) >> 16).astype(np.uint16) if half else table
    tokens = np.array([3, 9, 0, 3], np.int32)
    x = np.zeros((4, 64), np.float32)
    fast, twin = both(compiled_kernels, "embed", step(rows=4, tokens=tokens), table=table, half=half, hidden=48, x=x)
    same(fast, twin, "x")
    assert fast.x[:, :48].any()


@pytest.mark.parametrize("centred", [0, 1])
@pytest.mark.parametrize("n", [16, 48, 1024])
def test_norm(compiled_kernels: Kernels, centred: int, n: int) -> None:
    x, weight = floats(1, 5, n) * 3 + 1, floats(2, n)
    x[2] = 0  # a row of zeros: scale 0, every byte 128
    fields = {"x": x, "weight": weight, "n": n, "eps": 1e-5, "centred": centred, **quantized_rows(5, n)}
    fast, twin = both(compiled_kernels, "norm", step(rows=5), rows="rows", **fields)
    same(fast, twin, "out", "out_scale")
    assert fast.out_scale[2] == 0
    assert (fast.out[2] == 128).all()
    fast, twin = both(compiled_kernels, "norm", step(rows=5, sampled=2), rows="sampled", **fields)
    same(fast, twin, "out", "out_scale")
    assert not fast.out[2:].any()


def test_pick(compiled_kernels: Kernels) -> None:
    chosen = step(rows=5, sampled=2, sample_rows=np.array([4, 1], np.int32))
    x = floats(1, 5, 48)
    fast, twin = both(compiled_kernels, "pick", chosen, x=x, n=48, out=np.zeros((3, 48), np.float32))
    same(fast, twin, "out")
    np.testing.assert_array_equal(fast.out, [x[4], x[1], np.zeros(48)])


@pytest.mark.parametrize("n", [16, 128, 144, 1024])
def test_norm_for_other_formats(compiled_kernels: Kernels, n: int) -> None:
    x, weight = floats(1, 5, n) * 3 + 1, floats(2, n)
    x[2] = 0
    fields = {"x": x, "weight": weight, "n": n, "eps": 1e-5, "centred": 1, "rows": "rows"}
    fast, twin = both(compiled_kernels, "norm", step(rows=5), **fields, **summed_rows(5, n))
    same(fast, twin, "out", "out_scale", "out_sums")
    assert fast.out_sums.any()
    plain, twin = both(compiled_kernels, "norm", step(rows=5), **fields, **float_rows(5, n))
    same(plain, twin, "out")
    np.testing.assert_array_equal(reference.quantize(plain.out)[0], fast.out)


@pytest.mark.parametrize(("n", "block"), [(96, 0), (144, 16), (704, 64)])
def test_glu_for_other_formats(compiled_kernels: Kernels, n: int, block: int) -> None:
    fields = {"x": floats(3, 4, 2 * n) * 8, "n": n, "block": block, "rows": "rows"}
    fast, twin = both(compiled_kernels, "glu", step(rows=4), **fields, **summed_rows(4, n))
    same(fast, twin, "x", "out", "out_scale", "out_sums")
    assert fast.out_sums.any()
    plain, twin = both(compiled_kernels, "glu", step(rows=4), **fields, **float_rows(4, n))
    same(plain, twin, "x", "out")
    np.testing.assert_array_equal(plain.out, fast.x[:, :n])


def test_quantisation_rounds_half_to_even() -> None:
    x = np.array([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -127.0, 126.5]], np.float32)
    q, scale = reference.quantize(x)
    assert scale[0] == 1
    np.testing.assert_array_equal(q[0].astype(int) - 128, [127, 0, 2, 2, 0, -2, -127, 126])


@pytest.mark.parametrize(("n", "block"), [(96, 0), (48, 16), (128, 64)])
def test_glu(compiled_kernels: Kernels, n: int, block: int) -> None:
    x = floats(3, 4, 2 * n) * 8
    x[1, 0], x[1, 1] = 200, -200  # beyond where exp must be clamped
    fast, twin = both(compiled_kernels, "glu", step(rows=4), x=x, n=n, block=block, rows="rows", **quantized_rows(4, n))
    same(fast, twin, "x", "out", "out_scale")
    gate, up = x[:, :n].astype(np.float64), x[:, n:]
    plain = gate / (1 + np.exp(-gate)) * up
    if block == 0:
        np.testing.assert_allclose(fast.x[:, :n], plain, rtol=1e-6, atol=1e-30)
    else:  # the transform is its own inverse, up to the block's size
        np.testing.assert_allclose(reference.hadamard(fast.x[:, :n], block) / block, plain, atol=1e-5 * np.abs(plain).max())


def test_spreading_makes_an_outlier_cheap() -> None:
    """int8 rounds to steps of the row's largest value: the error falls with it, and the product with a turned matrix stays."""
    x, w = floats(7, 20, 256), floats(8, 30, 256)
    x[:, 5] *= 40
    turned, turned_w = reference.hadamard(x, 64), reference.hadamard(w, 64) / 64
    np.testing.assert_allclose(turned @ turned_w.T, x @ w.T, atol=1e-3)

    def error(x: np.ndarray, w: np.ndarray) -> float:
        q, scale = reference.quantize(x)
        return float(np.linalg.norm(((q.astype(np.float32) - 128) * scale[:, None] - x) @ w.T))

    assert error(turned, turned_w) < error(x, w) / 2


def test_exp_is_accurate_and_exact_at_zero() -> None:
    x = np.linspace(-87, 88, 100_001).astype(np.float32)
    np.testing.assert_allclose(reference.exp(x), np.exp(x.astype(np.float64)), rtol=2.5e-7)
    assert reference.exp(np.zeros(1, np.float32))[0] == 1
    assert reference.exp(np.float32([-np.inf]))[0] < 1.2e-38


@pytest.mark.parametrize("kind", [0, 1, 2])
@pytest.mark.parametrize("head_dim", [16, 64, 80])
@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("kv", ["float32", "int8"])
def test_rope(compiled_kernels: Kernels, kind: int, head_dim: int, normed: bool, kv: str) -> None:
    """Two sequences whose rows cross page edges; K and V land in the slots that the page table names, and nowhere else."""
    heads, kv_heads, pages = 3, 2, 5
    positions = np.array([62, 63, 64, 65, 127, 128], np.int32)
    values = step(
        rows=6,
        sequences=2,
        positions=positions,
        row_sequence=np.array([0, 0, 0, 0, 1, 1], np.int32),
        page_table=np.array([[3, 0, 0], [9, 1, 4]], np.int32),
        cos=np.cos(floats(4, 200, head_dim // 2)),
        sin=np.sin(floats(4, 200, head_dim // 2)),
    )
    weight = floats(5, head_dim) if normed else None
    pool: np.ndarray = np.full((pages, kv_heads, 2, head_dim * 64), np.nan, np.float32)
    if kv == "int8":
        pool = np.full((pages, kv_heads, kv_bytes(head_dim, quantized=True)), 0xAB, np.uint8)
    fast, twin = both(
        compiled_kernels,
        "rope",
        values,
        qkv=floats(6, 6, (heads + 2 * kv_heads) * head_dim),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        rope=kind,
        q_norm=weight,
        k_norm=weight,
        eps=1e-6,
        q_scale=head_dim**-0.5,
        quantized=int(kv == "int8"),
        pool=pool,
    )
    same(fast, twin, "pool")
    np.testing.assert_array_equal(fast.qkv[:, : heads * head_dim], twin.qkv[:, : heads * head_dim])  # q; k and v are used up
    written = np.isfinite(fast.pool) if kv == "float32" else fast.pool != 0xAB
    expected = 6 * kv_heads * (2 * head_dim + (8 if kv == "int8" else 0))
    if kv == "float32":
        assert written.sum() == expected
    else:  # a byte may happen to be what was there before
        assert 0.9 * expected < written.sum() <= expected
    assert written.mean(axis=tuple(range(1, fast.pool.ndim))).tolist()[2] == 0
