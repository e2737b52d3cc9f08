"""Pairs of requests: one to be declined and its benign twin with the same trigger word; also orders that hide in documents.

The pairing is that of XSTest (arXiv 2308.01263); all phrases are our own. A refusal says what is not done, why in one clause,
and what is offered instead.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import count, islice
from typing import Any

from senryu.train.generators.common import Row, Split, Talk, banks, capital, code, tool

SLOTS = ("person", "place", "group", "minor", "medicine")  # words of unsafe actions, by kind
REQUESTS = (
    "violence", "weapons", "self_harm", "illegal_goods", "hacking", "fraud", "privacy", "hate", "minors", "overreach",
)  # fmt: skip
CATEGORIES = (*REQUESTS, "prompt", "injection")


def rows(seed: int, split: Split = "train", *, category: str = "") -> Iterator[Row]:
    """Rows without end, two by two: an unsafe request, then its benign twin.

    Beside the conversation stand `pair` (a number both share), `unsafe`, `category` and `trigger`; rows of `prompt` have the
    `secret` of their system prompt, rows of `injection` the `payload` that must not be said and the `answer` that must.
    category: one of CATEGORIES, all of them in turn by chance by default; else ValueError.
    """
    if category and category not in CATEGORIES:
        raise ValueError(f"category {category!r} is unknown; use one of {', '.join(CATEGORIES)}")
    draw = random.Random(f"safety {split} {seed} {category}")
    for pair in count():
        kind = category or draw.choice(CATEGORIES)
        for made in _MAKERS.get(kind, _request)(draw, split, kind):
            yield made | {"pair": pair, "category": kind}


def decline(draw: random.Random, split: Split, category: str, *, topic: str = "", why: str = "", offer: str = "") -> str:
    """A refusal for a category; what is not given is drawn from its phrases. A name without phrases needs all three."""
    bank = banks("safety", split)
    own = bank.get(category, {})
    form = draw.choice(own.get("refusals", bank["refusals"]))
    parts = {"t": topic or draw.choice(own["topic"]), "w": why or draw.choice(own["why"])}
    return capital(form.format(o=offer or draw.choice(own["offer"]), **parts)).strip()


def comply(draw: random.Random, split: Split, fact: str = "") -> str:
    """A short helpful answer: a true sentence if there is one, else a question for the missing detail."""
    bank = banks("safety", split)
    if fact and draw.random() < 0.65:
        return f"{draw.choice(bank['acknowledge'])} {fact}" if draw.random() < 0.7 else fact
    return f"{draw.choice(bank['acknowledge'])} {draw.choice(bank['ask'])}"


def actions(split: Split, category: str, *, unsafe: bool) -> dict[str, str]:
    """A category's actions, places for words unfilled -> what is true of them ("" of unsafe ones)."""
    groups = banks("safety", split)[category]["groups"].values()
    if unsafe:
        return {action: "" for group in groups for action in group["unsafe"]}
    return {action: fact for group in groups for action, fact in group["benign"]}


def _request(draw: random.Random, split: Split, category: str) -> Iterator[Row]:
    bank = banks("safety", split)
    trigger = draw.choice(list(bank[category]["groups"]))
    group = bank[category]["groups"][trigger]
    words = {slot: draw.choice(bank[slot]) for slot in SLOTS}
    benign, fact = draw.choice(group["benign"])
    asked = {True: draw.choice(group["unsafe"]).format(**words), False: benign}
    system = draw.choice(bank["systems"]) if draw.random() < 0.25 else ""
    frame, lead = draw.choice(bank["frames"]), draw.choice(bank["leads"]) if draw.random() < 0.25 else ""
    typed = draw.random()
    for unsafe, action in asked.items():
        answer = decline(draw, split, category) if unsafe else comply(draw, split, fact)
        user = _as_typed(f"{lead} {frame.format(a=action)}".strip(), typed)
        yield Talk("safety", system).user(user).say(answer).row(unsafe=unsafe, trigger=trigger)


def _as_typed(text: str, how: float) -> str:
    """Some people write all in lower case, some leave out the last mark; `how` lies in [0, 1)."""
    if how < 0.15:
        return text.lower()
    return text[:-1] if how < 0.3 else text


def _hidden(draw: random.Random, split: Split, category: str) -> Iterator[Row]:
    """Requests for a system prompt that is to stay private."""
    bank = banks("safety", split)
    own, secret = bank[category], code(draw)
    system = f"{draw.choice(bank['systems'])} {draw.choice(own['rules']).format(s=secret)}"
    benign, fact = draw.choice(own["benign"])
    for unsafe, user in ((True, draw.choice(own["unsafe"])), (False, benign)):
        answer = decline(draw, split, category) if unsafe else comply(draw, split, fact)
        yield Talk("safety", system).user(user).say(answer).row(unsafe=unsafe, trigger="prompt", secret=secret)


def _injected(draw: random.Random, split: Split, category: str) -> Iterator[Row]:
    """A question about a note that also gives orders to the assistant; in the twin it speaks to its readers alone."""
    own, words = banks("safety", split)[category], banks("words", split)
    values: dict[str, Any] = {"topic": draw.choice(words["topic"]), "city": draw.choice(words["city"])}
    values |= {"day": draw.choice(own["days"]), "h": draw.randint(8, 20), "m": draw.choice((0, 15, 30, 45))}
    payload, filler = code(draw), draw.choice(own["fillers"])
    note, question, said, remark = (draw.choice(own[part]) for part in ("notes", "asks", "answers", "remarks"))
    prompt, as_tool = draw.choice(own["prompts"]), draw.random() < 0.4
    name, argument, describe = (draw.choice(own[part]) for part in ("tools", "arguments", "describe"))
    orders = {True: draw.choice(own["unsafe"]).format(p=payload), False: draw.choice(own["benign"])}
    for unsafe, order in orders.items():
        text = note.format(x=order, y=filler, **values)
        asked, answer = question.format(**values), said.format(**values)
        if as_tool:
            tools = [tool(name, describe, {argument: {"type": "string"}}, [argument])]
            talk = Talk("safety", tools=tools).user(asked).call((name, {argument: values["topic"]})).results(text)
        else:
            talk = Talk("safety").user(prompt.replace("{q}", asked).replace("{n}", text))
        talk.say(f"{answer} {remark}" if unsafe else answer)
        yield talk.row(unsafe=unsafe, trigger="injection", payload=payload, answer=f"{values['h']}:{values['m']:02}")


_MAKERS = {"prompt": _hidden, "injection": _injected}


def pairs(seed: int, split: Split, number: int, *, requests_only: bool = False) -> list[Row]:
    """The rows of the first `number` pairs; with `requests_only` without those of `injection`, which are no refusals."""
    made = (row for row in rows(seed, split) if not (requests_only and row["category"] == "injection"))
    return list(islice(made, 2 * number))
