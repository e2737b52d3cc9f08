"""Held-out bits per byte: of a model folder, run by the fp32 definition, and of the n-gram baseline on the same tokens."""

from __future__ import annotations

import json
import lzma
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from senryu.evals.ngram import NGram
from senryu.model.spec import load_spec
from senryu.model.tokenizer import Tokenizer
from senryu.model.transformer import forward
from senryu.model.weights import load_weights

WINDOW, STRIDE = 1024, 512  # every token but a document's first ones is scored with at least 512 tokens before it

Nats = Callable[[np.ndarray], np.ndarray]  # tokens [n] -> -ln p of tokens 1.. given those before, [n - 1]


@dataclass(frozen=True)
class HeldOut:
    """One held-out document: its file in the bundle, bytes of UTF-8, and ids with the two tokens that open a document."""

    file: str
    size: int
    ids: np.ndarray


def read_held_out(path: Path, tokenizer: Tokenizer, bytes_per_file: int) -> list[HeldOut]:
    """The first documents of each file until `bytes_per_file` is passed."""
    out: list[HeldOut] = []
    taken: dict[str, int] = {}
    with lzma.open(path, "rt", encoding="utf8") as lines:
        for line in lines:
            row = json.loads(line)
            if taken.get(row["file"], 0) < bytes_per_file:
                size = len(row["text"].encode())
                ids = tokenizer.encode_rendered([f"<|begin|><|text|>{row['text']}"])
                out.append(HeldOut(row["file"], size, np.array(ids)))
                taken[row["file"]] = taken.get(row["file"], 0) + size
    return out


def bits_per_byte(documents: list[HeldOut], nats: Nats) -> dict[str, float]:
    """Bits per byte by file, and of `all` bytes together; the opening tokens are given, not scored."""
    bits: dict[str, float] = {}
    sizes: dict[str, int] = {}
    for document in documents:
        cost = float(nats(document.ids)[1:].sum()) / math.log(2)
        for name in (document.file, "all"):
            bits[name] = bits.get(name, 0.0) + cost
            sizes[name] = sizes.get(name, 0) + document.size
    return {name: bits[name] / sizes[name] for name in bits}


def windows(length: int) -> Iterator[tuple[int, int, int]]:
    """(start, stop, first scored): windows over `length` tokens whose scored parts tile 1..length."""
    scored = 1
    for start in range(0, max(length - WINDOW + STRIDE, 1), STRIDE):
        stop = min(start + WINDOW, length)
        yield start, stop, scored
        scored = stop


def model_nats(folder: Path) -> Nats:
    """A model folder as a scorer, in fp32."""
    spec, weights = load_spec(folder), load_weights(folder).to_float32()

    def nats(ids: np.ndarray) -> np.ndarray:
        out = np.empty(len(ids) - 1)
        for start, stop, scored in windows(len(ids)):
            logits = forward(spec, weights, ids[start : stop - 1])[scored - 1 - start :].astype(np.float64)
            logits -= logits.max(-1, keepdims=True)
            log_z = np.log(np.exp(logits).sum(-1))
            out[scored - 1 : stop - 1] = log_z - logits[np.arange(len(logits)), ids[scored:stop]]
        return out

    return nats


def ngram_nats(training_tokens: np.ndarray, order: int, vocab: int) -> Nats:
    """The n-gram baseline as a scorer."""
    model = NGram(training_tokens, order, vocab)
    return lambda ids: model.nats(ids)[1:]
