"""Data: the bundle's xz-packed JSON lines -> documents -> packed rows of one stage, with a held-out part kept back."""

from __future__ import annotations

import hashlib
import json
import lzma
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from senryu.train import chat, smalltalk
from senryu.train.pack import pack_stream, pack_whole
from senryu.train.recipe import Recipe, RecipeError, Source, StageRecipe
from senryu.train.vocabulary import contains_special

ENCODE_BATCH = 512  # documents per call of the tokenizer, which works on all cores
MAX_EPOCHS = 4  # most often a small source is repeated to fill its share


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects of an .jsonl.xz file."""
    try:
        with lzma.open(path, "rt", encoding="utf8") as lines:
            for line in lines:
                yield json.loads(line)
    except FileNotFoundError as error:
        raise RecipeError(f"{path} does not exist; --data must name the folder of the data bundle") from error


def is_held_out(text: str, recipe: Recipe) -> bool:
    """A stable draw by content, so that the split survives new files and orders."""
    digest = hashlib.sha256(f"{recipe.seed}\n{text}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < recipe.held_out * 2**64


@dataclass(frozen=True)
class Document:
    """One training document, rendered only when it is needed: rendering costs more than reading."""

    text: str = ""
    messages: tuple[dict[str, Any], ...] = ()
    tools: tuple[dict[str, Any], ...] = ()

    def render(self) -> str:
        """The document as training text with its special tokens."""
        if self.messages:
            return chat.render(list(self.messages), list(self.tools) or None)
        return f"<|begin|><|text|>{self.text}<|end|>"


def documents(source: Source, folder: Path, recipe: Recipe) -> Iterator[Document]:
    """The training documents of one source, held-out ones left out."""
    if source.kind == "smalltalk":
        yield from (Document(messages=tuple(messages)) for messages in smalltalk.conversations(recipe.seed))
        return
    seen: set[str] = set()
    for row in rows(folder / source.path):
        if contains_special(json.dumps(row, ensure_ascii=False)):
            continue
        if source.kind == "text":
            if not is_held_out(row["text"], recipe):
                yield Document(row["text"])
        elif source.kind == "chat":
            yield Document(messages=tuple(chat.to_messages(row)), tools=tuple(chat.to_tools(row) or ()))
        elif source.kind == "intent_prompts":
            for name, message, label in chat.labelled_messages(row):
                if message not in seen:
                    seen.add(message)
                    yield Document(messages=(*chat.intent_prompt(name, message), {"role": "assistant", "content": label}))
        else:
            raise RecipeError(f"source kind `{source.kind}` is unknown; use text, chat, intent_prompts or smalltalk")


def write_held_out(recipe: Recipe, folder: Path, path: Path) -> None:
    """The held-out documents of the pretraining mix as an .jsonl.xz of {"file", "text"}, for the evaluation."""
    with lzma.open(path, "wt", encoding="utf8") as out:
        for name in (s.path for s in recipe.pretrain.mix if s.kind == "text"):
            for row in rows(folder / name):
                if is_held_out(row["text"], recipe) and not contains_special(row["text"]):
                    out.write(json.dumps({"file": name, "text": row["text"]}, ensure_ascii=False) + "\n")


def sample_texts(recipe: Recipe, folder: Path) -> Iterator[str]:
    """Text for the tokenizer, in the proportions of the pretraining mix; special tokens are cut away."""
    for source in recipe.pretrain.mix:
        room = int(recipe.tokenizer.sample_mb * 1e6 * source.share)
        for document in shuffled(list(documents(source, folder, recipe)), recipe.seed):
            if room <= 0:
                break
            text = document.render()
            room -= len(text)
            yield from (piece.split("|>", 1)[-1] for piece in text.split("<|"))


def shuffled(items: Sequence[Document], seed: int) -> Iterator[Document]:
    """The items in a seeded order."""
    return (items[i] for i in np.random.default_rng(seed).permutation(len(items)))


def encode(texts: Sequence[str], tokenizer: Tokenizer) -> list[np.ndarray]:
    """uint16 ids of each text, special tokens recognised."""
    return [np.array(e.ids, np.uint16) for e in tokenizer.encode_batch(list(texts), add_special_tokens=False)]


def _take(items: list[Document], wanted: int, tokenizer: Tokenizer, longest: int | None, seed: int) -> list[np.ndarray]:
    """Encoded documents up to `wanted` tokens, in a new order each epoch; less if MAX_EPOCHS run out."""
    out: list[np.ndarray] = []
    total = 0
    for epoch in range(MAX_EPOCHS):
        order = list(shuffled(items, seed + epoch))
        for start in range(0, len(order), ENCODE_BATCH):
            for ids in encode([d.render() for d in order[start : start + ENCODE_BATCH]], tokenizer):
                if longest is None or len(ids) <= longest:
                    out.append(ids)
                    total += len(ids)
                if total >= wanted:
                    return out
    return out


@dataclass(frozen=True)
class Prepared:
    """Packed rows of a stage and what they hold: tokens per source."""

    rows: np.ndarray  # uint16 [n, length]
    tokens: dict[str, int]


def prepare(stage: StageRecipe, recipe: Recipe, folder: Path, tokenizer: Tokenizer, *, whole: bool) -> Prepared:
    """Encode and pack a stage's mix. `whole`: conversations are never cut and padded rows result (fine-tuning)."""
    picked: list[np.ndarray] = []
    tokens: dict[str, int] = {}
    for source in stage.mix:
        limit = stage.decay_sequence if source.kind != "text" or whole else None
        items = list(documents(source, folder, recipe))
        part = _take(items, int(stage.prepare_tokens * source.share), tokenizer, limit, recipe.seed)
        if not part:
            raise RecipeError(f"source {source.path or source.kind} has no document that fits; check path and sequence")
        name = f"{source.path or 'generated'}:{source.kind}"
        tokens[name] = sum(len(ids) for ids in part)
        picked.extend(part)
    packer = pack_whole if whole else pack_stream
    return Prepared(packer(picked, stage.decay_sequence, np.random.default_rng(recipe.seed)), tokens)
