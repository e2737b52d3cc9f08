"""Export: a trained net -> a Hugging Face model folder that transformers, vLLM and our own engine load unchanged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from senryu.train.chat import TEMPLATE
from senryu.train.net import Net, NetConfig
from senryu.train.vocabulary import BEGIN, END, PAD

SHARD_BYTES = (16 << 20) - (64 << 10)  # of tensors: with its header a file is under 16 MiB, which goes through anywhere
INDEX = "model.safetensors.index.json"


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


def export(
    net: Net, tokenizer_folder: Path, folder: Path, dtype: torch.dtype = torch.bfloat16, shard_bytes: int = SHARD_BYTES
) -> None:
    """Write the whole model folder; the tied head is not stored, as transformers expects.

    Weights of more than `shard_bytes` are stored in shards of at most so many, as transformers names them; a single tensor
    that is larger is a shard of its own. Weights that the folder had before are replaced.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_configs(net.config, folder)
    tensors = {name: p.detach().to("cpu", dtype).contiguous() for name, p in net.state_dict().items()}
    for old in (*folder.glob("model*.safetensors"), folder / INDEX):
        old.unlink(missing_ok=True)
    _write_weights(tensors, folder, shard_bytes)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if (tokenizer_folder / name).resolve() != (folder / name).resolve():
            shutil.copyfile(tokenizer_folder / name, folder / name)
    if TEMPLATE.resolve() != (folder / TEMPLATE.name).resolve():
        shutil.copyfile(TEMPLATE, folder / TEMPLATE.name)


def _write_weights(tensors: dict[str, Tensor], folder: Path, shard_bytes: int) -> None:
    """model.safetensors, or shards in the order of the net with the index that says what is where."""
    shards: list[dict[str, Tensor]] = [{}]
    for name, tensor in tensors.items():
        room = shard_bytes - sum(other.nbytes for other in shards[-1].values())
        if tensor.nbytes > room and shards[-1]:
            shards.append({})
        shards[-1][name] = tensor
    single = len(shards) == 1
    files = [
        "model.safetensors" if single else f"model-{i:05}-of-{len(shards):05}.safetensors" for i in range(1, len(shards) + 1)
    ]
    for file, shard in zip(files, shards, strict=True):
        save_file(shard, folder / file, metadata={"format": "pt"})
    if not single:
        weight_map = {name: file for file, shard in zip(files, shards, strict=True) for name in shard}
        index = {"metadata": {"total_size": sum(tensor.nbytes for tensor in tensors.values())}, "weight_map": weight_map}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf8")
