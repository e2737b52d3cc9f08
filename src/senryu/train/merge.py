"""A fine-tuned checkpoint -> a folder like the one that it came from, tensor by tensor; knows no training.

Names, shards and number formats stay those of the base: whatever loads the base loads the result.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

# what belongs to a checkpoint beside its weights; README.md is the base's own and is written anew
_COPIED = ("*.json", "*.jinja", "tokenizer*", "LICEN[SC]E*", "NOTICE*", "USE_POLICY*", "ATTRIBUTION*")


def write_model(base: Path, folder: Path, change: Callable[[str, Tensor], Tensor], card: str) -> None:
    """Write `folder` anew: each tensor of `base` as `change(name, tensor)` in the tensor's own format, and a card.

    The tensors are read one by one, the results held a file at a time. A crash leaves the folder that was there before.
    """
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for pattern in _COPIED:
        for file in base.glob(pattern):
            if file.is_file():
                shutil.copyfile(file, part / file.name)
    for name in _weight_files(base):
        tensors: dict[str, Tensor] = {}
        with safe_open(base / name, framework="pt") as source:
            metadata = source.metadata() or {"format": "pt"}
            for key in source.keys():  # noqa: SIM118 - not a dict
                tensor = source.get_tensor(key)
                tensors[key] = change(key, tensor).to(tensor.dtype).contiguous()
        save_file(tensors, part / name, metadata=metadata)
    (part / "README.md").write_text(card, encoding="utf8")
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(part, folder)


def _weight_files(base: Path) -> list[str]:
    if (base / "model.safetensors").exists():
        return ["model.safetensors"]
    index = json.loads((base / "model.safetensors.index.json").read_text(encoding="utf8"))
    return sorted(set(index["weight_map"].values()))


def with_deltas(deltas: dict[str, Callable[[], Tensor]]) -> Callable[[str, Tensor], Tensor]:
    """For `write_model`: what adapters add to some tensors, added in float32 and rounded once."""
    return lambda name, tensor: tensor.float() + deltas[name]().float() if name in deltas else tensor


def with_values(values: dict[str, Tensor]) -> Callable[[str, Tensor], Tensor]:
    """For `write_model`: other tensors of the same names."""
    return lambda name, tensor: values[name].detach().to("cpu", torch.float32) if name in values else tensor
