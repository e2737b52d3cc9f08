"""Random models: every tensor that the spec needs, the same ones each time."""

from __future__ import annotations

import numpy as np
import pytest

from senryu.errors import SenryuError
from senryu.model.weights import expected_shapes
from senryu.service.shapes import RandomWeights, shape_spec


def test_random_weights_have_every_tensor() -> None:
    spec = shape_spec("tiny")
    random, again = RandomWeights(spec), RandomWeights(spec)
    for name, shape in expected_shapes(spec).items():
        assert name in random
        tensor = random.float32(name)
        assert tensor.shape == shape
        assert tensor.dtype == np.float32
        np.testing.assert_array_equal(tensor, again.float32(name))
        assert len(shape) == 1 or 0.018 < tensor.std() < 0.022
    assert "nothing" not in random
    assert random.fingerprint == again.fingerprint != RandomWeights(shape_spec("0.3b")).fingerprint


def test_an_unknown_shape_is_named() -> None:
    with pytest.raises(SenryuError, match="choose tiny"):
        shape_spec("huge")
