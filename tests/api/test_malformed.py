"""Hundreds of malformed bodies: every one is answered 4xx in the envelope, none leaves a page behind."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from senryu.service.registry import LoadedModel
from serving import idle, says, scripted_model, serving

VERSION = {"anthropic-version": "2023-06-01"}
GOOD: dict[str, Any] = {
    "model": "senryu-mini",
    "max_tokens": 4,
    "system": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral"}}],
    "messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}, {"role": "assistant", "content": "y"}],
    "stop_sequences": ["z"],
    "stream": False,
    "temperature": 0.5,
    "top_p": 0.5,
    "top_k": 3,
    "metadata": {"user_id": "u"},
    "service_tier": "auto",
}
MARKER = {"type": "ephemeral", "ttl": "5m"}
CITATION = {
    "type": "char_location",
    "cited_text": "c",
    "document_index": 0,
    "document_title": None,
    "start_char_index": 0,
    "end_char_index": 1,
}
RICH: dict[str, Any] = {  # every field and kind of block
    "model": "senryu-mini",
    "max_tokens": 4,
    "tools": [
        {
            "name": "look",
            "description": "d",
            "input_schema": {"type": "object", "properties": {"x": {"type": "integer"}}, "additionalProperties": False},
            "input_examples": [{"x": 1}],
            "strict": True,
            "eager_input_streaming": False,
            "allowed_callers": ["direct"],
            "cache_control": {"type": "ephemeral", "ttl": "1h"},
        }
    ],
    "tool_choice": {"type": "none"},
    "messages": [
        {
            "role": "user",
            "content": [
                {
                    "type": "document",
                    "source": {"type": "text", "media_type": "text/plain", "data": "d"},
                    "title": "t",
                    "context": "c",
                    "citations": {"enabled": True},
                },
                {
                    "type": "document",
                    "source": {"type": "content", "content": [{"type": "text", "text": "d", "cache_control": MARKER}]},
                    "citations": {"enabled": True},
                },
                {"type": "search_result", "source": "s", "title": "t", "content": [{"type": "text", "text": "r"}]},
                {"type": "text", "text": "x"},
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "text", "text": "y", "citations": [CITATION]},
                {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"x": 1}, "caller": {"type": "direct"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "toolu_1",
                    "content": [{"type": "text", "text": "z"}],
                    "is_error": False,
                    "cache_control": MARKER,
                }
            ],
        },
    ],
    "cache_control": MARKER,
    "diagnostics": {"previous_message_id": None},
    "thinking": {"type": "disabled"},
}
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=-(10**400), max_value=10**400),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(
        ["\ud800", "\udfff\ud800", "\0", "\ufdd0", "<|end|>", "user", "text", "ephemeral", "image", "1h", "tool", "toolu_1"]
    ),
)
WORDS = [
    "type",
    "text",
    "role",
    "content",
    "cache_control",
    "ttl",
    "source",
    "tools",
    "output_config",
    "format",
    "$ref",
    "data",
]
KEYS = st.one_of(st.text(max_size=8), st.sampled_from(WORDS))
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON value."""
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


PLACES = [(body, path) for body in (GOOD, RICH) for path in places(body)]


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """A good body with some places replaced, fields added, and perhaps its bytes damaged."""
    value, first = draw(st.sampled_from(PLACES))
    others = [path for body, path in PLACES if body is value]
    for path in [first, *draw(st.lists(st.sampled_from(others), max_size=1))]:
        try:
            value = put(value, path, draw(VALUES))
        except (KeyError, IndexError, TypeError):
            continue
    if isinstance(value, dict) and draw(st.booleans()):
        value = {**value, draw(KEYS): draw(VALUES)}
    raw = json.dumps(value).encode()
    if draw(st.integers(0, 3)) == 0:
        at = draw(st.integers(0, len(raw)))
        raw = raw[:at] + draw(st.binary(max_size=3)) + raw[at + draw(st.integers(0, 3)) :]
    return raw


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[httpx.Client, LoadedModel]]:
    model = scripted_model(says("Hello"), check=True)
    with serving(model) as url, httpx.Client(base_url=url, headers=VERSION, timeout=60) as client:
        yield client, model


@settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck))
@given(raw=bodies(), path=st.sampled_from(["/v1/messages", "/v1/messages", "/v1/messages/count_tokens"]))
def test_malformed_bodies(served: tuple[httpx.Client, LoadedModel], raw: bytes, path: str) -> None:
    response = served[0].post(path, content=raw)
    assert response.status_code in (200, 400, 404), response.text
    if response.headers["content-type"] == "application/json":
        answer = response.json()
        assert answer.get("type") in ("message", "error", None)
        if response.status_code != 200:
            assert answer["request_id"] == response.headers["request-id"]
            assert answer["error"]["message"]
            assert answer["error"]["type"] in ("invalid_request_error", "not_found_error")


def test_afterwards_nothing_is_held(served: tuple[httpx.Client, LoadedModel]) -> None:
    client, model = served
    assert idle(model)
    stats = model.engine.stats()
    assert stats.pages_free + stats.pages_cached == stats.pages_total
    for body in (GOOD, RICH):
        assert client.post("/v1/messages", json=body).status_code == 200


@pytest.mark.parametrize(
    "raw",
    [
        b"[" * 1_000_000,
        b'{"a":' * 100_000,
        b'{"messages": ' + b"[" * 900 + b"]" * 900 + b"}",
        b"\x00" * 1000,
        b"\xff\xfe{}",
        json.dumps(GOOD | {"max_tokens": 10**300}).encode(),
        json.dumps(GOOD | {"temperature": math.nan}).encode(),
        json.dumps(GOOD | {"top_k": math.inf}).encode(),
        json.dumps(GOOD).encode()[:-1] + b', "model": "senryu-mini"}',
        json.dumps(GOOD | {"messages": [{"role": "user", "content": "\ud800"}]}).encode(),
    ],
)
def test_the_worst_ones(served: tuple[httpx.Client, LoadedModel], raw: bytes) -> None:
    response = served[0].post("/v1/messages", content=raw)
    assert (response.status_code, response.json()["error"]["type"]) == (400, "invalid_request_error")
