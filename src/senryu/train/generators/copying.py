"""Texts to be repeated: as they are, as JSON, with one thing changed.

Every word of an answer stands in its prompt, so a network learns from every token to look back instead of guessing.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence

from senryu.train.generators.common import Row, Split, Talk, address, banks, capital, code, person, product, stream, word

Maker = Callable[[random.Random, Split], str]
LONGEST = 16  # things in a list
ALIKE = 0.5  # the share of rows whose things are easily taken for each other
LOUDEST = 90  # words that have nothing to do with each other: what comes next can only be looked up
KINDS = {  # and their weights
    "repeat": 1, "noise": 2, "json": 1, "object": 1, "pick": 2, "item": 1, "replace": 1, "without": 1, "reverse": 1
}  # fmt: skip


def rows(seed: int, split: Split = "train") -> Iterator[Row]:
    """Rows without end; `answer` stands beside the conversation, and `kind`, one of KINDS."""
    return stream("copying", seed, split, lambda draw: _row(draw, split))


def _row(draw: random.Random, split: Split) -> Row:
    bank = banks("copying", split)
    kind = draw.choices(list(KINDS), list(KINDS.values()))[0]
    makers = (_alike(draw, split),) if draw.random() < ALIKE else ()
    things = _things(draw, split, draw.randint(2, LONGEST), makers)
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
        case "pick":
            keys = _things(draw, split, len(things), makers or (_key,))
            pairs = dict(zip(keys, things))
            said = [f"{key}{draw.choice((': ', ' = ', ' is '))}{pairs[key]}" for key in keys]
            listed = draw.choice(("\n", "; ", ", ")).join(said)
            wanted = draw.sample(keys, draw.randint(1, len(keys)))
            values, answer = {"k": ", ".join(wanted)}, json.dumps({key: pairs[key] for key in wanted})
        case "noise":
            things = [draw.choice(makers or _MAKERS)(draw, split).split()[-1] for _ in range(draw.randint(10, LOUDEST))]
            listed = answer = draw.choice((" ", " ", ", ", "\n")).join(things)
            values = {}
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
    prompt = draw.choice(bank["repeat" if kind == "noise" else kind]).format(t=listed, **values)
    return Talk("copying").user(prompt).say(answer).row(kind=kind, answer=answer)


def _things(draw: random.Random, split: Split, count: int, makers: Sequence[Maker] = ()) -> list[str]:
    """Different things, none of which is a part of another; of one to three kinds, or of what `makers` make."""
    kinds = makers or draw.choices(_MAKERS, k=draw.choice((1, 2, 3)))
    out: list[str] = []
    while len(out) < count:
        made = draw.choice(kinds)(draw, split)
        if not any(made in other or other in made for other in out):
            out.append(made)
    return out


def _alike(draw: random.Random, split: Split) -> Maker:
    """Things of the same few words and digits in different orders: one word back is not enough to know what comes next."""
    pool = [
        word(draw, split, key).split()[-1]
        for key in ("last", "product", "topic", "colour", "city")
        for _ in range(draw.randint(1, 2))
    ]
    joint = draw.choice((" ", "_", "-", ""))

    def make(draw: random.Random, split: Split) -> str:
        words = draw.choices(pool, k=draw.randint(1, 3))
        least = 1 if len(words) == 1 else 0  # a bare word of the pool would rule out all things that hold it
        return joint.join(words + [str(draw.randint(0, 99)) for _ in range(draw.randint(least, 2))])

    return make


def _key(draw: random.Random, split: Split) -> str:
    """A field's name of one or two words: `colour`, `first_depot`, `amberRow`."""
    form = draw.choice((("product",), ("colour", "product"), ("topic", "product")))
    words = [word(draw, split, part).split()[-1].lower() for part in form]
    return draw.choice(("_".join(words), words[0] + "".join(map(capital, words[1:]))))


_MAKERS: tuple[Maker, ...] = (
    person,
    address,
    product,
    lambda draw, _: code(draw),
    lambda draw, _: str(draw.randint(10, 99999)),
)
