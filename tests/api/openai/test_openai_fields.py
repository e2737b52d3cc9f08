"""Fields of chat completions: refused by name, passed over by name, or asking for nothing."""

from __future__ import annotations

from typing import Any

import pytest
from openai_door import Door

from senryu.api.openai.chat import ChatParser, ChatRequest
from senryu.api.openai.options import ChatOptions
from senryu.errors import SenryuError
from senryu.service.registry import Registry
from senryu.types import CacheControl, Message, Text, Tool, ToolChoice, ToolResult, ToolUse
from serving import scripted_model

HI: dict[str, Any] = {"role": "user", "content": "Hi"}
FUNCTION = {"name": "f", "parameters": {"type": "object", "properties": {}}}
TOOL = {"type": "function", "function": FUNCTION}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
CALLED = {"role": "assistant", "content": None, "tool_calls": [CALL]}
REGISTRY = Registry([scripted_model()])


def parse(*messages: Any, options: ChatOptions | None = None, **fields: Any) -> ChatRequest:
    how = {} if options is None else {"options": options}
    return ChatParser(REGISTRY, **how).create({"model": "senryu-mini", "messages": [*messages] or [HI], **fields})


UNHEARD: list[tuple[str, Any]] = [
    ("n", 2),
    ("logprobs", True),
    ("top_logprobs", 3),
    ("logit_bias", {"50256": -100}),
    ("frequency_penalty", 0.5),
    ("presence_penalty", -1),
    ("modalities", ["text", "audio"]),
    ("audio", {"voice": "alloy", "format": "wav"}),
    ("prediction", {"type": "content", "content": "x"}),
    ("store", True),
    ("reasoning_effort", "high"),
    ("verbosity", "low"),
    ("web_search_options", {}),
    ("service_tier", "priority"),
    ("made_up", 1),
]


@pytest.mark.parametrize(("name", "value"), UNHEARD)
def test_what_is_not_here_is_refused_or_named(door: Door, lenient: Door, name: str, value: Any) -> None:
    error = door.refusal("chat/completions", messages=[HI], **{name: value})
    assert (error["param"], error["type"]) == (name, "invalid_request_error")
    assert name in error["message"]
    response = lenient.post("chat/completions", messages=[HI], **{name: value})
    assert response.status_code == 200, response.text
    assert response.headers["senryu-ignored"] == name
    assert response.json()["choices"][0]["message"]["content"] == "Hi"


def test_what_asks_for_nothing_passes(door: Door) -> None:
    nothing = {
        "n": 1,
        "logprobs": False,
        "top_logprobs": 0,
        "logit_bias": {},
        "frequency_penalty": 0.0,
        "presence_penalty": 0,
        "modalities": ["text"],
        "store": False,
        "reasoning_effort": "none",
        "service_tier": "auto",
        "metadata": {"a": "b"},
        "user": "someone",
        "prompt_cache_key": "k",
        "parallel_tool_calls": True,
        "tools": [],
        "tool_choice": "auto",
        "stop": None,
        "response_format": None,
        "stream_options": None,
        "seed": None,
        "temperature": None,
        "top_p": 1,
    }
    response = door.post("chat/completions", messages=[HI], **nothing)
    assert response.status_code == 200, response.text
    assert "senryu-ignored" not in response.headers
    every = dict.fromkeys([name for name, _ in UNHEARD[:-1]])
    assert door.post("chat/completions", messages=[HI], **every).status_code == 200


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"messages": []}, "messages", "messages: at least one message that is no system message is required"),
    ({"messages": [{"role": "system", "content": "x"}]}, "messages", "messages: at least one message that is no system"),
    ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role", "messages[0].role: Input should be 'system',"),
    ({"messages": [{"role": "user", "content": ""}]}, "messages[0]", "messages[0]: the content must not be empty"),
    (
        {"messages": [{"role": "system", "content": "x"}, HI, {"role": "user", "content": []}]},
        "messages[2]",
        "messages[2]: the content must not be empty",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        "messages[0].content[0]",
        "messages[0].content[0]: content parts of type 'image_url' are not supported by this server yet.",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]},
        "messages[0].content[0]",
        "messages[0].content[0]: content parts of type 'input_audio' are",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "file", "file": {}}]}]},
        "messages[0].content[0]",
        "messages[0].content[0]: content parts of type 'file' are",
    ),
    ({"messages": [{**HI, "name": "Bo"}]}, "messages[0].name", "messages[0].name: names of speakers are not supported"),
    ({"messages": [HI, {"role": "tool", "tool_call_id": "c", "content": "x"}]}, "messages[1]", "Invalid parameter: messages"),
    ({"messages": [HI, CALLED, HI]}, "messages[1]", "An assistant message with 'tool_calls' must be followed by tool messages"),
    (
        {"messages": [HI, {**CALLED, "tool_calls": [{**CALL, "function": {"name": "f", "arguments": "[1]"}}]}]},
        "messages[1].tool_calls[0].function.arguments",
        "messages[1].tool_calls[0].function.arguments: should be a JSON object in a string: it is no object",
    ),
    (
        {"messages": [HI, {**CALLED, "tool_calls": [{**CALL, "function": {"name": "f", "arguments": '{"a'}}]}]},
        "messages[1].tool_calls[0].function.arguments",
        "messages[1].tool_calls[0].function.arguments: should be a JSON object in a string: Unterminated string",
    ),
    ({"max_tokens": 0}, "max_tokens", "max_tokens: Input should be greater than or equal to 1"),
    ({"max_tokens": 1, "max_completion_tokens": 1}, "max_tokens", "max_tokens: cannot be given together with"),
    ({"max_completion_tokens": 8193}, "max_completion_tokens", "max_completion_tokens is too large: 8193."),
    ({"temperature": 2.1}, "temperature", "temperature: range: 0..2"),
    ({"seed": 2**63}, "seed", "seed: range:"),
    ({"stop": ""}, "stop", "stop: String should have at least 1 character"),
    ({"stream_options": {"include_usage": True}}, "stream_options", "stream_options: only allowed when stream is true"),
    ({"tool_choice": "required"}, "tool_choice", "'tool_choice' is only allowed when 'tools' are specified."),
    ({"tools": [{"type": "web_search"}]}, "tools[0]", "tools[0]: tools of type 'web_search' are not supported"),
    ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0]", "tools[0]: tools of type 'custom' are"),
    ({"tools": [TOOL, TOOL]}, "tools", "tools: Tool names must be unique."),
    (
        {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}},
        "tool_choice",
        "tool_choice: no function 'g' is among the tools",
    ),
    (
        {"tools": [{"type": "function", "function": {**FUNCTION, "strict": True}}]},
        "tools[0].function",
        "tools[0].function: For 'object' type, 'additionalProperties' must be explicitly set to false",
    ),
    ({"tools": [TOOL], "functions": [FUNCTION]}, "functions", "functions: cannot be given together with tools."),
    ({"response_format": {"type": "xml"}}, "response_format.type", "response_format.type: Input should be 'text',"),
    ({"model": None}, "model", "model: Input should be a valid string"),
]


@pytest.mark.parametrize(("fields", "param", "message"), REFUSED)
def test_refusals_name_the_field(door: Door, fields: dict[str, Any], param: str, message: str) -> None:
    error = door.refusal("chat/completions", **{"messages": [HI], **fields})
    assert error["message"].startswith(message)
    assert (error["param"], error["type"]) == (param, "invalid_request_error")


def test_what_is_missing(door: Door) -> None:
    response = door.client.post("/v1/chat/completions", json={"messages": [HI]})
    assert response.json()["error"]["message"] == "Missing required parameter: 'model'."
    error = door.refusal("chat/completions", 404, model="gpt-9", messages=[HI])
    assert (error["code"], error["message"]) == (
        "model_not_found",
        "The model `gpt-9` does not exist or you do not have access to it.",
    )


def test_a_conversation_as_a_turn() -> None:
    turn = parse(
        {"role": "system", "content": "A"},
        {"role": "developer", "content": [{"type": "text", "text": "B"}, {"type": "text", "text": "C"}]},
        HI,
        {"role": "assistant", "content": "ok", "refusal": None, "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c", "content": [{"type": "text", "text": "r"}]},
        {"role": "system", "content": "D"},
    ).turn
    assert turn.system == (Text("A\nB\nC"),)
    assert turn.messages == (
        Message("user", (Text("Hi"),)),
        Message("assistant", (Text("ok"), ToolUse("c", "f", {}))),
        Message("user", (ToolResult("c", (Text("r"),)),)),
        Message("user", (Text("D"),)),
    )
    assert (turn.max_tokens, turn.fills_context, turn.temperature, turn.top_p) == (8192, True, 1.0, 0.99)


def test_sampling_as_a_turn() -> None:
    turn = parse(temperature=1.7, top_p=0.5, seed=-1, stop="x", max_tokens=5).turn
    assert (turn.temperature, turn.top_p, turn.seed) == (1.0, 0.5, 2**63 - 1)
    assert (turn.stop_sequences, turn.max_tokens, turn.fills_context) == (("x",), 5, False)


def test_tools_as_a_turn() -> None:
    bare = {"type": "function", "function": {"name": "g", "description": "d", "strict": None}}
    asked = parse(tools=[TOOL, bare], tool_choice="required", parallel_tool_calls=False).turn
    empty = {"type": "object", "properties": {}}
    assert asked.tools == (Tool("f", empty), Tool("g", empty, "d"))
    assert asked.tool_choice == ToolChoice("any", parallel=False)
    untyped = {"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": {}}}}}
    assert parse(tools=[untyped]).turn.tools[0].input_schema == {"type": "object", "properties": {"a": {}}}


def test_hooks_for_another_shape() -> None:
    marker = {"type": "ephemeral"}
    options = ChatOptions(
        read=lambda fields, dialect: {"top_k": fields.take_or("top_k", lambda value, path: value, 0)}, cache_control=True
    )
    marked = {
        "role": "system",
        "content": [{"type": "text", "text": "A", "cache_control": marker}, {"type": "text", "text": "B"}],
    }
    turn = parse(marked, HI, options=options, top_k=5, tools=[{**TOOL, "cache_control": {**marker, "ttl": "1h"}}]).turn
    assert turn.top_k == 5
    assert turn.system == (Text("A", CacheControl(300)), Text("B"))
    assert turn.tools[0].cache == CacheControl(3600)
    with pytest.raises(SenryuError, match=r"cache_control: Extra inputs"):
        parse(marked, HI)
