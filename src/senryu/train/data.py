"""Data: an opened mix -> the tokenizer's sample, the held-out file, and the packed rows of one stage."""

from __future__ import annotations

import json
import lzma
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from tokenizers import Tokenizer

from senryu.train.join import join
from senryu.train.manifest import Entry
from senryu.train.mix import Mix, Opened
from senryu.train.pack import pack_stream, pack_whole
from senryu.train.recipe import Recipe, RecipeError, StageRecipe
from senryu.train.store import Document

RUN = 16  # characters of neighbours that are taken together, for each token of a row: a few rows
ENCODE_BATCH, ENCODE_CHARS = 512, 4_000_000  # most of a call of the tokenizer, which works on all cores: documents, characters


def write_held_out(mix: Mix, path: Path) -> None:
    """The held-out documents of a mix as an .jsonl.xz of {"file", "text"}, for the evaluation."""
    with lzma.open(path, "wt", encoding="utf8") as out:
        for opened in mix.opened:
            name = opened.source.path if opened.source.kind == "text" else opened.source.label
            for text in opened.held_out_texts():
                out.write(json.dumps({"file": name, "text": text}, ensure_ascii=False) + "\n")


def sample_texts(mix: Mix, recipe: Recipe) -> Iterator[str]:
    """Text for the tokenizer, in the proportions of the mix; special tokens are cut away."""
    for opened in mix.opened:
        room = int(recipe.tokenizer.sample_mb * 1e6 * opened.source.share)
        for document in opened.in_order(recipe.seed, epochs=1):
            if room <= 0:
                break
            text = document.render()
            room -= len(text)
            yield from (piece.split("|>", 1)[-1] for piece in text.split("<|"))


def encode(texts: Sequence[str], tokenizer: Tokenizer) -> list[np.ndarray]:
    """uint16 ids of each text, special tokens recognised."""
    return [np.array(e.ids, np.uint16) for e in tokenizer.encode_batch(list(texts), add_special_tokens=False)]


def _batches(documents: Iterator[Document]) -> Iterator[list[str]]:
    """Rendered documents, as many as one call of the tokenizer should get."""
    batch: list[str] = []
    size = 0
    for document in documents:
        batch.append(document.render())
        size += len(batch[-1])
        if len(batch) == ENCODE_BATCH or size >= ENCODE_CHARS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _take(
    opened: Opened, documents: Iterator[Document], wanted: int, tokenizer: Tokenizer, longest: int | None
) -> list[np.ndarray]:
    """Encoded documents of the source up to `wanted` tokens; less if they run out.

    Fills in what the source's entry says of its use. Raises RecipeError if no document fits `longest`.
    """
    out: list[np.ndarray] = []
    entry, source = opened.entry, opened.source
    read = read_tokens = total = over = 0
    for batch in _batches(documents):
        before = len(out)
        for ids in encode(batch, tokenizer):
            read, read_tokens = read + 1, read_tokens + len(ids)
            if longest is not None and len(ids) > longest:
                over += read <= (entry.documents or read)  # each once, not in every epoch
                continue
            out.append(ids)
            total += len(ids)
            if total >= wanted:
                break
        if total >= wanted or (len(out) == before and source.kind == "generated"):  # which could go on for ever
            break
    if not out:
        raise RecipeError(f"source {source.label} has no document that fits; check path, chars and sequence")
    if over:
        entry.dropped["over_length"] = over
    entry.used, entry.tokens_used = len(out), total
    if entry.documents:
        entry.tokens = round(read_tokens / read * entry.documents)
        entry.epochs = round(read / entry.documents, 3)
    return out


@dataclass(frozen=True)
class Prepared:
    """Packed rows of a stage, and what they hold."""

    rows: np.ndarray  # uint16 [n, length]
    entries: list[Entry]

    @property
    def tokens(self) -> dict[str, int]:
        """Tokens per source."""
        out: dict[str, int] = {}
        for entry in self.entries:
            out[entry.source] = out.get(entry.source, 0) + entry.tokens_used
        return out


Packing = Literal["stream", "whole", "joined"]
"""How rows are made: of one stream, cut anywhere (pretraining); of whole documents, padded (fine-tuning); of whole ones too,
but texts joined with their neighbours to documents as long as a row, cut only where one alone is longer (long rows)."""


def pack(mix: Mix, stage: StageRecipe, recipe: Recipe, tokenizer: Tokenizer, how: Packing) -> Prepared:
    """Encode and pack an opened mix.

    Raises RecipeError if a source has nothing that fits, or all of them together do not fill a row.
    """
    picked: list[np.ndarray] = []
    length = stage.decay_sequence
    blank = encode(["\n\n"], tokenizer)[0]
    for opened in mix.opened:
        source, joined = opened.source, how == "joined" and opened.source.form == "text"
        cut = joined or (how == "stream" and source.form == "text")
        runs = (
            opened.in_runs(recipe.seed, source.epochs, RUN * length) if joined else opened.in_order(recipe.seed, source.epochs)
        )
        taken = _take(opened, runs, int(stage.prepare_tokens * source.share), tokenizer, None if cut else length)
        picked += join(taken, length, blank) if joined else taken
    rows = (pack_stream if how == "stream" else pack_whole)(picked, length, np.random.default_rng(recipe.seed))
    if not len(rows):
        total = sum(map(len, picked))
        raise RecipeError(f"the mix has {total:,} tokens, fewer than one row of {length:,}; add data or shorten decay_sequence")
    return Prepared(rows, [opened.entry for opened in mix.opened])
