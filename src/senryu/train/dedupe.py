"""Copies among the documents of a mix: exact ones by a hash, near ones by MinHash and LSH; what is held out comes first.

Near: the sets of runs of five words have a Jaccard similarity of about 0.7 or more, as MinHash estimates it (A. Broder, "On
the resemblance and containment of documents", 1997). Only pairs that share a band of the signature are compared (Leskovec,
Rajaraman, Ullman, "Mining of Massive Datasets", 3.4), and only with documents that are kept: a thousand copies cost a thousand
comparisons.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

SHINGLE = 5  # words of a run
BANDS, DEPTH = 20, 6  # hashes of a signature: a pair of similarity s meets with probability 1 - (1 - s^6)^20, 0.92 at 0.7
HASHES = BANDS * DEPTH
SIMILAR = 0.7
CHUNK = 2048  # shingles hashed at once, so that 120 hashes of each stay in the CPU's cache
WORDS_KEPT = 1_000_000  # words whose hashes are remembered

_WIDE = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"  # scripts without spaces: each character is a word
_WORD = re.compile(rf"[{_WIDE}]|[^\W{_WIDE}]+")


def exact_key(text: str) -> bytes:
    """The same for texts that differ in case and white space alone."""
    return hashlib.blake2b(" ".join(text.casefold().split()).encode(), digest_size=16).digest()


def _mix(x: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser: uint64 -> uint64, every input bit reaches every output bit (Steele, Lea, Flood, 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


class _Words(dict[str, int]):
    """64-bit hashes of words, the same in every process."""

    def __missing__(self, word: str) -> int:
        if len(self) >= WORDS_KEPT:
            self.clear()
        value = self[word] = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")
        return value


class MinHash:
    """Signatures of texts. Two are comparable if they come from the same seed."""

    def __init__(self, seed: int = 1) -> None:
        draw = np.random.default_rng(seed)
        self._factors = draw.integers(0, 2**63, (HASHES, 1), np.uint64) * np.uint64(2) + np.uint64(1)
        self._terms = draw.integers(0, 2**63, (HASHES, 1), np.uint64)
        self._words = _Words()

    def signature(self, text: str) -> np.ndarray | None:
        """uint32 [HASHES]; the share of equal entries of two estimates their similarity. None for a text without words."""
        words = _WORD.findall(text.casefold())
        if not words:
            return None
        ids = np.fromiter(map(self._words.__getitem__, words), np.uint64, len(words))
        count = max(len(ids) - SHINGLE + 1, 1)
        runs = np.zeros(count, np.uint64)
        for at in range(min(SHINGLE, len(ids))):
            runs = _mix(runs + ids[at : at + count])  # order matters: the sum so far is mixed before the next word is added
        least = np.full(HASHES, 2**64 - 1, np.uint64)
        for start in range(0, count, CHUNK):
            hashes = self._factors * runs[start : start + CHUNK] + self._terms
            np.minimum(least, hashes.min(axis=1), out=least)
        return (least >> np.uint64(32)).astype(np.uint32)


@dataclass(frozen=True)
class Verdicts:
    """Of each document: the earlier one that it repeats, or -1; whether word for word. `compared`: pairs of signatures."""

    original: np.ndarray  # int64 [n]
    exact: np.ndarray  # bool [n]
    compared: int


def find_copies(keys: list[bytes], signatures: list[np.ndarray | None], pinned: int = 0) -> Verdicts:
    """Go through documents in order and keep each that repeats no document kept before.

    A signature of None: compared by its key alone. The first `pinned` documents count as kept, whatever they repeat.
    """
    original = np.full(len(keys), -1, np.int64)
    first: dict[bytes, int] = {}
    for at, key in enumerate(keys):
        original[at] = first.setdefault(key, at)
    exact = original != np.arange(len(keys))
    original[~exact] = -1
    signed = [at for at, s in enumerate(signatures) if s is not None and not exact[at]]
    if len(signed) < 2:
        return Verdicts(original, exact, 0)
    stacked = np.stack([s for at in signed if (s := signatures[at]) is not None])
    compared = 0
    for at, of, pairs in _near(stacked, sum(at < pinned for at in signed)):
        compared += pairs
        if of >= 0:
            original[signed[at]] = signed[of]
    return Verdicts(original, exact, compared)


def _near(signatures: np.ndarray, pinned: int) -> Iterator[tuple[int, int, int]]:
    """(document, the kept one it resembles or -1, comparisons) of each that shares a band with another. uint32 [n, HASHES]."""
    bands = np.empty((len(signatures), BANDS), np.uint64)
    meets = np.zeros(len(signatures), bool)
    for band in range(BANDS):
        key = np.full(len(signatures), band, np.uint64)
        for column in range(band * DEPTH, (band + 1) * DEPTH):
            key = _mix(key + signatures[:, column])
        bands[:, band] = key
        order = np.argsort(key, kind="stable")
        same = key[order[1:]] == key[order[:-1]]
        meets[order[1:][same]] = meets[order[:-1][same]] = True
    kept: dict[int, list[int]] = {}
    for at in np.flatnonzero(meets).tolist():
        keys = bands[at].tolist()
        others = sorted({other for key in keys for other in kept.get(key, ())})
        similar = (signatures[others] == signatures[at]).mean(axis=1) >= SIMILAR
        of = others[int(similar.argmax())] if similar.any() else -1
        if of < 0 or at < pinned:
            for key in keys:
                kept.setdefault(key, []).append(at)
        yield at, of, len(others)


class Copies:
    """Keys and signatures of all documents of a mix that are to be compared."""

    def __init__(self) -> None:
        self._hash = MinHash()
        self._keys: list[bytes] = []
        self._signatures: list[np.ndarray | None] = []
        self._held_out: list[bool] = []

    def add(self, text: str, *, near: bool, held_out: bool) -> int:
        """Take a document in; its number in the answer of `judge`. near: compare it by its signature too."""
        self._keys.append(exact_key(text))
        self._signatures.append(self._hash.signature(text) if near else None)
        self._held_out.append(held_out)
        return len(self._keys) - 1

    def judge(self) -> list[str]:
        """Of each document "" or why it goes: a copy of an earlier one, `exact` or `near`, or of one that is `held_out`."""
        held_out = np.array(self._held_out, bool)
        order, first = np.argsort(~held_out, kind="stable").tolist(), int(held_out.sum())
        found = find_copies([self._keys[i] for i in order], [self._signatures[i] for i in order], first)
        verdicts = [""] * len(order)
        for at in np.flatnonzero(found.original >= 0).tolist():
            leaked = found.original[at] < first <= at
            verdicts[order[at]] = "held_out" if leaked else "exact" if found.exact[at] else "near"
        return verdicts
