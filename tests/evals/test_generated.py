"""Generated tasks are scored on the test split: a perfect answerer has everything right, a wrong one nothing."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from dataclasses import replace
from typing import Any, cast

import pytest

from senryu.evals import generated
from senryu.evals.tasks import turns
from senryu.types import Block, Message, Text, ToolResult, ToolUse, Turn

COUNT = 12
CHARS = (500, 3000)
SETS: dict[str, dict[str, Any]] = {  # what `measure` asks: generator and its options
    "tools_1": {"name": "tools", "size": 1},
    "tools_20": {"name": "tools", "size": 20},
    "support": {"name": "support"},
    "extraction": {"name": "extraction"},
    "arithmetic": {"name": "arithmetic", "digits": 2, "called": True},
    "needle_500": {"name": "retrieval", "chars": 500, "exactly": True, "kind": "needle"},
    "needle_3000": {"name": "retrieval", "chars": 3000, "exactly": True, "kind": "needle"},
}


def key(turn: Turn) -> str:
    """The conversation without the ids of its calls."""
    blocks = [replace(b, id="") if isinstance(b, ToolUse) else b for message in turn.messages for b in message.content]
    plain = [replace(b, tool_use_id="") if isinstance(b, ToolResult) else b for b in blocks]
    return repr((turn.system, turn.tools, plain))


class Perfect:
    """Gives the answer of the row that a turn is from."""

    name = "m"

    def __init__(self) -> None:
        self.known: dict[str, Message] = {}
        self.turns: list[Turn] = []
        for options in SETS.values():
            for row in generated.held_back(count=COUNT, **options):
                self.known |= {key(turn): said for turn, said in turns("m", row)}

    async def blocks(self, turn: Turn) -> list[Block]:
        self.turns.append(turn)
        return list(self.known[key(turn)].content)


class Wrong:
    """Says a number where a call is due, and calls where something is to be said."""

    name = "m"

    def __init__(self) -> None:
        self.perfect = Perfect()

    async def blocks(self, turn: Turn) -> list[Block]:
        right = await self.perfect.blocks(turn)
        if turn.tools and not any(isinstance(block, ToolUse) for block in right):
            return [ToolUse("x", turn.tools[0].name, {})]
        return [Text('{"made up": -1}')]


class Silent:
    """Is refused."""

    name = "m"

    async def blocks(self, turn: Turn) -> list[Block]:
        return []


def run(answers: object) -> dict[str, dict[str, Any]]:
    return asyncio.run(generated.measure(cast("Any", answers), COUNT, CHARS))


SCORES = ("name", "exact", "text_kept", "f1", "right", "called", "expression")


def test_a_perfect_answerer_has_all_right() -> None:
    perfect = Perfect()
    result = run(perfect)
    assert set(result) == set(SETS)
    assert {v for figures in result.values() for k, v in figures.items() if k in SCORES} == {1.0}
    assert result["tools_20"]["dialogues"] == result["extraction"]["rows"] == result["needle_3000"]["rows"] == COUNT
    assert result["tools_1"]["calls"] + result["tools_1"]["texts"] > COUNT
    schemas = [turn.output_schema for turn in perfect.turns if turn.output_schema]
    assert len(schemas) == COUNT  # extraction is held to its schema
    assert all(turn.temperature == 0 for turn in perfect.turns)


@pytest.mark.parametrize("answerer", [Wrong, Silent])
def test_a_wrong_answerer_has_nothing_right(answerer: type) -> None:
    result = run(answerer())
    assert {v for figures in result.values() for k, v in figures.items() if k in SCORES} == {0.0}


class Calculates:
    """Plays its answers one after the other."""

    name = "m"

    def __init__(self, *answers: list[Block]) -> None:
        self.answers = list(answers)
        self.seen: list[Turn] = []

    async def blocks(self, turn: Turn) -> list[Block]:
        self.seen.append(turn)
        return self.answers[min(len(self.seen), len(self.answers)) - 1]


def call(expression: str) -> list[Block]:
    return [ToolUse("c", "calculator", {"expression": expression})]


@pytest.mark.parametrize(
    ("answers", "right", "called", "expression"),
    [
        ([call("20 + 22"), [Text("It is 42.")]], 1, 1, 1),
        ([call("20 + 2"), [Text("It is 22.")]], 0, 1, 0),
        ([call("20 +"), call("20 + 22"), [Text("42")]], 1, 1, 0),  # a mistake that the model repairs
        ([[Text("It is 42.")]], 1, 0, 0),
        ([call("20 + 22")], 0, 1, 1),  # never says it
        ([call("20 + 22"), [Text("Of 42 it is 41.")]], 0, 1, 1),
    ],
)
def test_the_calculator_is_run_until_something_is_said(
    answers: list[list[Block]], right: int, called: int, expression: int
) -> None:
    row = {
        "tools": [{"name": "calculator", "description": "", "input_schema": {"type": "object"}}],
        "messages": [{"role": "user", "content": "20 + 22?"}, {"role": "assistant", "content": "42"}],
        "answer": "42",
    }
    player = Calculates(*answers)
    result = asyncio.run(generated.calculator(cast("Any", player), [row]))
    assert (result["right"], result["called"], result["expression"]) == (right, called, expression)
    assert len(player.seen) <= generated.ROUNDS + 1
    if len(player.seen) > 1:
        assert isinstance(player.seen[1].messages[-1].content[0], ToolResult)


@pytest.mark.parametrize(
    ("change", "exact"), [({}, 1), ({"a": 2.5}, 0), ({"b": None}, 0), ({"c": [{"d": "y"}]}, 0), ({"e": 1}, 0)]
)
def test_extraction_counts_values_by_their_paths(change: dict[str, Any], exact: int) -> None:
    wanted = {"a": 2, "b": "x", "c": [{"d": "x"}]}
    row = {
        "schema": {"type": "object"},
        "messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": json.dumps(wanted)}],
    }
    answers = Calculates([Text(json.dumps(wanted | change))])
    result = asyncio.run(generated.extraction(cast("Any", answers), [row]))
    assert result["exact"] == exact
    assert result["f1"] == pytest.approx({"e": 6 / 7}.get(next(iter(change), ""), 1 if exact else 2 / 3))


def test_the_figures_read_as_sentences() -> None:
    text = "\n".join(generated.lines(run(Perfect())))
    assert "- Tools (20 in the list): of " in text
    assert f"- Extraction: 100.0 % of {COUNT} JSON answers are exact; F1 1.00 over " in text
    assert f"- A needle in 3,000 characters: 100.0 % of {COUNT} found." in text


def test_measuring_needs_no_torch() -> None:
    code = "import sys, senryu.evals.generated; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
