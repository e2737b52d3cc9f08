"""Documents that belong together -> long ones: chapters of a book, pages of a manual, files of a package, joined in order."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import numpy as np

from senryu.train.vocabulary import BEGIN, END, IDS

OPENING = np.array([BEGIN, IDS["<|text|>"]], np.uint16)
CLOSING = np.array([END], np.uint16)
_ROMAN = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100, "D": 500, "M": 1000}

Key = tuple[tuple[int, int, str], ...]


def reading_order(text: str) -> Key:
    """A key to sort the documents of one origin by: their first two lines, numbers (also Roman ones) by their value.

    Prepared rows begin with their work's title and their chapter's, so chapters of a book come one after the other.
    """
    head = " ".join(text.split("\n", 2)[:2])
    return tuple(_part(word) for word in re.findall(r"\d+|[^\W\d]+", head))


def _part(word: str) -> tuple[int, int, str]:
    """Numbers before words."""
    if word.isdigit():
        return (0, int(word), "")
    if re.fullmatch(r"M{0,3}(CM|CD|D?C{0,3})(XC|XL|L?X{0,3})(IX|IV|V?I{0,3})", word):
        values = [_ROMAN[letter] for letter in word]
        return (0, sum(-v if v < max(values[i:]) else v for i, v in enumerate(values)), "")
    return (1, 0, word.lower())


def join(documents: Iterable[np.ndarray], length: int, between: np.ndarray) -> Iterator[np.ndarray]:
    """Documents of at most `length` tokens made of the given ones, neighbours together as long as they fit.

    documents: uint16 ids, each <|begin|><|text|> ... <|end|>, in an order in which neighbours belong together. between: ids
    that stand between two of them, such as a blank line's. One that fits is never cut; one that does not is cut into pieces of
    `length`, and what is left of it goes on with its neighbours.
    """
    room = length - len(OPENING) - len(CLOSING)
    parts: list[np.ndarray] = []
    filled = 0
    for document in documents:
        inner = document[len(OPENING) : -len(CLOSING)]
        if parts and filled + len(between) + len(inner) > room:
            yield _closed(parts)
            parts, filled = [], 0
        while len(inner) > room:
            yield _closed([inner[:room]])
            inner = inner[room:]
        if parts:
            parts.append(between)
            filled += len(between)
        parts.append(inner)
        filled += len(inner)
    if parts:
        yield _closed(parts)


def _closed(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([OPENING, *parts, CLOSING])
