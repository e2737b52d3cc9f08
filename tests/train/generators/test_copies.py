"""What is to be copied stands in its prompt, letter by letter."""

from __future__ import annotations

import json

from test_generators import each, some

from senryu.train.generators import Row
from senryu.train.generators.copying import KINDS


def check_copy(row: Row) -> None:
    (asked, answered), answer = (m["content"] for m in row["messages"]), row["answer"]
    assert answered == answer
    match row["kind"]:
        case "repeat" | "noise" | "item":
            assert answer in asked
        case "json":
            assert all(thing in asked for thing in json.loads(answer))
        case "object" | "pick":
            assert all(key.lower() in asked.lower() and value in asked for key, value in json.loads(answer).items())
        case "without" | "reverse":
            assert all(thing in asked for thing in answer.splitlines())
        case "replace":
            assert not set(answer.split()) - set(asked.split()) or answer not in asked


test_copies_stand_in_their_prompts = each("copying", check_copy)


def test_copies_are_of_every_kind() -> None:
    rows = some("copying", 4, count=300)
    assert {row["kind"] for row in rows} == set(KINDS)
    assert max(len(row["answer"].split()) for row in rows if row["kind"] == "noise") > 60
