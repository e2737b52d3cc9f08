"""The packed orders of weights, and their inverses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from senryu.kernels import pack

SIZES = {
    "n": st.integers(1, 150),
    "k": st.integers(1, 20).map(lambda k: 16 * k),
    "cut": st.floats(0, 1),
    "seed": st.integers(0, 99),
}


def in_two_parts(matrix: pack.PackedMatrix, cut: float, *columns: np.ndarray) -> None:
    """Fill in two calls, the border anywhere."""
    middle = int(cut * matrix.n)
    for part in (slice(0, middle), slice(middle, matrix.n)):
        pack.fill(matrix, part.start, *(column[part] for column in columns))


@settings(deadline=None)
@given(**SIZES)
def test_int8_returns_what_was_packed(n: int, k: int, cut: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    q, scale, bias = rng.integers(-127, 128, (n, k)).astype(np.int8), rng.random(n, np.float32), rng.random(n, np.float32)
    m = pack.empty(n, k)
    assert isinstance(m, pack.Int8Matrix)
    in_two_parts(m, cut, q, scale, bias)
    whole = pack.unpack(m.packed)
    np.testing.assert_array_equal(whole[:n], q)
    np.testing.assert_array_equal(m.offset[:n], -128 * q.astype(np.int32).sum(1))
    np.testing.assert_array_equal(m.scale[:n], scale)
    np.testing.assert_array_equal(m.bias[:n], bias)
    assert m.panels == -(-n // 64)
    for padding in (whole, m.scale, m.offset, m.bias):
        assert not padding[n:].any()


@settings(deadline=None)
@given(**SIZES)
def test_int4_returns_what_was_packed(n: int, k: int, cut: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = -(-k // 128)
    nibbles, scale = rng.integers(0, 16, (n, k)).astype(np.uint8), rng.integers(1, 2**16, (n, groups)).astype(np.uint16)
    m = pack.empty(n, k, "int4")
    assert isinstance(m, pack.Int4Matrix)
    in_two_parts(m, cut, nibbles, scale)
    np.testing.assert_array_equal(pack.unpack4(m.packed)[:n], nibbles)
    scales = m.scale.transpose(0, 2, 1).reshape(-1, groups)
    np.testing.assert_array_equal(scales[:n], scale)
    assert m.groups == groups
    assert not scales[n:].any()  # so a column of padding is 0 whatever its nibbles are
    assert not m.bias.any()


@settings(deadline=None)
@given(**SIZES)
def test_bf16_returns_what_was_packed(n: int, k: int, cut: float, seed: int) -> None:
    w = pack.narrow(np.random.default_rng(seed).standard_normal((n, k), np.float32))
    m = pack.empty(n, k, "bf16")
    in_two_parts(m, cut, w)
    whole = pack.unpack16(m.packed)
    np.testing.assert_array_equal(whole[:n], pack.widen(w))
    assert not whole[n:].any()


def test_where_a_nibble_lies() -> None:
    """Byte j of column c in chunk i: k = 8i + j in the low half, k = 8i + 4 + j in the high half."""
    n, k = 70, 32
    nibbles = np.random.default_rng(0).integers(0, 16, (n, k)).astype(np.uint8)
    m = pack.empty(n, k, "int4")
    pack.fill(m, 0, nibbles, np.ones((n, 1), np.uint16))
    for column in (0, 5, 63, 64, 69):
        for at in range(k):
            i, j, high = at // 8, at % 4, at % 8 >= 4
            byte = int(m.packed[column // 64, i, column % 64, j])
            assert (byte >> 4 if high else byte & 15) == nibbles[column, at]


@settings(deadline=None)
@given(st.lists(st.floats(-(2.0**126), 2.0**126, width=32, allow_subnormal=False), min_size=1))
def test_bfloat16_is_the_nearest(values: list[float]) -> None:
    x = np.array(values, np.float32)
    half = pack.narrow(x)
    for other in (half.astype(np.int32) - 1, half.astype(np.int32) + 1):
        inside = (other >= 0) & (other < 2**16) & ((other & 0x7FFF) < 0x7F80)
        near = np.abs(pack.widen(half).astype(np.float64) - x)
        far = np.abs(pack.widen(other.astype(np.uint16)).astype(np.float64) - x)
        assert (near <= far)[inside].all()


def test_arrays_of_another_matrix_are_refused() -> None:
    m = pack.empty(70, 48, "int4")
    fields = {"packed": m.packed, "scale": m.scale, "bias": m.bias}
    assert pack.matrix(70, 48, "int4", fields) == m
    for wrong in ({"scale": m.scale[:, :, :32]}, {"bias": m.bias.astype(np.float64)}, {"offset": m.bias}):
        with pytest.raises(ValueError, match=r"int4 matrix \[70, 48\]"):
            pack.matrix(70, 48, "int4", fields | wrong)


@pytest.mark.parametrize("format", pack.FORMATS)
def test_inputs_that_do_not_fit_the_instruction_are_refused(format: pack.Format) -> None:
    with pytest.raises(ValueError, match="multiple of 16"):
        pack.empty(64, 20, format)
