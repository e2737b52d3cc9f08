"""The twins of the int4 and bf16 matrices against plain arithmetic in float64, and the sums that int4 needs of its rows."""

from __future__ import annotations

import numpy as np
import pytest
from harness import both, matrix_fields, step

from senryu.kernels import Kernels, pack, reference
from senryu.kernels.layout import operation

EPSILON = 2.0**-24
CASES = pytest.mark.parametrize(("rows", "n", "k"), [(1, 1, 16), (3, 70, 128), (5, 64, 144), (2, 130, 704), (9, 33, 2048)])


@CASES
@pytest.mark.parametrize("add", [0, 1])
def test_int4_is_float_arithmetic_but_for_its_roundings(rows: int, n: int, k: int, add: int) -> None:
    """Dots of a group are exact. Then each group rounds a product and a sum, and there are a product, a sum and maybe an
    addition after them, each off by at most 2^-24 of what has been summed so far.
    """
    rng = np.random.default_rng(n)
    nibbles, q = rng.integers(0, 16, (n, k)).astype(np.uint8), rng.integers(-127, 128, (rows, k))
    scale = pack.narrow(rng.standard_normal((n, -(-k // 128)), np.float32))
    bias, a_scale = rng.standard_normal(n, np.float32), rng.random(rows, np.float32)
    m = pack.empty(n, k, "int4")
    pack.fill(m, 0, nibbles, scale, bias)
    a = (q + 128).astype(np.uint8)
    start = rng.standard_normal((rows, m.panels * 64), np.float32)
    op = operation("gemm", a=a, a_scale=a_scale, a_sums=reference.group_sums(a), **matrix_fields(m), out=start.copy(), add=add)
    reference.gemm(op, {"rows": rows})
    groups, w = pack.widen(scale).astype(np.float64), nibbles.astype(np.float64) - 8
    parts = np.stack([q[:, i : i + 128] @ w[:, i : i + 128].T * groups[:, i // 128] for i in range(0, k, 128)])
    want = parts.sum(0) * a_scale[:, None] + bias + (start[:, :n] if add else 0)
    size = np.abs(parts).sum(0) * a_scale[:, None] + np.abs(bias) + np.abs(start[:, :n])
    assert (np.abs(op.out[:, :n] - want) <= (2 * m.groups + 4) * EPSILON * size).all()
    np.testing.assert_array_equal(op.out[:, n:], start[:, n:] if add else 0)


@CASES
def test_bf16_is_float_arithmetic_but_for_its_roundings(rows: int, n: int, k: int) -> None:
    """A sum of k products in float32, in any order, is off by at most (k + 1) * 2^-24 of the sum of magnitudes."""
    rng = np.random.default_rng(n)
    w, x = rng.standard_normal((n, k), np.float32), rng.standard_normal((rows, k), np.float32)
    bias = rng.standard_normal(n, np.float32)
    m = pack.empty(n, k, "bf16")
    pack.fill(m, 0, pack.narrow(w), bias=bias)
    out = np.zeros((rows, m.panels * 64), np.float32)
    op = operation("gemm", a=x, a_scale=None, a_sums=None, **matrix_fields(m), out=out, add=0)
    reference.gemm(op, {"rows": rows})
    half = pack.widen(pack.narrow(w)).astype(np.float64)
    size = np.abs(x).astype(np.float64) @ np.abs(half).T + np.abs(bias)
    assert (np.abs(out[:, :n] - (x.astype(np.float64) @ half.T + bias)) <= (k + 2) * EPSILON * size).all()
    assert not out[:, n:].any()


@pytest.mark.parametrize("n", [16, 128, 144, 512, 704])
def test_sums_are_of_q_over_each_group(n: int) -> None:
    x = np.random.default_rng(n).standard_normal((4, n), np.float32)
    x[1] = 0
    q, _ = reference.quantize(x)
    sums = reference.group_sums(q)
    assert sums.dtype == np.int32
    assert sums.shape == (4, -(-n // 128))
    for group in range(sums.shape[1]):
        np.testing.assert_array_equal(sums[:, group], (q[:, 128 * group : 128 * (group + 1)].astype(int) - 128).sum(1))
    assert not sums[1].any()


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 6, 7, 13])
@pytest.mark.parametrize(("n", "k"), [(64, 16), (100, 144), (70, 704), (64, 2048)])
@pytest.mark.parametrize("add", [0, 1])
def test_compiled_int4_equals_its_twin_bit_for_bit(compiled_kernels: Kernels, rows: int, n: int, k: int, add: int) -> None:
    rng = np.random.default_rng(rows * k)
    m = pack.empty(n, k, "int4")
    scale = pack.narrow(rng.standard_normal((n, -(-k // 128)), np.float32))
    pack.fill(m, 0, rng.integers(0, 16, (n, k)).astype(np.uint8), scale, rng.standard_normal(n, np.float32))
    a = rng.integers(1, 256, (rows, k)).astype(np.uint8)
    out = rng.standard_normal((rows, m.panels * 64), np.float32)
    rest = {"a_scale": rng.random(rows, np.float32), "a_sums": reference.group_sums(a), "out": out, "add": add}
    fast, twin = both(compiled_kernels, "gemm", step(rows=rows), a=a, **rest, **matrix_fields(m))
    np.testing.assert_array_equal(fast.out, twin.out)


def test_compiled_int4_is_exact_at_the_extremes(compiled_kernels: Kernels) -> None:
    """Nibbles 15 and rows of +-127 make the largest sums that AVX2 adds up in 16 bits."""
    rows, k = 6, 2048
    m = pack.empty(64, k, "int4")
    pack.fill(m, 0, np.full((64, k), 15, np.uint8), pack.narrow(np.ones((64, k // 128), np.float32)))
    a = np.repeat(np.array([[1], [255], [128], [255], [1], [128]], np.uint8), k, 1)
    rest = {"a_scale": np.ones(rows, np.float32), "a_sums": reference.group_sums(a), "add": 0}
    fast, _ = both(
        compiled_kernels, "gemm", step(rows=rows), a=a, out=np.zeros((rows, 64), np.float32), **rest, **matrix_fields(m)
    )
    np.testing.assert_array_equal(fast.out, np.repeat((a[:, :1].astype(np.float32) - 128) * 7 * k, 64, 1))


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 6, 13])
@pytest.mark.parametrize(("n", "k"), [(64, 16), (100, 144), (70, 704)])
def test_compiled_bf16_is_float_arithmetic_but_for_its_roundings(compiled_kernels: Kernels, rows: int, n: int, k: int) -> None:
    rng = np.random.default_rng(rows * k)
    w, x, bias = (rng.standard_normal(shape, np.float32) for shape in ((n, k), (rows, k), n))
    m = pack.empty(n, k, "bf16")
    pack.fill(m, 0, pack.narrow(w), bias=bias)
    out = np.zeros((rows, m.panels * 64), np.float32)
    fast, _ = both(
        compiled_kernels, "gemm", step(rows=rows), a=x, a_scale=None, a_sums=None, out=out, add=0, **matrix_fields(m)
    )
    half = pack.widen(pack.narrow(w)).astype(np.float64)
    size = np.abs(x).astype(np.float64) @ np.abs(half).T + np.abs(bias)
    assert (np.abs(fast.out[:, :n] - (x.astype(np.float64) @ half.T + bias)) <= (k + 2) * EPSILON * size).all()
    assert not fast.out[:, n:].any()
