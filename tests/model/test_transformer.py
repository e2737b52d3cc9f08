"""The numpy definition against transformers: the same logits for every family and every feature of a family."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from senryu.model.spec import ModelSpec, load_spec
from senryu.model.transformer import Cache, forward
from senryu.model.weights import Weights, check, expected_shapes, load_weights

IDS = np.random.default_rng(7).integers(3, 97, 48)
BOUND = 2e-5  # the contract is 1e-3; logits here are of size 1 to 5

LLAMA3 = {"rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0, "original_max_position_embeddings": 64}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "cohere2": ("cohere2", {"sliding_window": 7}),
    "cohere2 one head of keys": ("cohere2", {"sliding_window": 7, "num_key_value_heads": 1, "logit_scale": 0.25}),
    "cohere2 biases, pattern": ("cohere2", {"sliding_window": 5, "attention_bias": True, "sliding_window_pattern": 2}),
    "cohere2 untied": ("cohere2", {"sliding_window": 7, "tie_word_embeddings": False}),
    "cohere2 no sliding layer": ("cohere2", {"layer_types": ["full_attention"] * 4}),
    "llama": ("llama", {}),
    "llama tied": ("llama", {"tie_word_embeddings": True}),
    "llama biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama head_dim": ("llama", {"head_dim": 20, "num_key_value_heads": 4}),
    "llama old rope keys": ("llama", {"rope_theta": 700.0, "rope_scaling": {"type": "yarn", "factor": 2.0}}),
    "llama3 scaling": ("llama", {"rope_parameters": LLAMA3 | {"original_max_position_embeddings": 64}}),
    "mistral": ("mistral", {"sliding_window": 6}),
    "mistral no window": ("mistral", {"sliding_window": None, "head_dim": 16}),
    "mistral yarn": ("mistral", {"sliding_window": 9, "rope_parameters": YARN | {"beta_fast": 16.0, "beta_slow": 2.0}}),
    "qwen2": ("qwen2", {}),
    "qwen2 windows on upper layers": ("qwen2", {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 2}),
    "qwen2 yarn": ("qwen2", {"rope_parameters": YARN, "tie_word_embeddings": True}),
    "qwen2 yarn mscale": ("qwen2", {"rope_parameters": YARN | {"mscale": 0.7, "mscale_all_dim": 1.3, "truncate": False}}),
    "qwen2 yarn attention factor": ("qwen2", {"rope_parameters": YARN | {"attention_factor": 1.3}}),
    "qwen3": ("qwen3", {"head_dim": 32}),
    "qwen3 biases, window": (
        "qwen3",
        {"attention_bias": True, "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1, "head_dim": 12},
    ),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_are_those_of_transformers(variant: str, tmp_path: Path) -> None:
    family, changes = VARIANTS[variant]
    model = checkpoints.make(family, **changes)
    checkpoints.save(model, tmp_path)
    spec, weights = load_spec(tmp_path), load_weights(tmp_path)
    check(spec, weights)
    logits = forward(spec, weights, IDS)
    assert logits.dtype == np.float32
    assert np.abs(logits - checkpoints.logits(model, IDS)).max() < BOUND


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_weights_are_widened_exactly(dtype: str, tmp_path: Path) -> None:
    checkpoints.save(checkpoints.make("llama").to(getattr(checkpoints.torch, dtype)), tmp_path)
    spec, weights = load_spec(tmp_path), load_weights(tmp_path)
    assert {weights.dtype(name) for name in weights} == {"BF16" if dtype == "bfloat16" else "F16"}
    ours, theirs = forward(spec, weights, IDS), checkpoints.load(tmp_path)
    assert np.abs(ours - checkpoints.logits(theirs, IDS)).max() < BOUND
    assert np.array_equal(forward(spec, weights.to_float32(), IDS), ours)


def random_model(seed: int, spec: ModelSpec) -> Weights:
    rng = np.random.default_rng(seed)
    return Weights({name: rng.normal(0, 0.1, shape).astype(np.float32) for name, shape in expected_shapes(spec).items()})


@pytest.fixture(scope="module")
def specs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ModelSpec]:
    found = {}
    for variant in ("cohere2", "llama3 scaling", "mistral", "qwen2 windows on upper layers", "qwen3"):
        family, changes = VARIANTS[variant]
        path = tmp_path_factory.mktemp("spec")
        checkpoints.CONFIG_MAPPING[family](**(checkpoints.SHAPE | changes)).save_pretrained(path)
        found[variant] = load_spec(path)
    return found


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_the_cache_changes_nothing(specs: dict[str, ModelSpec], data: st.DataObject) -> None:
    """Any way of cutting the tokens into calls gives the logits of one call."""
    spec = data.draw(st.sampled_from(list(specs.values())))
    ids = np.array(data.draw(st.lists(st.integers(0, spec.vocab - 1), min_size=1, max_size=24)))
    cuts = sorted(data.draw(st.sets(st.integers(1, len(ids)), max_size=5)))
    weights, cache = random_model(1, spec), Cache(spec)
    parts = [forward(spec, weights, part, cache) for part in np.split(ids, cuts) if len(part)]
    assert cache.length == len(ids)
    np.testing.assert_allclose(np.concatenate(parts), forward(spec, weights, ids), atol=1e-5)


def test_a_window_hides_what_is_older(specs: dict[str, ModelSpec]) -> None:
    """One layer with a window of w: token t depends on ids t-w+1..t, and on each of them."""
    spec = replace(specs["mistral"], layers=specs["mistral"].layers[:1])
    window = spec.layers[0].window
    assert window == 6
    weights, base = random_model(2, spec), forward(spec, random_model(2, spec), IDS[:20])[19]
    for position in range(20):
        ids = IDS[:20].copy()
        ids[position] = (ids[position] + 1) % spec.vocab
        changed = not np.array_equal(forward(spec, weights, ids)[19], base)
        assert changed == (position > 19 - window)
