"""Tools and structured output over a real socket, as the official SDK sees them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest

from senryu.engine.interface import TokenRequest
from serving import END, SPECIALS, TOKENIZER, scripted_model, serving

MODEL = "senryu-mini"
CALL = SPECIALS.index("<|call|>")
TOOLS: list[Any] = [
    {
        "name": "weather",
        "description": "The weather of a city",
        "input_schema": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "array", "items": {"type": "integer"}}},
            "required": ["city"],
        },
    },
    {"name": "now", "input_schema": {"type": "object", "properties": {}}},
]
ASKED: list[Any] = [{"role": "user", "content": "Weather and time?"}]
SCHEMA = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}


def reply(request: TokenRequest) -> list[int]:
    """Calls both tools; once it has read a result it answers."""
    if SPECIALS.index("<|result|>") in request.ids:
        return [*TOKENIZER.encode("7° at 9:00"), END]
    first = '{"name": "weather", "arguments": {"city": "Zürich", "days": [1, 2]}}'
    second = '{"name": "now", "arguments": {}}'
    return [*TOKENIZER.encode("I look."), CALL, *TOKENIZER.encode(first), CALL, *TOKENIZER.encode(second), END]


@pytest.fixture
def client() -> Iterator[anthropic.Anthropic]:
    with serving(scripted_model(reply)) as url, anthropic.Anthropic(base_url=url, api_key="any") as found:
        yield found


def test_a_loop(client: anthropic.Anthropic) -> None:
    first = client.messages.create(model=MODEL, max_tokens=300, tools=TOOLS, messages=ASKED)
    text, *calls = first.content
    assert (text.type, first.stop_reason) == ("text", "tool_use")
    assert [(call.name, call.input) for call in calls if call.type == "tool_use"] == [
        ("weather", {"city": "Zürich", "days": [1, 2]}),
        ("now", {}),
    ]
    results = [{"type": "tool_result", "tool_use_id": call.id, "content": "x"} for call in calls if call.type == "tool_use"]
    told: list[Any] = [*ASKED, {"role": "assistant", "content": first.content}, {"role": "user", "content": results}]
    second = client.messages.create(model=MODEL, max_tokens=300, tools=TOOLS, messages=told)
    assert (second.stop_reason, second.content[0].type) == ("end_turn", "text")
    counted = client.messages.count_tokens(model=MODEL, tools=TOOLS, messages=told)
    assert second.usage.input_tokens == counted.input_tokens


def test_a_stream_of_calls(client: anthropic.Anthropic) -> None:
    with client.messages.stream(model=MODEL, max_tokens=300, tools=TOOLS, messages=ASKED) as stream:
        seen = [event for event in stream if event.type in ("input_json", "content_block_stop")]
        message = stream.get_final_message()
    pieces = [event.partial_json for event in seen if event.type == "input_json"]
    assert pieces == ["", '{"city": "Zürich"', ', "days": [1, 2]}', "", "{}"]
    assert [block.input for block in message.content if block.type == "tool_use"] == [{"city": "Zürich", "days": [1, 2]}, {}]
    assert message.stop_reason == "tool_use"


def test_choices(client: anthropic.Anthropic) -> None:
    asked: dict[str, Any] = {"model": MODEL, "max_tokens": 300, "tools": TOOLS, "messages": ASKED}
    forced = client.messages.create(**asked, tool_choice={"type": "tool", "name": "now", "disable_parallel_tool_use": True})
    assert [block.type for block in forced.content] == ["tool_use"]
    none = client.messages.create(**asked, tool_choice={"type": "none"})
    assert {block.type for block in none.content} == {"text"}


def test_structured_output(client: anthropic.Anthropic) -> None:
    def ask(schema: dict[str, Any]) -> anthropic.types.Message:
        form = {"output_config": {"format": {"type": "json_schema", "schema": schema}}}
        return client.messages.create(model=MODEL, max_tokens=100, messages=ASKED, extra_body=form)

    (block,) = ask(SCHEMA).content
    assert block.type == "text"
    assert json.loads(block.text) in ({"a": 1}, {"a": 2})
    with pytest.raises(anthropic.BadRequestError, match="'additionalProperties' must be explicitly set to false"):
        ask({"type": "object"})
