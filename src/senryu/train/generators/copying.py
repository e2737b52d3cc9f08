"""Texts to be repeated: as they are, as JSON, with one thing changed.

Every word of an answer stands in its prompt, so a network learns from every token to look back instead of guessing.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator

from senryu.train.generators.common import Row, Split, Talk, address, banks, capital, code, person, product, stream

LONGEST = 12  # things in a list
KINDS = ("repeat", "json", "object", "item", "replace", "without", "reverse")


def rows(seed: int, split: Split = "train") -> Iterator[Row]:
    """Rows without end; `answer` stands beside the conversation, and `kind`, one of KINDS."""
    return stream("copying", seed, split, lambda draw: _row(draw, split))


def _row(draw: random.Random, split: Split) -> Row:
    bank = banks("copying", split)
    kind = draw.choice(KINDS)
    things = _things(draw, split, draw.randint(2, LONGEST))
    listed = draw.choice(bank["separators"]).join(things)
    at = draw.randrange(len(things))
    values: dict[str, str]
    match kind:
        case "json":
            values, answer = {}, json.dumps(things)
        case "object":
            keys = draw.sample(bank["keys"], min(len(things), len(bank["keys"]), 6))
            pairs = dict(zip(keys, things))
            listed = draw.choice(("\n", "; ")).join(f"{capital(key)}: {thing}" for key, thing in pairs.items())
            values, answer = {}, json.dumps(pairs)
        case "item":
            listed = "\n".join(f"{number}. {thing}" for number, thing in enumerate(things, start=1))
            values, answer = {"n": str(at + 1)}, things[at]
        case "replace":
            new = _things(draw, split, 1)[0]
            values, answer = {"x": things[at], "y": new}, listed.replace(things[at], new)
        case "without":
            values, answer = {"x": things[at]}, "\n".join(thing for thing in things if thing != things[at])
        case "reverse":
            values, answer = {}, "\n".join(reversed(things))
        case _:
            values, answer = {}, listed
    prompt = draw.choice(bank[kind]).format(t=listed, **values)
    return Talk("copying").user(prompt).say(answer).row(kind=kind, answer=answer)


def _things(draw: random.Random, split: Split, count: int) -> list[str]:
    """Different things, none of which is a part of another."""
    makers = (person, address, product, lambda draw, split: code(draw), lambda draw, split: str(draw.randint(10, 99999)))
    kinds = draw.choices(makers, k=draw.choice((1, 2, 3)))
    out: list[str] = []
    while len(out) < count:
        made = draw.choice(kinds)(draw, split)
        if not any(made in other or other in made for other in out):
            out.append(made)
    return out
