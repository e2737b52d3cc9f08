"""Outcomes of the pipeline as rows to train on: fine-tuning rows with help among them, and pairs for preference training."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from typing import Any

from senryu.train.constitution.judge import Prompt
from senryu.train.generators import GENERATORS

Row = dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """What came of a prompt. first: the model's answer; target: what it is to say, "" if nothing is trained on; principles:
    those that the answer broke; dropped: why its revision is not used."""

    prompt: Prompt
    first: str
    target: str
    principles: tuple[str, ...]
    dropped: str


@dataclass(frozen=True)
class Pair:
    """Two answers to a prompt, and the probability that `a` is the better one."""

    prompt: Prompt
    a: str
    b: str
    rival: str
    probability: float
    principles: dict[str, float] = field(default_factory=dict)


def sft_rows(outcomes: Sequence[Outcome], helpful: float, helpers: Sequence[str], seed: int) -> list[Row]:
    """Rows in a seeded order: `role` revision or helpful. Known right answers are help, and generators fill up to its share."""
    made = [
        {**o.prompt.row(o.target), "role": "helpful" if o.prompt.reference else "revision", "principles": list(o.principles)}
        for o in outcomes
        if o.target
    ]
    revisions = sum(row["role"] == "revision" for row in made)
    wanted = math.ceil(helpful / (1 - helpful) * revisions) - (len(made) - revisions)
    streams = cycle([GENERATORS[name](seed, "train") for name in helpers])
    made += [{**next(stream), "role": "helpful"} for stream in islice(streams, max(wanted, 0) if helpers else 0)]
    random.Random(f"rows {seed}").shuffle(made)
    return made


def preference_rows(pairs: Sequence[Pair], margin: float) -> list[Row]:
    """Pairs whose comparison lies further than `margin` from 1/2, the better answer as `chosen`."""
    rows = []
    for pair in pairs:
        if abs(pair.probability - 0.5) <= margin:
            continue
        row = pair.prompt.row("")
        better, worse = (pair.a, pair.b) if pair.probability > 0.5 else (pair.b, pair.a)
        row |= {"messages": row["messages"][:-1], "chosen": better, "rejected": worse, "rival": pair.rival}
        rows.append(row | {"probability": round(pair.probability, 4)})
    return rows
