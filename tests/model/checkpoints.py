"""Random tiny checkpoints made by transformers: the truth that model/ is tested against."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel
from transformers.utils import logging

torch.set_num_threads(1)
logging.disable_progress_bar()
logging.set_verbosity_error()

SHAPE = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


def make(family: str, seed: int = 0, **changes: Any) -> PreTrainedModel:
    """A transformers model of random weights, norms and biases included, so that none of them can be forgotten."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[family](**(SHAPE | changes)), attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def save(model: PreTrainedModel, path: Path, **how: Any) -> Path:
    model.save_pretrained(path, **how)
    return path


def load(path: Path) -> PreTrainedModel:
    """The saved model in float32."""
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager").eval()


def logits(model: PreTrainedModel, ids: np.ndarray) -> np.ndarray:
    """What transformers says, float32 [tokens, vocab]."""
    with torch.no_grad():
        return model(torch.tensor(ids)[None]).logits[0].float().numpy()
