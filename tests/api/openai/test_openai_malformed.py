"""Hundreds of malformed bodies for the OpenAI-compatible door: none is answered 5xx, none leaves a page behind."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from senryu.service.registry import LoadedModel
from serving import idle, says, scripted_model, serving

SCHEMA = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"], "additionalProperties": False}
FUNCTION = {"name": "look", "description": "d", "parameters": SCHEMA, "strict": True}
CALL = {"id": "c", "type": "function", "function": {"name": "look", "arguments": '{"x": 1}'}}
SAMPLED = {"model": "senryu-mini", "temperature": 0.5, "top_p": 0.5, "metadata": {"a": "b"}, "user": "u"}
GOOD: list[tuple[str, dict[str, Any]]] = [
    (
        "chat/completions",
        SAMPLED
        | {
            "max_tokens": 4,
            "messages": [
                {"role": "system", "content": "s"},
                {"role": "user", "content": [{"type": "text", "text": "x"}]},
                {"role": "assistant", "content": "y", "tool_calls": [CALL], "refusal": None},
                {"role": "tool", "tool_call_id": "c", "content": "z"},
            ],
            "tools": [{"type": "function", "function": FUNCTION}],
            "tool_choice": {"type": "function", "function": {"name": "look"}},
            "parallel_tool_calls": False,
            "stop": ["q"],
            "stream": True,
            "stream_options": {"include_usage": True},
            "n": 1,
            "seed": 1,
        },
    ),
    (
        "chat/completions",
        {
            "model": "senryu-mini",
            "max_completion_tokens": 4,
            "messages": [
                {"role": "user", "content": "x"},
                {"role": "assistant", "content": None, "function_call": {"name": "look", "arguments": "{}"}},
                {"role": "function", "name": "look", "content": "z"},
            ],
            "functions": [FUNCTION],
            "function_call": "none",
            "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA, "strict": True}},
        },
    ),
    ("completions", SAMPLED | {"prompt": [9, 10, 11], "max_tokens": 3, "echo": True, "stop": "x", "best_of": 1}),
    ("completions", {"model": "senryu-mini", "prompt": ["x"], "stream": True}),
    (
        "responses",
        SAMPLED
        | {
            "input": [
                {"role": "user", "content": [{"type": "input_text", "text": "x"}]},
                {"type": "function_call", "call_id": "c", "name": "look", "arguments": "{}", "id": "fc", "status": "completed"},
                {"type": "function_call_output", "call_id": "c", "output": "z"},
            ],
            "instructions": "i",
            "tools": [{"type": "function", **FUNCTION}],
            "tool_choice": "auto",
            "text": {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA}, "verbosity": "medium"},
            "max_output_tokens": 4,
            "reasoning": {"effort": None},
            "include": [],
            "stream": False,
        },
    ),
]
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=-(10**400), max_value=10**400),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(["\ud800", "\0", "<|end|>", "user", "text", "required", "json_object", "function", '{"x":', "[]"]),
)
KEYS = st.one_of(
    st.text(max_size=8), st.sampled_from(["type", "text", "role", "content", "name", "arguments", "schema", "tools", "$ref"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


def put(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = put(value[path[0]], path[1:], new)
    return copy


PLACES = [(address, body, path) for address, body in GOOD for path in places(body)]


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, bytes]:
    """An address, and a good body with a place replaced and perhaps a field added."""
    address, value, path = draw(st.sampled_from(PLACES))
    value = put(value, path, draw(VALUES))
    if isinstance(value, dict) and draw(st.booleans()):
        value = {**value, draw(KEYS): draw(VALUES)}
    raw = json.dumps(value).encode()
    if draw(st.integers(0, 5)) == 0:
        at = draw(st.integers(0, len(raw)))
        raw = raw[:at] + draw(st.binary(max_size=3)) + raw[at:]
    return address, raw


@pytest.fixture(scope="module", params=["faithful", "lenient"])
def served(request: pytest.FixtureRequest) -> Iterator[tuple[httpx.Client, LoadedModel]]:
    model = scripted_model(says("Hello"), check=True)
    with serving(model, profile=request.param) as url, httpx.Client(base_url=url, timeout=60) as client:
        yield client, model


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(asked=requests())
def test_malformed_bodies(served: tuple[httpx.Client, LoadedModel], asked: tuple[str, bytes]) -> None:
    address, raw = asked
    response = served[0].post(f"/v1/{address}", content=raw)
    assert response.status_code in (200, 400, 404), response.text
    if response.status_code != 200:
        error = response.json()["error"]
        assert error["message"]
        assert error["type"] == "invalid_request_error"
        assert set(error) == {"message", "type", "param", "code"}
    else:
        assert "server_error" not in response.text


def test_afterwards_nothing_is_held(served: tuple[httpx.Client, LoadedModel]) -> None:
    client, model = served
    assert idle(model)
    for address, body in GOOD:
        response = client.post(f"/v1/{address}", json=body)
        assert response.status_code == 200, response.text
