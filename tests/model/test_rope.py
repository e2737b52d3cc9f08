"""The rotary tables against transformers, out to the positions where float32 rounding shows."""

from __future__ import annotations

import json
from typing import Any

import checkpoints
import numpy as np
import pytest
from transformers.models.cohere2.modeling_cohere2 import Cohere2RotaryEmbedding
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from senryu.model.rope import inverse_frequencies, rope_table
from senryu.model.spec import read_spec

YARN = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "original_max_position_embeddings": 32768}
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip


@pytest.mark.parametrize("family", ["cohere2", "llama"])
@pytest.mark.parametrize(
    "rope",
    [
        {"rope_type": "default", "rope_theta": 50000.0},
        LLAMA3,
        YARN,
        YARN | {"truncate": False},
        YARN | {"beta_fast": 8.0, "beta_slow": 8.0},  # a ramp of no width
    ],
    ids=lambda rope: rope["rope_type"],
)
def test_tables_are_those_of_transformers(family: str, rope: dict[str, Any]) -> None:
    shape = checkpoints.SHAPE | {"head_dim": 64, "max_position_embeddings": 131072}
    config = checkpoints.CONFIG_MAPPING[family](**shape, rope_parameters=dict(rope))
    theirs = (Cohere2RotaryEmbedding if family == "cohere2" else LlamaRotaryEmbedding)(config)
    spec = read_spec(json.loads(config.to_json_string(use_diff=False)))

    np.testing.assert_allclose(inverse_frequencies(spec), theirs.inv_freq.numpy(), rtol=3e-7)
    positions = np.array([0, 1, 2, 511, 4095, 8192, 131071])
    cos, sin = rope_table(spec, positions)
    assert cos.shape == sin.shape == (7, 32)
    assert cos.dtype == sin.dtype == np.float32
    wanted = theirs(checkpoints.torch.zeros(1, dtype=checkpoints.torch.float32), checkpoints.torch.tensor(positions)[None])
    pairs = slice(None, None, 2) if family == "cohere2" else slice(0, 32)
    # angles reach 1e5 radians in float32, where one unit in the last place is 0.008
    bound = np.where(positions < 5000, 1e-3, 0.05)[:, None]
    assert (np.abs(cos - wanted[0][0].numpy()[:, pairs]) < bound).all()
    assert (np.abs(sin - wanted[1][0].numpy()[:, pairs]) < bound).all()
