"""Where training starts when not from seeded weights: a model folder in the Cohere2 layout -> shape, tokenizer, weights."""

from __future__ import annotations

import json
import shutil
from dataclasses import fields, replace
from pathlib import Path

import torch
from tokenizers import Tokenizer

from senryu.model.weights import load_weights
from senryu.train.net import Net, NetConfig
from senryu.train.recipe import Recipe, RecipeError
from senryu.train.vocabulary import IDS

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")


def folder_config(folder: Path) -> NetConfig:
    """The shape of the model in `folder`. Raises RecipeError when it is not one that training can go on with."""
    path = folder / "config.json"
    if not path.exists():
        raise RecipeError(f"{path} does not exist; name a folder with a model in Hugging Face form")
    found = json.loads(path.read_text(encoding="utf8"))
    if found.get("model_type") != "cohere2":
        raise RecipeError(
            f"{path}: model_type is {found.get('model_type')!r}, and stages train the cohere2 layout; "
            "for other families use `senryu train sft --model REF --lora`"
        )
    known = {field.name: found[field.name] for field in fields(NetConfig) if field.name in found}
    kinds = found.get("layer_types") or []
    every = kinds.index("full_attention") + 1 if "full_attention" in kinds else len(kinds) + 1
    config = NetConfig(**known, full_every=found.get("sliding_window_pattern") or every)
    if kinds != config.layer_types or not found.get("tie_word_embeddings", True):
        raise RecipeError(f"{path}: layers {kinds} with tied head {found.get('tie_word_embeddings')} are no layout of ours")
    return config


def starting_from(folder: Path, recipe: Recipe) -> Recipe:
    """The recipe in the shape and vocabulary of the model in `folder`."""
    net = folder_config(folder)
    return replace(recipe, net=net, tokenizer=replace(recipe.tokenizer, vocab_size=net.vocab_size))


def take_tokenizer(folder: Path, data: Path) -> None:
    """The folder's tokenizer becomes the run's. Raises RecipeError without our special tokens, or when the run has another."""
    path = folder / TOKENIZER_FILES[0]
    if not path.exists():
        raise RecipeError(f"{path} does not exist; a model to start from brings its tokenizer")
    tokenizer = Tokenizer.from_file(str(path))
    if wrong := [token for token, id in IDS.items() if tokenizer.token_to_id(token) != id]:
        raise RecipeError(f"{path}: {wrong[0]} is not token {IDS[wrong[0]]}; start from a model that was trained here")
    kept = data / TOKENIZER_FILES[0]
    if kept.exists() and kept.read_bytes() != path.read_bytes():
        raise RecipeError(f"{kept} is another tokenizer than {path}; choose another --out, as this run's data is in its tokens")
    if not kept.exists():
        data.mkdir(parents=True, exist_ok=True)
        for name in reversed(TOKENIZER_FILES):  # that which says that it is there comes last
            shutil.copyfile(folder / name, data / name)


def load_folder(folder: Path, net: Net) -> None:
    """The folder's weights, widened to float32, into `net`. Raises RecipeError where names or shapes differ."""
    tensors = {name: torch.from_numpy(array.copy()) for name, array in load_weights(folder).to_float32().items()}
    try:
        net.load_state_dict(tensors)
    except RuntimeError as error:
        raise RecipeError(f"{folder}: the weights do not fit its config.json: {error}") from error
