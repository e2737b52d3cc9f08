"""Number formats: rounding, errors, fused matrices, lossless halves."""

from __future__ import annotations

import numpy as np
import programs
import pytest

from senryu.kernels import pack
from senryu.model.quantize import RandomWeights, float_rows, halve, pack_rows, quantize_rows, relative_error
from senryu.model.weights import expected_shapes


def test_rounding_is_within_half_a_step() -> None:
    w = np.random.default_rng(0).standard_normal((20, 300)).astype(np.float32)
    w[3] = 0
    q, scale = quantize_rows(w)
    assert np.abs(q).max() == 127
    assert scale[3] == 0
    assert (np.abs(w - q * scale[:, None]) <= scale[:, None] * 0.5001).all()
    assert 0.004 < relative_error(w[:3]) < 0.009


def test_parts_become_one_matrix() -> None:
    rng = np.random.default_rng(1)
    parts = [rng.standard_normal((n, 48)).astype(np.float32) for n in (32, 16, 27)]
    biases = [None, np.ones(16, np.float32), None]
    m = pack_rows(parts, biases, factor=0.5)
    w = pack.unpack(m.packed).astype(np.float32) * m.scale[:, None]
    np.testing.assert_allclose(w[:75], np.concatenate(parts) / 2, atol=0.02)
    assert (m.bias[32:48] == 0.5).all()
    assert m.bias.sum() == 8
    f = float_rows(parts, biases, factor=0.5)
    np.testing.assert_array_equal(f.packed, np.concatenate(parts) / 2)


def test_halves_lose_nothing() -> None:
    table = np.random.default_rng(2).standard_normal((30, 16)).astype(np.float32)
    assert halve(table) is table
    rounded = (table.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    half = halve(rounded)
    assert half.dtype == np.uint16
    np.testing.assert_array_equal((half.astype(np.uint32) << 16).view(np.float32), rounded)


@pytest.mark.parametrize("family", programs.SPECS)
def test_random_weights_have_every_tensor(family: str) -> None:
    spec = programs.SPECS[family]
    random, again = RandomWeights(spec, seed=3), RandomWeights(spec, seed=3)
    for name, shape in expected_shapes(spec).items():
        assert name in random
        tensor = random.float32(name)
        assert tensor.shape == shape
        assert tensor.dtype == np.float32
        np.testing.assert_array_equal(tensor, again.float32(name))
    assert "nothing" not in random
