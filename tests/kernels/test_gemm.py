"""The int8 matrix kernel: exact integers, every number of rows, padding, bias and addition."""

from __future__ import annotations

import numpy as np
import pytest
from harness import both, compiled, copy, matrix_fields, step

from senryu.kernels import Kernels, pack, reference
from senryu.kernels.layout import aligned, operation


def matrix(rng: np.random.Generator, n: int, k: int, format: pack.Format = "int8") -> pack.PackedMatrix:
    packed, bias = pack.empty(n, k, format), rng.standard_normal(n, np.float32)
    if format == "int8":
        pack.fill(packed, 0, rng.integers(-127, 128, (n, k)).astype(np.int8), rng.random(n, np.float32) + np.float32(0.1), bias)
    else:
        scale = pack.narrow(rng.standard_normal((n, -(-k // 128)), np.float32))
        pack.fill(packed, 0, rng.integers(0, 16, (n, k)).astype(np.uint8), scale, bias)
    return packed


def fields(m: pack.Int8Matrix) -> dict[str, object]:
    return matrix_fields(m) | {"a_sums": None}


@pytest.mark.parametrize(
    ("rows", "k", "n"),
    [
        *((1, 16, 1), (2, 64, 64), (3, 48, 65), (4, 704, 100), (5, 256, 16), (6, 1040, 64)),
        *((7, 32, 200), (11, 2816, 64), (100, 80, 130)),
    ],
)
@pytest.mark.parametrize("add", [0, 1])
def test_equals_its_twin_bit_for_bit(compiled_kernels: Kernels, rows: int, k: int, n: int, add: int) -> None:
    rng = np.random.default_rng(rows * k + n)
    m = matrix(rng, n, k)
    a = rng.integers(1, 256, (rows, k)).astype(np.uint8)
    out = rng.standard_normal((rows, m.panels * 64), np.float32)
    scale = rng.random(rows, np.float32)
    fast, twin = both(compiled_kernels, "gemm", step(rows=rows), a=a, a_scale=scale, out=out, add=add, **fields(m))
    np.testing.assert_array_equal(fast.out, twin.out)
    assert (fast.out[:, n:] == (out[:, n:] if add else 0)).all()


@pytest.mark.parametrize("format", ["int8", "int4"])
def test_every_number_of_rows_equals_the_twin(compiled_kernels: Kernels, format: pack.Format) -> None:
    """Rows are cut into blocks of many heights, columns into panels, inputs into steps of 64, 32 or 16 and groups of 128."""
    rng = np.random.default_rng(7)
    for k, n in ((64, 64), (96, 80), (144, 130), (320, 64)):
        m = matrix(rng, n, k, format)
        a, scale = rng.integers(1, 256, (70, k)).astype(np.uint8), rng.random(70, np.float32)
        out = rng.standard_normal((70, m.panels * 64), np.float32)
        rest = {"a_scale": scale, "a_sums": reference.group_sums(a), **matrix_fields(m)}
        for add in (0, 1):
            twin = operation("gemm", a=a, out=out.copy(), add=add, **rest)
            reference.gemm(twin, step(rows=70))
            for rows in range(1, 71):
                fast = operation("gemm", a=a[:rows], out=copy(out), add=add, **rest)
                compiled(compiled_kernels, fast, step(rows=rows))
                np.testing.assert_array_equal(fast.out[:rows], twin.out[:rows])
                np.testing.assert_array_equal(fast.out[rows:], out[rows:])


@pytest.mark.parametrize("format", ["int8", "int4"])
@pytest.mark.parametrize(("rows", "k", "n"), [(300, 64, 65), (150, 2192, 64), (33, 4112, 40), (90, 4096, 64)])
def test_many_rows_and_inputs_equal_the_twin(compiled_kernels: Kernels, rows: int, k: int, n: int, format: pack.Format) -> None:
    """More rows than one work item takes, more inputs than are unpacked at a time."""
    rng = np.random.default_rng(k)
    m = matrix(rng, n, k, format)
    a = rng.integers(1, 256, (rows, k)).astype(np.uint8)
    rest = {"a_scale": rng.random(rows, np.float32), "a_sums": reference.group_sums(a), **matrix_fields(m)}
    out = rng.standard_normal((rows, m.panels * 64), np.float32)
    fast, twin = both(compiled_kernels, "gemm", step(rows=rows), a=a, out=out, add=1, **rest)
    np.testing.assert_array_equal(fast.out, twin.out)


def test_integers_are_exact_at_the_extremes(compiled_kernels: Kernels) -> None:
    """All operands at their largest: the sum neither saturates nor wraps, and float32 holds it (a power of two times 127^2)."""
    rows, k = 6, 8192
    m = pack.empty(64, k)
    q = np.repeat(np.where(np.arange(64) % 2, 127, -127).astype(np.int8)[:, None], k, 1)
    pack.fill(m, 0, q, np.ones(64, np.float32))
    a = np.repeat(np.array([[1], [255], [128], [255], [1], [128]], np.uint8), k, 1)  # q + 128 of -127, 127, 0
    fast, _ = both(
        compiled_kernels, "gemm", step(rows=rows), a=a, a_scale=np.ones(rows, np.float32), out=aligned((rows, 64), np.float32),
        add=0, **fields(m),
    )  # fmt: skip
    np.testing.assert_array_equal(fast.out, (a.astype(np.int64) - 128) @ q.T.astype(np.int64))


def test_a_row_does_not_depend_on_its_neighbours(compiled_kernels: Kernels) -> None:
    rng = np.random.default_rng(0)
    m = matrix(rng, 128, 96)
    a, scale = rng.integers(1, 256, (13, 96)).astype(np.uint8), rng.random(13, np.float32)
    whole = both(
        compiled_kernels, "gemm", step(rows=13), a=a, a_scale=scale, out=np.zeros((13, 128), np.float32), add=0, **fields(m)
    )[0].out
    for row in range(13):
        one = both(
            compiled_kernels, "gemm", step(rows=1), a=a[row : row + 1], a_scale=scale[row : row + 1],
            out=np.zeros((1, 128), np.float32), add=0, **fields(m),
        )[0].out  # fmt: skip
        np.testing.assert_array_equal(one[0], whole[row])


def test_error_stays_within_the_bound_of_rounding(compiled_kernels: Kernels) -> None:
    """|y_int8 - y| <= sum over k of |x| sw/2 + |w| sx/2 + sw sx/4: both roundings are off by at most half a step."""
    from senryu.kernels.reference import quantize
    from senryu.model.quantize import pack_rows, quantize_rows

    rng = np.random.default_rng(1)
    x, w = rng.standard_normal((5, 256), np.float32), rng.standard_normal((64, 256), np.float32) * 0.02
    q, sx = quantize(x)
    sw = quantize_rows(w)[1]
    m = pack_rows([w], [None])
    fast, _ = both(
        compiled_kernels, "gemm", step(rows=5), a=q, a_scale=sx, out=np.zeros((5, 64), np.float32), add=0, **fields(m)
    )
    bound = np.abs(x).sum(1)[:, None] * sw / 2 + np.abs(w).sum(1) * sx[:, None] / 2 + 256 * sx[:, None] * sw / 4
    error = np.abs(fast.out - x.astype(np.float64) @ w.T.astype(np.float64))
    assert (error <= bound * 1.0001).all()
    assert error.mean() < bound.mean() / 10  # roundings are independent: they add like a random walk


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
@pytest.mark.parametrize("panels", [1, 2, 5, 22, 61])
def test_every_panel_is_taken_once_whatever_the_team(compiled_kernels: Kernels, panels: int, threads: int) -> None:
    """With `add`, a panel that is taken twice shows; whoever comes takes what is left, as when all others are late."""
    rng = np.random.default_rng(panels)
    m = matrix(rng, 64 * panels, 32, "int8")
    a = rng.integers(1, 256, (2, 32)).astype(np.uint8)
    rest = {"a_scale": rng.random(2, np.float32), "a_sums": None, **matrix_fields(m, threads)}
    fast, twin = both(compiled_kernels, "gemm", step(rows=2), a=a, out=np.ones((2, 64 * panels), np.float32), add=1, **rest)
    np.testing.assert_array_equal(fast.out, twin.out)
