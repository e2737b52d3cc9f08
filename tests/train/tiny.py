"""Tiny nets, tokenizers and stages for the tests of preference and reinforcement learning."""

from __future__ import annotations

from functools import cache
from itertools import islice
from typing import Any

import torch
from tokenizers import Tokenizer

from senryu.train.generators import GENERATORS
from senryu.train.net import Net, NetConfig
from senryu.train.preferences import answered, asked
from senryu.train.recipe import Source, StageRecipe
from senryu.train.vocabulary import train_tokenizer

CONFIG = NetConfig(
    vocab_size=400,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=32,
    sliding_window=16,
    full_every=2,
)


def tiny_net(seed: int = 1, *, config: NetConfig = CONFIG, random: bool = False) -> Net:
    """A net as training starts it, or one whose every parameter is random."""
    net = Net(config)
    net.initialise(seed)
    if random:
        generator = torch.Generator().manual_seed(seed)
        for parameter in net.parameters():
            torch.nn.init.normal_(parameter, mean=float(parameter.ndim == 1), std=0.2, generator=generator)
    return net


@cache
def tiny_tokenizer() -> Tokenizer:
    rows = [row for name in GENERATORS for row in islice(GENERATORS[name](0, "train"), 10)]
    return train_tokenizer([asked(row) + answered(row["messages"][-1]["content"]) for row in rows], CONFIG.vocab_size)


def ids(text: str) -> list[int]:
    return tiny_tokenizer().encode(text, add_special_tokens=False).ids


def stage(**options: Any) -> StageRecipe:
    """A stage of 40 steps of 512 tokens."""
    settings: dict[str, Any] = {
        "tokens": 40 * 512,
        "prepare_tokens": 40 * 512,
        "decay_tokens": 10 * 512,
        "warmup_tokens": 512,
        "batch_tokens": 512,
        "sequence": 64,
        "decay_sequence": 64,
        "lr_matrix": 0.01,
        "lr_vector": 0.003,
        "weight_decay": 0.0,
        "mix": (Source("generated", 1.0, name="arithmetic"),),
    }
    return StageRecipe(**{**settings, **options})
