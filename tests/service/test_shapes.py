"""Random models: every tensor that the spec needs, the same ones each time."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from senryu.errors import SenryuError
from senryu.model.transformer import forward
from senryu.model.weights import expected_shapes
from senryu.service.shapes import CopyingWeights, RandomWeights, chain, shape_spec


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


def test_a_chain_goes_through_every_token() -> None:
    assert sorted(chain(100)) == list(range(100))
    np.testing.assert_array_equal(chain(100), chain(100))


@pytest.mark.parametrize("family", ["llama", "cohere2", "qwen2"])
def test_a_copying_model_continues_the_chain(family: str) -> None:
    how: dict[str, Any] = {"cohere2": {"norm": "layer", "parallel_block": True}, "qwen2": {"qkv_bias": True}}.get(family, {})
    spec = replace(shape_spec("tiny"), **how)
    order = chain(spec.vocab)
    logits = forward(spec, CopyingWeights(spec), np.roll(order, 5)[:300])
    np.testing.assert_array_equal(logits.argmax(axis=1), np.roll(order, 4)[:300])
    rest = np.sort(logits, axis=1)[:, -2]
    assert (logits.max(axis=1) > 2 * rest).all()
    probability = np.exp(logits.max(axis=1)) / np.exp(logits).sum(axis=1)
    assert probability.max() < 0.05  # at temperature 1


def test_a_copying_model_has_a_head_of_its_own() -> None:
    with pytest.raises(ValueError, match="head of its own"):
        CopyingWeights(replace(shape_spec("tiny"), tied_head=True))


def test_an_unknown_shape_is_named() -> None:
    with pytest.raises(SenryuError, match="choose tiny"):
        shape_spec("huge")
