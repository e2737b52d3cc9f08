"""Conversations in which tools were called, told to every family's template; and what is counted as wrong with a call."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from families import FAMILIES, written
from hypothesis import given, settings
from hypothesis import strategies as st
from test_tools import CALLS, NAMES, NOW, TOOLS, WEATHER, blocks_of
from test_turn import SETTINGS, events, turn, user

from senryu.engine.interface import TokenEvent, TokenRequest
from senryu.errors import SenryuError
from senryu.ledger.usage import ToolErrors, UsageRow
from senryu.service import validation
from senryu.service.answer import Answer
from senryu.service.prompt import conversation, encode
from senryu.service.registry import LoadedModel, Registry
from senryu.service.toolcheck import failures
from senryu.service.tools import Plan
from senryu.service.turn import Service
from senryu.service.validation import SchemaCheck
from senryu.types import (
    BlockStarted,
    BlockStopped,
    Event,
    InputDelta,
    Json,
    Message,
    Text,
    TextDelta,
    Tool,
    ToolResult,
    ToolUse,
)  # fmt: skip

# --- history -----------------------------------------------------------------------------------------------------------

LONG = "toolu_01ABCDEFGHIJKLMNOPQRSTUV"
HISTORY = (
    user("Weather and time?"),
    Message("assistant", (Text("I look."), ToolUse(LONG, "weather", {"city": "Zürich"}), ToolUse("toolu_2", "now", {}))),
    Message("user", (
        ToolResult(LONG, (Text("7°"), Text("rain"))), ToolResult("toolu_2", (Text("no clock"),), is_error=True), Text("Well?"),
    )),
)  # fmt: skip


def test_history_is_told_in_the_templates_terms() -> None:
    calls = [
        {"type": "function", "id": LONG, "function": {"name": "weather", "arguments": {"city": "Zürich"}}},
        {"type": "function", "id": "toolu_2", "function": {"name": "now", "arguments": {}}},
    ]
    assert conversation(turn(*HISTORY)) == (
        [
            {"role": "user", "content": "Weather and time?"},
            {"role": "assistant", "content": "I look.", "tool_calls": calls},
            {"role": "tool", "tool_call_id": LONG, "name": "weather", "content": "7°\n\nrain"},
            {"role": "tool", "tool_call_id": "toolu_2", "name": "now", "content": "Error: no clock"},
            {"role": "user", "content": "Well?"},
        ],
        False,
    )
    empty = (Message("user", (ToolResult("a"), ToolResult("b", is_error=True))),)
    assert [message["content"] for message in conversation(turn(*empty))[0]] == ["", "Error"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("tools", [(), TOOLS], ids=["", "tools"])
def test_history_is_rendered_by_every_family(name: str, tools: tuple[Tool, ...]) -> None:
    """All of it: only Mistral's older template has no place for text beside calls, and refuses text behind results."""
    family = FAMILIES[name]
    model = family.model()
    asyncio.run(model.engine.close())
    *before, last = HISTORY
    said = ["Weather and time?", '{"city": "Zürich"}', "7°\n\nrain", "Error: no clock", "Well?"]
    if name == "mistral":
        with pytest.raises(SenryuError, match="the model's chat template refuses this conversation"):
            encode(model, turn(*HISTORY, tools=tools))
        last = Message("user", last.content[:-1])
        said.pop()
    seen = model.tokenizer.decode(encode(model, turn(*before, last, tools=tools)).ids)
    if name == "llama 3":
        seen = seen.replace("\\n", "\n")  # results are JSON there
    places = [seen.index(text) for text in said]
    assert all(before < after for before, after in pairwise(places))
    assert ("I look." in seen) == (name != "mistral")
    assert ("The weather of a city" in seen) == bool(tools)


def test_calls_are_what_the_model_wrote() -> None:
    """So that the next turn finds their K/V."""
    mini = FAMILIES["mini"]
    seen: list[TokenRequest] = []

    def reply(request: TokenRequest) -> list[int]:
        seen.append(request)
        return mini.ids("Well: " + written(mini, CALLS))

    answer = events(mini.model(reply), turn(user("go"), tools=TOOLS, max_tokens=300))
    blocks = tuple(blocks_of(answer))
    results = tuple(ToolResult(block.id) for block in blocks if isinstance(block, ToolUse))
    model = mini.model()
    ids = encode(model, turn(user("go"), Message("assistant", blocks), Message("user", results), tools=TOOLS)).ids
    asyncio.run(model.engine.close())
    whole = [*seen[0].ids, *mini.ids("Well: " + written(mini, CALLS))]
    assert ids[: len(whole)] == whole


# --- the error rate's buckets -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arguments", "wrong"),
    [
        ("weather", '{"city": "x"}', None),
        ("weather", '{"city": "x"', "invalid_json"),
        ("weather", '{"city": ' + "[" * 100_000, "invalid_json"),
        ("wether", "{}", "unknown_name"),
        ("weather", "{}", "schema_mismatch"),
        ("weather", '{"city": 5}', "schema_mismatch"),
        ("weather", '{"city": "x", "unit": "K"}', "schema_mismatch"),
        ("now", '{"more": 1}', None),  # the schema does not forbid it
        ("far", '{"a": 1}', None),
        ("odd", "{}", None),
        ("big", '{"a": ' + "9" * 5000 + "}", None),  # more digits than Python reads
        ("slow", '{"a": "' + "a" * 40 + '!"}', None),
    ],
)
def test_what_is_wrong_with_a_call(name: str, arguments: str, wrong: str | None) -> None:
    """Schemas that cannot be checked count as kept, and none of them is fetched or hangs."""
    odd = (
        Tool("far", {"properties": {"a": {"$ref": "http://127.0.0.1:9/x"}}}),
        Tool("odd", {"type": 5}),
        Tool("big", {"properties": {"a": {"type": "number"}}}),
        Tool(
            "slow",
            {"properties": {"a": {"pattern": "^(a+)+$"}}, "patternProperties": {"^(a+)+$": {}}, "additionalProperties": {}},
        ),
    )
    assert failures([(name, arguments)], (*TOOLS, *odd)) == ({wrong: 1} if wrong else {})


def answer_of(model: LoadedModel, tools: Sequence[Tool], ids: Sequence[int], cuts: Sequence[int]) -> tuple[Answer, list[Event]]:
    """What is made of tokens that come in events as `cuts` says."""
    answer = Answer(model, turn(tools=tuple(tools), stop_sequences=("STOP",)), Plan(None, model.calls))
    edges = sorted({0, len(ids), *(cut % len(ids) for cut in cuts)})
    seen: list[Event] = []
    for start, end in pairwise(edges):
        if not answer.done:
            seen += answer.push(TokenEvent(tuple(ids[start:end]), finish="stop" if end == len(ids) else None))
    answer.check_calls()
    return answer, seen


def without_ids(seen: Sequence[Event]) -> list[Any]:
    """The events with neighbouring deltas joined, and without what chance named."""
    made: list[Any] = []
    for event in seen:
        match event:
            case InputDelta(text) | TextDelta(text):
                made[-1:] = [made[-1] + text] if made and isinstance(made[-1], str) else [made[-1], text]
            case BlockStarted(ToolUse(_, name, value)) | BlockStopped(ToolUse(_, name, value)):
                made.append((type(event), name, value))
            case _:
                made.append(event)
    return made


PARTS = ["So ", "STO", "STOP", "é🙂", "\n", *(f"CALL{i}" for i in range(3)), "<|call|>", "broken<|call|>"]


@settings(max_examples=150, deadline=None)
@given(
    name=st.sampled_from(NAMES),
    said=st.lists(st.sampled_from(PARTS), max_size=6),
    cuts=st.lists(st.integers(0, 500), max_size=8),
    eager=st.booleans(),
)
def test_events_are_the_same_however_tokens_come(name: str, said: list[str], cuts: list[int], eager: bool) -> None:
    family = FAMILIES[name]
    text = "".join(written(family, CALLS[: int(part[4])]) if part.startswith("CALL") else part for part in said)
    tools = (Tool(WEATHER.name, WEATHER.input_schema, eager=eager), NOW)
    model = family.model()
    asyncio.run(model.engine.close())
    one, whole = answer_of(model, tools, family.ids(text), [])
    other, pieces = answer_of(model, tools, family.ids(text), cuts)
    assert without_ids(whole) == without_ids(pieces)
    for what in ("stop_reason", "stop_sequence", "output_tokens", "calls", "tool_errors", "done"):
        assert getattr(one, what) == getattr(other, what)


def test_finished_calls_are_counted_by_what_is_wrong_with_them() -> None:
    mini = FAMILIES["mini"]
    model = mini.model()
    asyncio.run(model.engine.close())
    made = [*CALLS, ("weather", "{}"), ("wether", "{}"), ("now", '{"a": 01}'), ("weather", '{"city": 5, "unit": "K"}')]
    answer, _ = answer_of(model, TOOLS, mini.ids(written(mini, made) + "<|call|>nonsense"), [])
    assert answer.calls == 7
    assert answer.tool_errors == {"schema_mismatch": 2, "unknown_name": 1, "invalid_json": 2}
    assert answer_of(model, TOOLS, mini.ids(written(mini, CALLS)), [])[0].tool_errors == {}


def test_the_ledger_learns_what_was_wrong_with_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which a call can be only where its schema had to be relaxed. A check of a large schema takes long: it is not done where
    every other answer would wait for it."""
    threads: list[threading.Thread] = []

    class Seen(SchemaCheck):
        def mismatch(self, schema: Json, value: object) -> str:
            threads.append(threading.current_thread())
            return super().mismatch(schema, value)

    monkeypatch.setattr(validation, "SchemaCheck", Seen)
    mini = FAMILIES["mini"]
    tool = Tool("odd", {"type": "object", "properties": {"a": {"type": "integer", "not": {"const": 5}}}})
    rows: list[UsageRow] = []

    async def main() -> None:
        said = written(mini, [("odd", '{"a": 5}'), ("odd", '{"a": 6}'), ("odd", '{"a": 5}')])
        model = mini.model(mini.says(said))
        async for _ in Service(Registry([model]), SETTINGS, rows.append).run(turn(tools=(tool,), max_tokens=300)):
            pass
        await model.engine.close()

    asyncio.run(main())
    assert [(row.tools_offered, row.tool_calls, row.tool_errors) for row in rows] == [(1, 3, ToolErrors(schema_mismatch=2))]
    assert len(threads) == 3
    assert threading.main_thread() not in threads


def test_a_grammar_past_the_librarys_limits_is_refused_in_words() -> None:
    properties = {f"p{number}": {"type": "string"} for number in range(10)}
    tools = tuple(Tool(f"f{number}", {"type": "object", "properties": properties}) for number in range(1000))
    with pytest.raises(SenryuError, match="too complex") as caught:
        events(FAMILIES["mini"].model(), turn(tools=tools))
    assert "panic" not in caught.value.message
