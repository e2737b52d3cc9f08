"""Filler of long texts: sentences made by code, or pieces of texts that are passed in; each piece with its white space."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from senryu.train.generators.common import Split, banks, person

PARAGRAPH = 8  # told sentences, on average
NUMBERS = {"h": (1, 12), "n": (2, 99), "m": (100, 999)}
PIECE = re.compile(r".+?(?:[.!?]\s+|\n+|$)", re.S)


def plain(draw: random.Random, split: Split, chars: int) -> list[str]:
    """Sentences of four parts, of at most so many characters together: 10,000 different ones in training, 2,401 in testing."""
    bank = banks("retrieval", split)
    parts = [bank[part] for part in ("subjects", "verbs", "places", "times")]
    return _up_to(chars, iter(lambda: " ".join(draw.choice(part) for part in parts) + ". ", None))


def told(draw: random.Random, split: Split, chars: int) -> list[str]:
    """Sentences about people, things, places and small numbers in paragraphs, of at most so many characters together.

    Millions of different ones: a text of 200,000 tokens says hardly any sentence twice. No number has over three digits and
    nothing looks like a code, so that no value that is asked for stands there by chance.
    """
    templates, slots = banks("retrieval", split)["told"], _Slots(draw, split)

    def sentence() -> str:
        end = "\n\n" if draw.random() * PARAGRAPH < 1 else " "
        return str(draw.choice(templates).format_map(slots)) + end

    return _up_to(chars, iter(sentence, None))


def quoted(draw: random.Random, documents: Sequence[str], chars: int) -> list[str]:
    """Consecutive sentences of the documents, from anywhere in one, then from another, of at most so many characters together.

    Raises ValueError for documents without text.
    """
    if not any(document.strip() for document in documents):
        raise ValueError("the documents for the filler are empty; pass texts with sentences")

    def pieces() -> Iterator[str]:
        while True:
            document = draw.choice(documents)
            start = draw.randrange(max(len(document) // 2, 1))
            found = [match.group() for match in PIECE.finditer(document, start)]
            yield from found[1:] or found  # the first begins in the middle of a sentence
            yield "\n\n"

    return _up_to(chars, pieces())


def _up_to(chars: int, pieces: Iterator[str]) -> list[str]:
    out: list[str] = []
    for piece in pieces:
        chars -= len(piece)
        if chars < 0:
            break
        out.append(piece)
    return out


class _Slots(dict[str, str]):
    """The places of a told sentence, {p} a person, {o} a thing and so on: a fresh draw at every look."""

    def __init__(self, draw: random.Random, split: Split) -> None:
        words, bank = banks("words", split), banks("retrieval", split)
        drawn = {"c": "colour", "o": "product", "s": "street", "x": "company", "y": "topic", "z": "city"}
        self._makers: dict[str, Callable[[], str]] = {slot: partial(draw.choice, words[name]) for slot, name in drawn.items()}
        self._makers["w"] = partial(draw.choice, bank["weekdays"])
        self._makers |= dict.fromkeys("pq", partial(person, draw, split))
        self._makers |= {slot: partial(_number, draw, *ends) for slot, ends in NUMBERS.items()}

    def __missing__(self, slot: str) -> str:
        return self._makers[slot]()


def _number(draw: random.Random, least: int, most: int) -> str:
    return str(draw.randint(least, most))
