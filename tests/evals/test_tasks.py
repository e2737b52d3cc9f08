"""Extraction and calls are scored by what the service answers, letter by letter."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from senryu.evals import tasks
from senryu.types import Block, Message, Text, ToolResult, ToolUse, Turn

ORDER: tasks.Row = {
    "system": "Take orders.",
    "tools": [{"name": "add", "description": "Adds.", "input_schema": {"type": "object"}}],
    "messages": [
        {"role": "user", "content": "A tea"},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "add", "input": {"item": "tea"}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "ok"}]},
        {"role": "assistant", "content": "Done."},
    ],
}


class Scripted:
    """Answers the n-th turn with the n-th list of blocks."""

    name = "m"

    def __init__(self, *answers: list[Block]) -> None:
        self.answers = list(answers)
        self.asked: list[Turn] = []

    async def blocks(self, turn: Turn) -> list[Block]:
        self.asked.append(turn)
        return self.answers[len(self.asked) - 1]


def run(score: Any, scripted: Scripted, rows: list[tasks.Row]) -> dict[str, Any]:
    return cast("dict[str, Any]", asyncio.run(score(scripted, rows)))


def test_a_row_asks_for_each_answer_with_all_that_came_before() -> None:
    (first, call), (second, said) = tasks.turns("m", ORDER)
    assert first.messages == (Message("user", (Text("A tea"),)),)
    assert call.content == (ToolUse("t1", "add", {"item": "tea"}),)
    assert second.messages[2].content == (ToolResult("t1", (Text("ok"),)),)
    assert (said.content, second.tools[0].name, second.system) == ((Text("Done."),), "add", (Text("Take orders."),))
    assert second.temperature == 0


@pytest.mark.parametrize(
    ("call", "name", "exact"),
    [(("add", {"item": "tea"}), 1, 1), (("add", {"item": "te"}), 1, 0), (("drop", {"item": "tea"}), 0, 0)],
)
def test_calls_count_by_name_and_by_input(call: tuple[str, dict[str, str]], name: int, exact: int) -> None:
    result = run(tasks.next_calls, Scripted([ToolUse("x", *call)], [Text("Fine.")]), [ORDER])
    assert (result["name"], result["exact"], result["text_kept"]) == (name, exact, 1)
    assert (result["calls"], result["texts"]) == (1, 1)


def test_an_answer_without_a_call_is_a_wrong_call_and_a_call_in_place_of_words_too() -> None:
    result = run(tasks.next_calls, Scripted([], [ToolUse("x", "add", {})]), [ORDER])
    assert (result["name"], result["exact"], result["text_kept"]) == (0, 0, 0)


@pytest.mark.parametrize(
    ("answer", "f1"),
    [
        ('{"total": "9.90", "date": "1 MAY"}', 1.0),
        ('{"total":  "9.90", "date": "1  MAY"}', 1.0),  # white space alone
        ('{"total": "9.90"}', 2 / 3),
        ('{"total": "9.90", "date": "2 MAY"}', 0.5),
        ("no JSON", 0.0),
        ("[1]", 0.0),
    ],
)
def test_fields_count_one_by_one(answer: str, f1: float) -> None:
    row = {
        "messages": [
            {"role": "user", "content": "Receipt"},
            {"role": "assistant", "content": '{"total": "9.90", "date": "1 MAY"}'},
        ]
    }
    assert run(tasks.fields, Scripted([Text(answer)]), [row])["f1"] == pytest.approx(f1)
