"""Turns with tools, over engines without a model: what is called, with which arguments; what is refused."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

import jsonschema
import pytest
from families import FAMILIES, NO_CALLS, written
from hypothesis import given, settings
from hypothesis import strategies as st
from test_turn import SETTINGS, assistant, events, finish_of, text_of, turn, until_idle, user

from senryu.engine.interface import TokenRequest
from senryu.errors import SenryuError
from senryu.service.registry import LoadedModel, Registry
from senryu.service.turn import Service
from senryu.types import (
    BlockStarted,
    BlockStopped,
    Event,
    InputDelta,
    Message,
    Text,
    TextDelta,
    Tool,
    ToolChoice,
    ToolResult,
    ToolUse,
    Turn,
)  # fmt: skip

NAMES = list(FAMILIES)
SEVERAL = [name for name in NAMES if not FAMILIES[name].calls.anchored]
WEATHER = Tool(
    "weather",
    {
        "type": "object",
        "properties": {
            "city": {"type": "string", "maxLength": 8},
            "unit": {"enum": ["°C", "°F"]},
            "days": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 9}, "maxItems": 3},
            "at": {"type": "object", "properties": {"hour": {"type": "integer", "minimum": 0, "maximum": 23}}},
        },
        "required": ["city"],
    },
    "The weather of a city",
)
NOW = Tool("now", {"type": "object", "properties": {}})
TOOLS = (WEATHER, NOW)
CALLS = [("weather", '{"city": "Zürich", "days": [1, 2], "at": {"hour": 7}}'), ("now", "{}")]
INPUTS = [json.loads(arguments) for _, arguments in CALLS]


def finite(digits: str) -> float:
    """1e999, which JSON may say, is the largest number that JSON can be made of."""
    return max(min(float(digits), sys.float_info.max), -sys.float_info.max)


def blocks_of(answer: Sequence[Event]) -> list[Text | ToolUse]:
    """The blocks; checks that each is started, written and stopped in order, and that deltas add up to it."""
    blocks: list[Text | ToolUse] = []
    opened: Text | ToolUse | None = None
    written = ""
    for event in answer:
        match event:
            case BlockStarted(opened):
                written = ""
            case TextDelta(text):
                assert isinstance(opened, Text)
                assert text
                written += text
            case InputDelta(text):
                assert isinstance(opened, ToolUse)
                assert text
                written += text
            case BlockStopped(block):
                if isinstance(block, Text):
                    assert isinstance(opened, Text)
                    assert block.text == written
                else:
                    assert isinstance(opened, ToolUse)
                    assert (opened.id, opened.name, opened.input) == (block.id, block.name, {})
                    assert json.loads(written, parse_float=finite) == block.input
                opened = None
                blocks.append(block)
    assert opened is None
    ids = [block.id for block in blocks if isinstance(block, ToolUse)]
    assert len(set(ids)) == len(ids)
    assert all(id.startswith("toolu_01") for id in ids)
    return blocks


def inputs_of(answer: Sequence[Event]) -> list[tuple[str, Any]]:
    return [(block.name, block.input) for block in blocks_of(answer) if isinstance(block, ToolUse)]


def several(model: LoadedModel, turns: Sequence[Turn]) -> list[list[Event]]:
    """The answers to turns that are asked together."""

    async def main() -> list[list[Event]]:
        service = Service(Registry([model]), SETTINGS)

        async def one(asked: Turn) -> list[Event]:
            async with aclosing(service.run(asked)) as stream:
                return [event async for event in stream]

        try:
            return await asyncio.gather(*map(one, turns))
        finally:
            await until_idle(model)
            await model.engine.close()

    return asyncio.run(main())


# --- calls that a model writes -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SEVERAL)
def test_text_and_two_calls(name: str) -> None:
    family = FAMILIES[name]
    model = family.model(family.says("I look.\n  " + family.calls.lead + written(family, CALLS)))
    answer = events(model, turn(tools=TOOLS, max_tokens=400))
    text, *calls = blocks_of(answer)
    assert text == Text("I look.\n  ")
    assert [(call.name, call.input) for call in calls if isinstance(call, ToolUse)] == [
        ("weather", INPUTS[0]),
        ("now", {}),
    ]
    assert finish_of(answer).stop_reason == "tool_use"


@pytest.mark.parametrize("name", NAMES)
def test_one_call_alone(name: str) -> None:
    family = FAMILIES[name]
    answer = events(family.model(family.says(written(family, CALLS[:1]))), turn(tools=TOOLS, max_tokens=400))
    assert inputs_of(answer) == [("weather", INPUTS[0])]
    assert finish_of(answer).stop_reason == "tool_use"
    assert finish_of(answer).usage.output_tokens == len(family.ids(written(family, CALLS[:1])))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("text", ["日本語 🙂\n\n\x07{}", "{", '{"name', "<tool_cal", "[TOOL_CALL", "\n", "}", "<", "a\r\n "])
def test_text_is_free_where_calls_may_be(name: str, text: str) -> None:
    family = FAMILIES[name]
    answer = events(family.model(family.says(text)), turn(tools=TOOLS, max_tokens=400))
    assert blocks_of(answer) == [Text(text)]
    assert finish_of(answer).stop_reason == "end_turn"


@pytest.mark.parametrize("name", ["mini", "mistral"])
def test_a_call_spelled_in_letters_is_text(name: str) -> None:
    family = FAMILIES[name]
    spelled = written(family, CALLS)
    answer = events(family.model(lambda request: [*family.tokenizer.encode(spelled), *family.tokenizer.eos_ids]),
                    turn(tools=TOOLS, max_tokens=400))  # fmt: skip
    assert blocks_of(answer) == [Text(spelled)]


@pytest.mark.parametrize("name", ["hermes with added tokens", "hermes with another token"])
def test_other_tokens_stay_possible_in_texts(name: str) -> None:
    """Such as <think>, which is one token but not special, and which the grammar library would take for special."""
    family = FAMILIES[name]
    think = family.tokenizer.added_tokens["<think>"]

    def reply(request: TokenRequest) -> list[int]:
        return [think, *family.tokenizer.encode("Hm"), think, *family.ids(rest)]

    for rest, calls in ((" a", []), ("\n" + written(family, CALLS[:1]), INPUTS[:1]), ("b\n" + written(family, CALLS), INPUTS)):
        answer = events(family.model(reply), turn(tools=TOOLS, max_tokens=400))
        assert text_of(answer) == "<think>Hm<think>" + rest.split("\n")[0]
        assert [value for _, value in inputs_of(answer)] == calls
        none = events(family.model(reply), turn(tools=TOOLS, tool_choice=ToolChoice("none")))
        assert text_of(none).startswith("<think>Hm<think>")
        assert "<tool_call>" not in text_of(none)


def test_input_streams_by_key_and_value_and_eager_as_it_comes() -> None:
    mini = FAMILIES["mini"]
    call = written(mini, CALLS[:1])
    deltas = [
        e.json for e in events(mini.model(mini.says(call)), turn(tools=TOOLS, max_tokens=300)) if isinstance(e, InputDelta)
    ]
    assert deltas == ['{"city": "Zürich"', ', "days": [1, 2]', ', "at": {"hour": 7}}']
    eager = (Tool(WEATHER.name, WEATHER.input_schema, eager=True), NOW)
    answer = events(mini.model(mini.says(call), seconds_per_step=0.001, drafts=False), turn(tools=eager, max_tokens=300))
    fragments = [e.json for e in answer if isinstance(e, InputDelta)]
    assert "".join(fragments) == CALLS[0][1]
    assert len(fragments) > 10
    assert inputs_of(answer) == [("weather", INPUTS[0])]


@settings(max_examples=60, deadline=None)
@given(name=st.sampled_from(NAMES), cut=st.integers(1, 130), eager=st.booleans())
def test_max_tokens_may_cut_a_call(name: str, cut: int, eager: bool) -> None:
    """The keys that are complete stay, and what streamed is JSON; an eager tool's stream ends in the middle."""
    family = FAMILIES[name]
    whole = written(family, CALLS[:1])
    length = len(family.ids(whole))
    weather = Tool(WEATHER.name, WEATHER.input_schema, eager=eager)
    asked = turn(tools=(weather, NOW), max_tokens=min(cut, length))
    answer = events(family.model(family.says(whole)), asked)
    calls = [e.block for e in answer if isinstance(e, BlockStopped) and isinstance(e.block, ToolUse)]
    assert len(calls) <= 1
    for call in calls:
        assert list(call.input.items()) == list(INPUTS[0].items())[: len(call.input)]
    if not eager or not calls:
        blocks_of(answer)
    assert finish_of(answer).stop_reason == ("max_tokens" if cut < length else "tool_use")


def test_stop_sequences_watch_text_alone() -> None:
    mini = FAMILIES["mini"]
    said = "So: city" + written(mini, CALLS[:1])
    for stop, text, calls in [
        ("city", "So: ", 0),
        ("Zürich", "So: city", 1),
        ("city<|call|>", "So: city", 1),
        ("arg", "So: city", 1),
    ]:
        answer = events(mini.model(mini.says(said)), turn(tools=TOOLS, stop_sequences=(stop,), max_tokens=400))
        assert text_of(answer) == text
        assert len(inputs_of(answer)) == calls
        assert finish_of(answer).stop_reason == ("tool_use" if calls else "stop_sequence")


@pytest.mark.parametrize("name", NAMES)
def test_prefill_goes_on_with_tools(name: str) -> None:
    """In text, and where the format has room for text beside calls in calls; forced, in a call."""
    family = FAMILIES[name]
    messages = (user("Weather?"), assistant("I will"))
    answer = events(family.model(family.says(" look")), turn(*messages, tools=TOOLS))
    assert blocks_of(answer) == [Text(" look")]
    if not family.calls.anchored:
        said = " look" + family.calls.lead + written(family, CALLS[:1])
        answer = events(family.model(family.says(said)), turn(*messages, tools=TOOLS, max_tokens=300))
        assert [type(block) for block in blocks_of(answer)] == [Text, ToolUse]
    forced = turn(*messages, tools=TOOLS, tool_choice=ToolChoice("any"), max_tokens=300)
    assert inputs_of(events(family.model(family.says(written(family, CALLS[:1]))), forced)) == [("weather", INPUTS[0])]


# --- what may be said, whatever the model would say ---------------------------------------------------------------------


def valid(name: str, value: Any, tools: Sequence[Tool] = TOOLS) -> bool:
    schema = next(tool.input_schema for tool in tools if tool.name == name)
    return jsonschema.Draft7Validator(dict(schema)).is_valid(value)


@pytest.mark.parametrize("name", NAMES)
def test_choices_are_obeyed_by_a_model_that_says_anything(name: str) -> None:
    """The engine invents tokens, so that only the grammar makes them calls."""
    choices = [ToolChoice("any"), ToolChoice("any", parallel=False), ToolChoice("tool", "weather"),
               ToolChoice("tool", "now", parallel=False)]  # fmt: skip
    family = FAMILIES[name]
    turns = [turn(tools=TOOLS, tool_choice=choice, max_tokens=3000, seed=seed) for choice in choices for seed in range(6)]
    most = 1
    for asked, answer in zip(turns, several(family.model(), turns)):
        blocks = blocks_of(answer)
        assert not any(isinstance(block, Text) for block in blocks)
        calls = inputs_of(answer)
        assert len(calls) == 1 if not asked.tool_choice.parallel else calls
        most = max(most, len(calls))
        assert all(valid(call, value) for call, value in calls)
        assert finish_of(answer).stop_reason == "tool_use"
        if asked.tool_choice.kind == "tool":
            assert {call for call, _ in calls} == {asked.tool_choice.name}
    assert (most > 1) == (not family.calls.anchored)


@pytest.mark.parametrize("name", NAMES)
def test_none_cannot_call(name: str) -> None:
    """Nor can a turn that only tells of calls."""
    family = FAMILIES[name]
    reply = family.says(written(family, CALLS[:1]))
    history = (user("go"), Message("assistant", (ToolUse("toolu_1", "now", {}),)),
               Message("user", (ToolResult("toolu_1", (Text("9:00"),)),)))  # fmt: skip
    for asked in (turn(tools=TOOLS, tool_choice=ToolChoice("none")), turn(*history)):
        answer = events(family.model(reply), asked)
        assert all(isinstance(block, Text) for block in blocks_of(answer))
        assert finish_of(answer).stop_reason != "tool_use"
        assert family.calls.start not in text_of(answer)


@pytest.mark.parametrize("name", SEVERAL)
def test_one_call_at_a_time(name: str) -> None:
    family = FAMILIES[name]
    reply = family.says("So" + family.calls.lead + written(family, CALLS))
    asked = turn(tools=TOOLS, tool_choice=ToolChoice("auto", parallel=False), max_tokens=400)
    answer = events(family.model(reply), asked)
    assert inputs_of(answer) == [("weather", INPUTS[0])]
    assert finish_of(answer).stop_reason == "tool_use"


def test_numbers_that_no_float_holds() -> None:
    mini = FAMILIES["mini"]
    arguments = '{"a": -1e999, "b": ' + "9" * 5000 + "}"
    answer = events(mini.model(mini.says(written(mini, [("any", arguments)]))), turn(tools=(Tool("any", {}),), max_tokens=6000))
    assert [call.input for call in blocks(answer)] == [{"a": -sys.float_info.max, "b": sys.float_info.max}]


def blocks(answer: Sequence[Event]) -> list[ToolUse]:
    return [event.block for event in answer if isinstance(event, BlockStopped) and isinstance(event.block, ToolUse)]


AWKWARD = [
    {"type": "object", "not": {"required": ["x"]}},
    {"type": "object", "properties": {"a": {"type": "string", "pattern": "(?=x)y", "maxLength": 3}}, "required": ["a"]},
    {"type": "object", "properties": {"a": {"$ref": "https://example.com/x.json"}}},
    {"type": "object", "properties": {"format": {"format": "made-up", "maxLength": 3}}, "required": ["format"]},
    {"type": "object", "properties": {"a": {"oneOf": [{"const": 1}, {"type": "integer", "minimum": 5, "maximum": 9}]}}},
    {"type": "object", "properties": {"a": {"type": "nonsense"}}},
    {"type": "object", "properties": 5},
    {"$schema": "http://json-schema.org/draft-07/schema#", "type": "object", "properties": {"a": {"enum": [1, "two"]}},
     "required": ["a"], "title": "T", "examples": [{}], "x-guidance": {"whitespace_flexible": True}},
    {"type": "object", "properties": {"a": {"type": "boolean"}}, "allOf": [{"properties": {"b": {}}, "required": ["b"]}]},
    {"type": "object", "properties": {"a": {"$ref": "#/$defs/tree"}}, "$defs": {"tree": {"type": "object", "properties": {
        "next": {"$ref": "#/$defs/tree"}}}}},
    {"type": "object", "anyOf": [{"properties": {"a": {"const": 1}}, "required": ["a"]}, {"properties": {"b": {"const": 2}}}]},
    {"type": "object", "properties": {"a": {"type": "integer", "minimum": 1, "maximum": 5}}, "required": ["a", "b"]},
]  # fmt: skip


@pytest.mark.parametrize("schema", AWKWARD, ids=lambda schema: json.dumps(schema)[:60])
def test_a_schema_that_is_not_understood_is_relaxed(schema: dict[str, Any]) -> None:
    """Only for the tool that has it, and only as far as it must be."""
    mini = FAMILIES["mini"]
    nested = schema
    for _ in range(200):
        nested = {"type": "object", "properties": {"deeper": nested}}
    for tools in ((Tool("odd", schema), WEATHER), (Tool("odd", nested), WEATHER)):
        odd = events(mini.model(), turn(tools=tools, tool_choice=ToolChoice("tool", "odd"), max_tokens=200, seed=1))
        assert {name for name, _ in inputs_of(odd)} == {"odd"}
        one = ToolChoice("tool", "weather", parallel=False)
        answer = events(mini.model(), turn(tools=tools, tool_choice=one, max_tokens=1000, seed=1))
        ((name, value),) = inputs_of(answer)
        assert (name, finish_of(answer).stop_reason) == ("weather", "tool_use")
        assert valid(name, value)


def test_named_parameters_are_the_only_ones() -> None:
    mini = FAMILIES["mini"]
    tool = Tool("pick", {"type": "object", "properties": {"color": {"enum": ["red", "blue"]}}})
    turns = [
        turn(tools=(tool,), tool_choice=ToolChoice("any", parallel=False), max_tokens=300, seed=seed) for seed in range(20)
    ]
    seen = {json.dumps(value) for answer in several(mini.model(), turns) for _, value in inputs_of(answer)}
    assert seen == {"{}", '{"color": "red"}', '{"color": "blue"}'}


# --- what is refused ---------------------------------------------------------------------------------------------------


def strict(schema: dict[str, Any], name: str = "s") -> Tool:
    return Tool(name, schema, strict=True)


def closed(properties: dict[str, Any], required: Sequence[str] = ()) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


OPEN = {"type": "object", "properties": {"a": {}}}


@pytest.mark.parametrize(
    ("tools", "why"),  # the first two as the original words them; the rest is unverified
    [
        ((strict(OPEN),), "tools.0.custom: For 'object' type, 'additionalProperties' must be explicitly set to false"),
        (
            (NOW, strict(closed({"a": {"type": "object", "additionalProperties": True}}))),
            "tools.1.custom: For 'object' type, 'additionalProperties: true' is not supported. "
            "Please set 'additionalProperties' to false",
        ),
        ((NOW, strict(closed({"a": {"not": {}}}))), 'tools.1.custom: Unimplemented keys: ["not"]'),
        ((strict(closed({"a": {"type": "string", "pattern": "(?=a)b"}})),), "tools.0.custom: regex parse error: (?=a)b ^^^ "
         "error: look-around, including look-ahead and look-behind, is not supported"),
        ((strict(closed({"a": {"$ref": "#/$defs/b"}})),), "tools.0.custom: Pointer '/$defs/b' does not exist"),
        (tuple(strict(closed({}), f"t{i}") for i in range(21)), "tools: 21 strict tools > 20, which is the most. "
         "Set strict on fewer of them."),
        ((strict(closed({f"p{i}": {"type": "null"} for i in range(25)})),), "tools: 25 optional parameters in all "
         "strict schemas > 24, which is the most. Make more of them required."),
        ((strict(closed({f"p{i}": {"type": ["null", "string"]} for i in range(17)}, [f"p{i}" for i in range(17)])),),
         "tools: 17 parameters with union types (anyOf or a list of types) in all strict schemas > 16, which is the most. "
         "Use fewer of them."),
    ],
)  # fmt: skip
def test_strict_tools_are_kept_to_or_refused(tools: tuple[Tool, ...], why: str) -> None:
    model = FAMILIES["mini"].model()
    with pytest.raises(SenryuError) as caught:
        events(model, turn(tools=tools))
    assert (caught.value.message, caught.value.status) == (why, 400)
    assert model.engine.stats().prompt_tokens == 0


def test_strict_tools_of_the_most_that_is_allowed() -> None:
    """And beyond the original: bounds, lengths, patterns and recursion. Required parameters come first."""
    tree = closed({"value": {"type": "integer", "minimum": 1, "maximum": 3}, "next": {"$ref": "#/$defs/tree"}}, ["value"])
    properties = {"z": {"type": "null"}, "tree": {"$ref": "#/$defs/tree"}, "id": {"type": "string", "pattern": "^[a-f]{4}$"}}
    schema = closed(properties, ["tree", "id"]) | {"$defs": {"tree": tree}}
    tools = tuple(strict(schema, f"t{i}") for i in range(12))
    turns = [turn(tools=tools, tool_choice=ToolChoice("any", parallel=False), max_tokens=500, seed=seed) for seed in range(8)]
    for answer in several(FAMILIES["mini"].model(), turns):
        ((name, value),) = inputs_of(answer)
        assert valid(name, value, tools)
        assert list(value)[:2] == ["tree", "id"]


def test_a_model_that_cannot_call_says_so() -> None:
    used = (user("go"), Message("assistant", (ToolUse("t", "now", {}),)), Message("user", (ToolResult("t"),)))
    for asked in (turn(tools=TOOLS), turn(*used)):
        with pytest.raises(SenryuError, match=r"^tools: 'senryu-mini' does not support tool use") as caught:
            events(NO_CALLS.model(), asked)
        assert caught.value.status == 400

    async def count() -> None:
        model = NO_CALLS.model()
        with pytest.raises(SenryuError, match="does not support tool use"):
            await Service(Registry([model]), SETTINGS).count_tokens(turn(tools=TOOLS))
        await model.engine.close()

    asyncio.run(count())
