"""Long texts with something to find: one needle, several, or a value that is handed on from variable to variable."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import pairwise

from senryu.train.generators.common import Row, Split, Talk, address, banks, code, person, stream

SHORTEST = 400  # characters: three needles and some filler
KINDS = ("needle", "needles", "variables")


def rows(seed: int, split: Split = "train", *, chars: int = 4000, exactly: bool = False, kind: str = "") -> Iterator[Row]:
    """Rows without end; `text` (what is searched) and `answer` stand beside the conversation.

    chars: how long a text is at most, SHORTEST or more. exactly: every text is that long but for a sentence; otherwise lengths
    are drawn, every order of magnitude as often as the next. kind: one of KINDS; all of them by default.
    """
    if chars < SHORTEST:
        raise ValueError(f"chars = {chars} is too short for a text with needles; use {SHORTEST} or more")

    def make(draw: random.Random) -> Row:
        length = chars if exactly else round(SHORTEST * (chars / SHORTEST) ** draw.random())
        return _row(draw, split, length, kind or draw.choice(KINDS))

    return stream(f"retrieval {kind}", seed, split, make)


def _row(draw: random.Random, split: Split, chars: int, kind: str) -> Row:
    bank = banks("retrieval", split)
    makers = {"needle": _needle, "needles": _needles, "variables": _variables}
    planted, question, answer = makers[kind](draw, split)
    text = _hidden(draw, planted, _filler(draw, split, chars - sum(len(p) + 1 for p in planted)))
    prompt = draw.choice(bank["prompts"]).replace("{q}", question).replace("{t}", text)
    return Talk("retrieval").user(prompt).say(answer).row(kind=kind, text=text, answer=answer)


def _needle(draw: random.Random, split: Split) -> tuple[list[str], str, str]:
    """One needle that is asked for; now and then with another beside it that is not."""
    bank = banks("retrieval", split)
    pairs = _pairs(draw, split, draw.choice((1, 1, 2)))
    planted = [draw.choice(bank["needles"]).format(k=key, x=value) for key, value in pairs]
    key, value = draw.choice(pairs)
    return planted, draw.choice(bank["ask"]).format(k=key), value


def _needles(draw: random.Random, split: Split) -> tuple[list[str], str, str]:
    bank = banks("retrieval", split)
    pairs = _pairs(draw, split, 3)
    planted = [draw.choice(bank["needles"]).format(k=key, x=value) for key, value in pairs]
    asked = draw.sample(pairs, 2)
    question = draw.choice(bank["ask_many"]).format(k=" and ".join(key for key, _ in asked))
    return planted, question, ", ".join(value for _, value in asked)


def _variables(draw: random.Random, split: Split) -> tuple[list[str], str, str]:
    """Two chains of variables in the text's order; the value of one's last link is asked for."""
    bank = banks("retrieval", split)
    names = draw.sample(["".join(draw.choices("ABCDEFGHJKLMNPQRSTUVWXYZ", k=4)) for _ in range(12)], 5)
    values = draw.sample(range(1000, 100000), 2)
    first, second = draw.choice(bank["variables"]), draw.choice(bank["copies"])
    chains = [names[:3], names[3:]]
    planted = []
    for chain, value in zip(chains, values):
        planted.append([first.format(k=chain[0], x=value)])
        planted[-1] += [second.format(k=new, x=old) for old, new in pairwise(chain)]
    merged: list[str] = []
    while any(planted):
        merged.append(draw.choice([p for p in planted if p]).pop(0))
    asked = draw.randrange(2)
    return merged, draw.choice(bank["ask_variable"]).format(k=chains[asked][-1]), str(values[asked])


def _pairs(draw: random.Random, split: Split, count: int) -> list[tuple[str, str]]:
    """Distinct keys with distinct values."""
    out: dict[str, str] = {}
    while len(out) < count:
        key = draw.choice((person, address))(draw, split).replace(",", " in")
        value = draw.choice((code(draw), str(draw.randint(10000, 9999999))))
        if value not in out.values():
            out.setdefault(key, value)
    return list(out.items())


def _filler(draw: random.Random, split: Split, chars: int) -> list[str]:
    """Sentences of at most so many characters together, the blanks between them counted."""
    bank = banks("retrieval", split)
    out: list[str] = []
    while True:
        sentence = " ".join(draw.choice(bank[part]) for part in ("subjects", "verbs", "places", "times")) + "."
        chars -= len(sentence) + 1
        if chars < 0:
            return out
        out.append(sentence)


def _hidden(draw: random.Random, planted: list[str], filler: list[str]) -> str:
    """The filler with the planted sentences in it, in their order, anywhere."""
    places = sorted(draw.randint(0, len(filler)) for _ in planted)
    for place, sentence in reversed(list(zip(places, planted))):
        filler.insert(place, sentence)
    return " ".join(filler)
