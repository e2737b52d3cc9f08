"""Export: a trained net -> a Hugging Face model folder that transformers, vLLM and our own engine load unchanged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from senryu.train.chat import TEMPLATE
from senryu.train.net import Net, NetConfig
from senryu.train.vocabulary import BEGIN, END, PAD


def hf_config(config: NetConfig) -> dict[str, Any]:
    """`config.json` of a Cohere2ForCausalLM. `rope_theta` stands in both places: readers differ by age."""
    return {
        "architectures": ["Cohere2ForCausalLM"],
        "model_type": "cohere2",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "layer_norm_eps": config.layer_norm_eps,
        "logit_scale": config.logit_scale,
        "layer_types": config.layer_types,
        "sliding_window": config.sliding_window,
        "sliding_window_pattern": config.full_every,
        "rope_theta": config.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "max_position_embeddings": config.max_position_embeddings,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "tie_word_embeddings": True,
        "use_cache": True,
        "bos_token_id": BEGIN,
        "eos_token_id": END,
        "pad_token_id": PAD,
        "dtype": "bfloat16",
    }


def write_configs(config: NetConfig, folder: Path) -> None:
    """config.json and generation_config.json."""
    generation = {"bos_token_id": BEGIN, "eos_token_id": END, "pad_token_id": PAD}
    for name, content in (("config.json", hf_config(config)), ("generation_config.json", generation)):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf8")


def export(net: Net, tokenizer_folder: Path, folder: Path, dtype: torch.dtype = torch.bfloat16) -> None:
    """Write the whole model folder; the tied head is not stored, as transformers expects."""
    folder.mkdir(parents=True, exist_ok=True)
    write_configs(net.config, folder)
    tensors = {name: p.detach().to("cpu", dtype).contiguous() for name, p in net.state_dict().items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if (tokenizer_folder / name).resolve() != (folder / name).resolve():
            shutil.copyfile(tokenizer_folder / name, folder / name)
    if TEMPLATE.resolve() != (folder / TEMPLATE.name).resolve():
        shutil.copyfile(TEMPLATE, folder / TEMPLATE.name)
