"""Reference 1.4 to 1.8: messages, streams, errors, counting, models, the API before Messages."""

from __future__ import annotations

from typing import Any

import anthropic
import httpx
import pytest
from asking import HAIKU, SCHEMA, TOOL, UNVERIFIED, USER, Asked, body, said

from serving import scripted_model, serving


def test_a_message(asked: Asked) -> None:
    """1.4"""
    message = asked.message(body())
    assert message.pop("id").startswith("msg_")
    assert message == {
        "type": "message",
        "role": "assistant",
        "model": HAIKU,
        "content": [{"type": "text", "text": "Hi"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 6,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
            "output_tokens": 3,
            "service_tier": "standard",
            "inference_geo": "not_available",
        },
    }


def test_the_model_is_the_canonical_one(asked: Asked) -> None:
    assert asked.message(body(model="claude-3-5-haiku-latest"))["model"] == HAIKU


def test_stop_reasons(asked: Asked) -> None:
    stopped = asked.message({**said("one two"), "stop_sequences": [" t"]})
    assert (stopped["stop_reason"], stopped["stop_sequence"], stopped["content"][0]["text"]) == ("stop_sequence", " t", "one")
    cut = asked.message({**said("one two"), "max_tokens": 3})
    assert (cut["stop_reason"], cut["stop_sequence"], cut["content"][0]["text"]) == ("max_tokens", None, "one")


def test_an_answer_continues_a_prefill_and_does_not_repeat_it(asked: Asked) -> None:
    message = asked.message(body(messages=[USER, {"role": "assistant", "content": "Say:"}]))
    assert message["content"] == [{"type": "text", "text": "Hi"}]


def test_the_order_of_a_stream(asked: Asked) -> None:
    """1.5: no [DONE]; a ping right behind the first start."""
    events = asked.events(said("Hello"))
    kinds = [event["type"] for event in events]
    assert kinds[:3] == ["message_start", "content_block_start", "ping"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert set(kinds[3:-3]) == {"content_block_delta"}
    assert [event["index"] for event in events if "index" in event] == [0] * (len(events) - 4)
    assert "".join(event["delta"]["text"] for event in events[3:-3]) == "Hello"


def test_the_beginning_and_the_end_of_a_stream(asked: Asked) -> None:
    events = asked.events({**said("one two"), "stop_sequences": [" t"]})
    start = events[0]["message"]
    assert (start["content"], start["stop_reason"], start["stop_sequence"]) == ([], None, None)
    whole = asked.message({**said("one two"), "stop_sequences": [" t"]})
    assert set(start) == set(whole)
    assert {**start["usage"], "output_tokens": 0} == {**whole["usage"], "output_tokens": 0}
    assert start["usage"]["output_tokens"] > 0
    assert events[-2]["delta"] == {"stop_reason": "stop_sequence", "stop_sequence": " t"}
    assert events[-2]["usage"]["output_tokens"] == whole["usage"]["output_tokens"]
    assert events[-1] == {"type": "message_stop"}
    assert asked.events(said("x"))[-2]["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}


def test_the_content_type_of_a_stream(asked: Asked) -> None:
    response = asked.post(body(stream=True))
    assert response.headers["content-type"].startswith("text/event-stream")
    assert "[DONE]" not in response.text


def test_a_refusal_of_a_stream_is_plain(asked: Asked) -> None:
    response = asked.post(body(stream=True, max_tokens=8193))
    assert (response.status_code, response.headers["content-type"]) == (400, "application/json")


@pytest.mark.parametrize(
    ("method", "path", "content", "status", "kind"),
    [
        ("POST", "/v1/messages", b"{", 400, "invalid_request_error"),
        ("POST", "/v1/messages", b"[]", 400, "invalid_request_error"),
        ("POST", "/v1/messages", b" " * (32 * 1024 * 1024 + 1), 413, "request_too_large"),
        ("GET", "/v1/nothing", b"", 404, "not_found_error"),
        ("PUT", "/v1/messages", b"", 404, "not_found_error"),
    ],
)
def test_errors(asked: Asked, method: str, path: str, content: bytes, status: int, kind: str) -> None:
    """1.6"""
    response = httpx.request(method, asked.url + path, content=content, headers={"anthropic-version": "2023-06-01"}, timeout=60)
    assert response.status_code == status
    answer = response.json()
    assert set(answer) == {"type", "error", "request_id"}
    assert (answer["type"], answer["error"]["type"]) == ("error", kind)
    assert answer["error"]["message"]
    assert answer["request_id"] == response.headers["request-id"]


def test_counting_answers_nothing_else(asked: Asked) -> None:
    """1.7"""
    counted = asked.post({"model": HAIKU, "messages": [USER]}, "/v1/messages/count_tokens")
    assert counted.json() == {"input_tokens": 6}


def test_counting_is_what_an_answer_takes(asked: Asked) -> None:
    fields: dict[str, Any] = {"system": "Be brief.", "messages": [USER, {"role": "assistant", "content": "I"}]}
    counted = asked.post({"model": HAIKU, **fields}, "/v1/messages/count_tokens").json()["input_tokens"]
    assert counted == asked.message(body(**fields))["usage"]["input_tokens"]


def test_counting_takes_all_that_the_model_reads_and_nothing_else(asked: Asked) -> None:
    value = {
        "model": HAIKU,
        "messages": [USER],
        "system": "s",
        "tools": [TOOL],
        "tool_choice": {"type": "auto"},
        "thinking": {"type": "disabled"},
        "cache_control": {"type": "ephemeral"},
    }
    path = "/v1/messages/count_tokens"
    assert asked.post(value, path).json()["input_tokens"] > 6
    assert asked.post({"model": HAIKU, "messages": [USER], "output_config": {"format": {"type": "json_schema", "schema": {
        **SCHEMA, "additionalProperties": False}}}}, path).status_code == 200  # fmt: skip
    for name in ("max_tokens", "stream", "temperature", "stop_sequences", "metadata"):
        assert asked.refusal({**value, name: 1}, path=path) == f"{name}: Extra inputs are not permitted"
    assert asked.refusal({"model": HAIKU, "messages": [USER], "tool_choice": {"type": "any"}}, path=path) == (
        "tool_choice may only be specified while providing tools."
    )


def test_models(asked: Asked) -> None:
    """1.8"""
    page = asked.get("/v1/models?limit=1").json()
    assert (len(page["data"]), page["has_more"]) == (1, True)
    assert page["first_id"] == page["last_id"] == page["data"][0]["id"]
    model = asked.get("/v1/models/claude-3-5-haiku-latest").json()
    assert (model["type"], model["id"], model["created_at"]) == ("model", HAIKU, "2024-10-22T00:00:00Z")
    assert (model["max_input_tokens"], model["max_tokens"], model["lifecycle"]) == (200_000, 8192, "active")
    supported = {name: what["supported"] for name, what in model["capabilities"].items()}
    assert supported == {
        "batch": True,
        "citations": True,
        "code_execution": False,
        "context_management": False,
        "effort": False,
        "image_input": False,
        "pdf_input": True,
        "server_tools": False,
        "structured_outputs": True,
        "thinking": False,
    }
    for limit in (0, 1001):
        assert asked.get(f"/v1/models?limit={limit}").status_code == 400


def test_the_sdk_reads_models_strictly(asked: Asked) -> None:
    with anthropic.Anthropic(base_url=asked.url, api_key="k", _strict_response_validation=True) as client:
        assert {model.id for model in client.models.list(limit=1)} >= {HAIKU, "senryu-mini"}
        assert client.models.retrieve("claude-3-5-haiku-latest").id == HAIKU


def test_completions_are_not_served(asked: Asked) -> None:
    """1.10"""
    assert (
        asked.refusal({"model": HAIKU, "prompt": "x", "max_tokens_to_sample": 1}, path="/v1/complete")
        == UNVERIFIED["completions"]
    )


def test_an_overload_is_a_529() -> None:
    with serving(scripted_model(), max_requests=0) as url:
        response = Asked(url).post(body())
        assert (response.status_code, response.json()["error"]) == (529, {"type": "overloaded_error", "message": "Overloaded"})
