"""What all generators share: rows in the bundle's form, words and phrases that belong to one split, endless seeded streams.

A bank file NAME.toml has the tables [train] and [test]: nothing that is written in one may stand in the other.
"""

from __future__ import annotations

import random
import tomllib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

T = TypeVar("T")
Split = Literal["train", "test"]
Row = dict[str, Any]
INVENTED = 0.4  # the share of training words that stand in no bank
ONSETS = (
    "b", "br", "c", "ch", "d", "dr", "f", "fl", "g", "gr", "h", "j", "k", "kl", "l", "m", "n", "p", "pr", "r", "s",
    "sh", "st", "t", "tr", "v", "w", "y", "z",
)  # fmt: skip
RHYMES = (
    "a", "al", "an", "ar", "e", "el", "en", "er", "i", "il", "in", "is", "o", "ol", "on", "or", "u", "um", "un", "us",
    "ai", "ea", "oo", "ack", "ell", "ing", "ost", "ung",
)  # fmt: skip
Call = tuple[str, dict[str, Any]]  # a tool's name and its input


@cache
def banks(name: str, split: Split) -> dict[str, Any]:
    """The phrases of NAME.toml that belong to a split. Read only."""
    tables: dict[str, dict[str, Any]] = tomllib.loads((Path(__file__).parent / f"{name}.toml").read_text(encoding="utf8"))
    return tables[split]


def stream(name: str, seed: int, split: Split, make: Callable[[random.Random], T]) -> Iterator[T]:
    """What `make` makes, without end; the same for the same name, seed and split."""
    draw = random.Random(f"{name} {split} {seed}")
    while True:
        yield make(draw)


class Talk:
    """A conversation in the bundle's form, written down message by message."""

    def __init__(self, task: str, system: str = "", tools: list[dict[str, Any]] | None = None) -> None:
        self._row: Row = {"task": task, "source": "generated", "messages": []}
        if system:
            self._row["system"] = system
        if tools:
            self._row["tools"] = tools
        self._open: list[str] = []  # ids of calls that wait for their results
        self._calls = 0

    def user(self, text: str) -> Talk:
        self._add("user", text)
        return self

    def say(self, text: str) -> Talk:
        self._add("assistant", text)
        return self

    def call(self, *calls: Call) -> Talk:
        """The assistant makes all of the calls in one message."""
        blocks = []
        for name, arguments in calls:
            self._calls += 1
            self._open.append(f"toolu_{self._calls:02}")
            blocks.append({"type": "tool_use", "id": self._open[-1], "name": name, "input": arguments})
        self._add("assistant", blocks)
        return self

    def results(self, *contents: str) -> Talk:
        """The results of the calls before, in their order."""
        pairs = zip(self._open, contents, strict=True)
        self._add("user", [{"type": "tool_result", "tool_use_id": id, "content": content} for id, content in pairs])
        self._open = []
        return self

    @property
    def length(self) -> int:
        """How many messages it has so far."""
        return len(self._row["messages"])

    def row(self, **more: Any) -> Row:
        """The row; `more` is what a check or an evaluation needs to know beside it."""
        return {**self._row, **more}

    def _add(self, role: str, content: str | list[dict[str, Any]]) -> None:
        self._row["messages"].append({"role": role, "content": content})


def tool(name: str, description: str, properties: dict[str, Any], required: list[str]) -> dict[str, Any]:
    """A tool whose input is a closed object."""
    schema = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    return {"name": name, "description": description, "input_schema": schema}


def code(draw: random.Random) -> str:
    """A reference such as `KX-4821`: nobody knows it by heart, it has to be copied."""
    letters = "".join(draw.choice("ABCDEFGHJKLMNPQRSTUVWXYZ") for _ in range(2))
    return f"{letters}-{draw.randint(1000, 9999)}"


def word(draw: random.Random, split: Split, key: str) -> str:
    """A word of the bank; in training now and then one that nobody has heard before: it can only be copied."""
    known = draw.choice(banks("words", split)[key])
    if split == "test" or draw.random() > INVENTED:
        return str(known)
    made = "".join(draw.choice(ONSETS) + draw.choice(RHYMES) for _ in range(draw.choice((1, 2, 2, 3))))
    made = capital(made) if known[0].isupper() else made
    return f"{made} {known.split()[-1]}" if " " in known else made  # `Mill Lane` becomes `Drunel Lane`


def person(draw: random.Random, split: Split) -> str:
    return f"{word(draw, split, 'first')} {word(draw, split, 'last')}"


def address(draw: random.Random, split: Split) -> str:
    return f"{word(draw, split, 'street')} {draw.randint(1, 180)}, {word(draw, split, 'city')}"


def product(draw: random.Random, split: Split) -> str:
    return f"{word(draw, split, 'colour')} {word(draw, split, 'product')}"


def listed(items: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, (", ".join(items[:-1]), items[-1])))


def capital(text: str) -> str:
    """The text with its first letter in upper case."""
    return text[:1].upper() + text[1:]
