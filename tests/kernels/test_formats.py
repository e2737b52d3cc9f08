"""The twins of the int4 and bf16 matrices against plain arithmetic in float64, and the sums that int4 needs of its rows."""

from __future__ import annotations

import numpy as np
import pytest

from senryu.kernels import pack, reference
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
    op = operation(
        "gemm4", a=a, a_scale=a_scale, a_sums=reference.group_sums(a), w=m.packed, w_scale=m.scale, groups=m.groups,
        bias=m.bias, k=k, panels=m.panels, out=start.copy(), add=add, rows="rows",
    )  # fmt: skip
    reference.gemm4(op, {"rows": rows})
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
    columns = {"w": m.packed, "bias": m.bias, "k": k, "panels": m.panels}
    op = operation("gemm16", a=x, **columns, out=out, add=0, rows="rows")
    reference.gemm16(op, {"rows": rows})
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
