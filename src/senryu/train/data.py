"""Data: the bundle's xz-packed JSON lines -> documents -> packed rows of one stage, with a held-out part kept back."""

from __future__ import annotations

import hashlib
import json
import lzma
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from senryu.train import chat
from senryu.train.generators import GENERATORS
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
    """The training documents of one source, held-out ones left out. A generated source has no end."""
    if source.kind == "generated":
        options = {"chars": source.chars} if source.chars else {}
        for row in GENERATORS[source.name](recipe.seed, "train", **options):
            yield Document(messages=tuple(chat.to_messages(row)), tools=tuple(chat.to_tools(row) or ()))
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
        else:
            for name, message, label in chat.labelled_messages(row):
                if message not in seen:
                    seen.add(message)
                    yield Document(messages=(*chat.intent_prompt(name, message), {"role": "assistant", "content": label}))


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
        for document in in_order(source, folder, recipe, epochs=1):
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


def in_order(source: Source, folder: Path, recipe: Recipe, *, epochs: int) -> Iterator[Document]:
    """A source's documents as training takes them: stored ones in a new order each epoch, generated ones fresh, without end."""
    if source.kind == "generated":
        yield from documents(source, folder, recipe)
        return
    items = list(documents(source, folder, recipe))
    for epoch in range(epochs):
        yield from shuffled(items, recipe.seed + epoch)


def _take(
    source: Source, items: Iterator[Document], wanted: int, tokenizer: Tokenizer, longest: int | None
) -> list[np.ndarray]:
    """Encoded documents up to `wanted` tokens; less if the items run out. Raises RecipeError if none fits `longest`."""
    out: list[np.ndarray] = []
    total = 0
    while batch := list(islice(items, ENCODE_BATCH)):
        before = len(out)
        for ids in encode([d.render() for d in batch], tokenizer):
            if longest is None or len(ids) <= longest:
                out.append(ids)
                total += len(ids)
            if total >= wanted:
                return out
        if len(out) == before and source.kind == "generated":
            break  # it could go on for ever
    if not out:
        raise RecipeError(f"source {source.label} has no document that fits; check path, chars and sequence")
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
        items = in_order(source, folder, recipe, epochs=MAX_EPOCHS)
        part = _take(source, items, int(stage.prepare_tokens * source.share), tokenizer, limit)
        tokens[source.label] = tokens.get(source.label, 0) + sum(len(ids) for ids in part)
        picked.extend(part)
    packer = pack_whole if whole else pack_stream
    return Prepared(packer(picked, stage.decay_sequence, np.random.default_rng(recipe.seed)), tokens)
