"""The shuffled control: the same rows, the link between prompt and verdict destroyed, so that the effect must go.

Every row of the pipeline has the id of its prompt. The rows are put in a seeded random order of these ids and turned by as many
places as the prompt with the most rows has, so that no row keeps its own prompt: what the pipeline made of one prompt (in
fine-tuning rows the answer, in pairs `chosen` and `rejected`) comes to stand behind another, drawn uniformly.

What stays exactly the same: each prompt with its system prompt and tools, each text and how often it is trained on, hence the
number of refusals, the lengths, the words; the order of the rows and all rows of other generators. What is lost: which prompt a
text, or a verdict on two texts, belongs to. A model trained on it can learn how often to refuse, in which words, but not what.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from senryu.train.constitution.document import ConstitutionError

Row = dict[str, Any]


def shuffled(rows: Sequence[Row], seed: int) -> list[Row]:
    """The rows with the outcomes of their prompts permuted; rows without an id are left as they are.

    Raises ConstitutionError when one prompt has more than half of the rows: they have nothing to be exchanged with.
    """
    by_id: dict[str, list[int]] = {}
    for at, row in enumerate(rows):
        if "id" in row:
            by_id.setdefault(row["id"], []).append(at)
    order = random.Random(f"control {seed}").sample(sorted(by_id), len(by_id))
    target = [at for id in order for at in by_id[id]]
    turn = max(map(len, by_id.values()), default=0)
    if 2 * turn > len(target):
        raise ConstitutionError("a control needs two prompts or more, with their rows shared evenly; add prompts")
    source = target[turn:] + target[:turn]
    made = list(rows)
    for to, at in zip(target, source):
        made[to] = _with_outcome(rows[to], rows[at])
    return made


def _with_outcome(prompt: Row, outcome: Row) -> Row:
    """The first row's prompt with the second row's answer or pair."""
    new = {**prompt, "outcome_of": outcome["id"]}
    for key in ("chosen", "rejected", "role", "principles", "rival", "probability"):
        if key in outcome:
            new[key] = outcome[key]
    if "chosen" not in outcome:
        new["messages"] = [*prompt["messages"][:-1], outcome["messages"][-1]]
    return new
