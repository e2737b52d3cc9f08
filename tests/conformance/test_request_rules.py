"""Reference 1.2, 1.3, 2.6, 5: the fields of a request, block by block."""

from __future__ import annotations

from typing import Any

import pytest
from asking import EPHEMERAL, HAIKU, UNVERIFIED, USER, Asked, after_call, body, result, said, text, use

ANSWER = {"role": "assistant", "content": "Sure"}
IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}}
NO_IMAGES = f"'{HAIKU}' does not support image input."
EMPTY_MESSAGE = "all messages must have non-empty content except for the optional final assistant message"

REFUSED = {
    # 1.2 fields
    "no model": ({"max_tokens": 1, "messages": [USER]}, "model: Field required"),
    "no max_tokens": ({"model": "m", "messages": [USER]}, "max_tokens: Field required"),
    "no messages": ({"model": "m", "max_tokens": 1}, "messages: Field required"),
    "long model": (body(model="m" * 257), "model: String should have at most 256 characters"),
    "empty model": (body(model=""), "model: String should have at least 1 character"),
    "8,193 tokens": (
        body(max_tokens=8193),
        f"max_tokens: 8193 > 8192, which is the maximum allowed number of output tokens for {HAIKU}",
    ),
    "the same under an alias": (
        body(max_tokens=8193, model="claude-3-5-haiku-latest"),
        f"max_tokens: 8193 > 8192, which is the maximum allowed number of output tokens for {HAIKU}",
    ),
    "negative max_tokens": (body(max_tokens=-1), UNVERIFIED["negative"]),
    "max_tokens no number": (body(max_tokens="64"), "max_tokens: Input should be a valid integer"),
    "empty messages": (body(messages=[]), "messages: at least one message is required"),
    "unknown role": (
        body(messages=[{"role": "tool", "content": "x"}]),
        "messages.0.role: Input should be 'user' or 'assistant'",
    ),
    "system role": (
        body(messages=[{"role": "system", "content": "x"}]),
        'messages: Unexpected role "system". The Messages API accepts a top-level `system` parameter, not "system" as an input '
        "message role.",
    ),
    "unknown field": (body(foo=1), "foo: Extra inputs are not permitted"),
    "unknown field of a message": (body(messages=[{**USER, "name": "x"}]), "messages.0.name: Extra inputs are not permitted"),
    "unknown field of a block": (said([text(x=1)]), "messages.0.content.0.text.x: Extra inputs are not permitted"),
    "blank stop sequence": (body(stop_sequences=[" \n"]), UNVERIFIED["stop"]),
    "stream no boolean": (body(stream="yes"), "stream: Input should be a valid boolean"),
    "temperature": (body(temperature=1.1), "temperature: range: 0..1"),
    "top_p": (body(top_p=-0.1), "top_p: range: 0..1"),
    "top_k": (body(top_k=-1), "top_k: Input should be greater than or equal to 0"),
    "long user_id": (body(metadata={"user_id": "u" * 257}), "metadata.user_id: String should have at most 256 characters"),
    "other metadata": (body(metadata={"team": "x"}), "metadata.team: Extra inputs are not permitted"),
    "service_tier": (body(service_tier="priority"), "service_tier: Input should be 'auto' or 'standard_only'"),
    "thinking": (body(thinking={"type": "enabled", "budget_tokens": 1024}), UNVERIFIED["thinking"]),
    "adaptive thinking": (body(thinking={"type": "adaptive"}), UNVERIFIED["thinking"]),
    "effort": (body(output_config={"effort": "low"}), UNVERIFIED["effort"]),
    "container": (body(container="c"), "container: containers are not supported by this server yet. Remove it and try again."),
    "mcp_servers": (
        body(mcp_servers=[{"type": "url"}]),
        "mcp_servers: MCP servers are not supported by this server yet. Remove it and try again.",
    ),
    "speed": (body(speed="fast"), "speed: speed is not supported by this server yet. Remove it and try again."),
    "context_management": (
        body(context_management={"edits": []}),
        "context_management: context management is not supported by this server yet. Remove it and try again.",
    ),
    # 1.2 texts
    "empty text": (said([text("")]), "messages: text content blocks must be non-empty"),
    "blank text": (said([text(" \n\t")]), "messages: text content blocks must contain non-whitespace text"),
    "blank string": (said(" "), "messages: text content blocks must contain non-whitespace text"),
    "empty system text": (body(system=[text("")]), "system: text content blocks must be non-empty"),
    "empty user message": (said(""), f"messages.0: {EMPTY_MESSAGE}"),
    "no blocks": (said([]), f"messages.0: {EMPTY_MESSAGE}"),
    "empty assistant message inside": (
        body(messages=[USER, {"role": "assistant", "content": ""}, USER]),
        f"messages.1: {EMPTY_MESSAGE}",
    ),
    "prefill with a space": (
        body(messages=[USER, {"role": "assistant", "content": "Sure, "}]),
        "messages: final assistant content cannot end with trailing whitespace",
    ),
    # 1.3 blocks
    "no text": (said([{"type": "text"}]), "messages.0.content.0.text.text: Field required"),
    "text no string": (said([text(7)]), "messages.0.content.0.text.text: Input should be a valid string"),
    "content no list": (said(7), "messages.0.content: Input should be a valid list"),
    "no type": (said([{"text": "x"}]), "messages.0.content.0.type: Field required"),
    "image": (said([IMAGE]), NO_IMAGES),
    "image of a tool": (after_call(result(content=[IMAGE])), NO_IMAGES),
    "image in a document": (said([{"type": "document", "source": {"type": "content", "content": [IMAGE]}}]), NO_IMAGES),
    "document of a url": (said([{"type": "document", "source": {"type": "url", "url": "https://x/y.pdf"}}]), UNVERIFIED["url"]),
    "broken base64": (
        said([{"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "a"}}]),
        "messages.0.content.0.document.source.base64.data: Invalid base64 data",
    ),
    "media type": (
        said([{"type": "document", "source": {"type": "text", "media_type": "text/html", "data": "x"}}]),
        "messages.0.content.0.document.source.text.media_type: Input should be 'text/plain'",
    ),
    "id of a call": (
        body(messages=[USER, {"role": "assistant", "content": [use("a b")]}]),
        "messages.1.content.0.tool_use.id: String should match pattern '^[a-zA-Z0-9_-]+$'",
    ),
    "input of a call": (
        body(messages=[USER, {"role": "assistant", "content": [use(input="{}")]}]),
        "messages.1.content.0.tool_use.input: Input should be a valid dictionary",
    ),
    "thinking block": (
        body(messages=[USER, {"role": "assistant", "content": [{"type": "thinking", "thinking": "x", "signature": "y"}]}]),
        "messages.1.content.0: blocks of type 'thinking' are not supported by this server yet. Remove it and try again.",
    ),
    "container_upload": (
        said([{"type": "container_upload", "file_id": "file_1"}]),
        "messages.0.content.0: blocks of type 'container_upload' are not supported by this server yet. "
        "Remove it and try again.",
    ),
    # 2.6 filling the cache
    "nothing to stream": (body(max_tokens=0, stream=True), UNVERIFIED["nothing to stream"]),
}


@pytest.mark.parametrize(("value", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(asked: Asked, value: Any, message: str) -> None:
    assert asked.refusal(value) == message


def test_an_unknown_block_is_told_the_known_ones(asked: Asked) -> None:
    assert asked.refusal(said([{"type": "hologram"}])).startswith(
        "messages.0.content.0: Input tag 'hologram' found using 'type' does not match any of the expected tags: "
    )


def test_an_unknown_model(asked: Asked) -> None:
    response = asked.post(body(model="claude-9"))
    assert (response.status_code, response.json()["error"]) == (
        404,
        {"type": "not_found_error", "message": UNVERIFIED["model"]},
    )


def test_prompts_that_are_too_long(asked: Asked) -> None:
    """One token a character here, and four around it."""
    assert asked.refusal(said("x" * 199_997)) == "prompt is too long: 200001 tokens > 200000 maximum"
    assert asked.refusal({**said("x" * 199_000), "max_tokens": 8000}) == (
        "input length and `max_tokens` exceed context limit: 199004 + 8000 > 200000, decrease input length or `max_tokens` and "
        "try again"
    )


def test_an_answer_may_fill_the_context_with_a_beta(asked: Asked) -> None:
    headers = [("anthropic-beta", "model-context-window-exceeded-2025-08-26")]
    message = asked.message({**said("x" * 199_990), "max_tokens": 8000}, headers=headers)
    assert (message["stop_reason"], message["usage"]["output_tokens"]) == ("model_context_window_exceeded", 6)
    assert asked.message(said("x"), headers=headers)["stop_reason"] == "end_turn"


def test_100_001_messages(asked: Asked) -> None:
    assert asked.refusal(body(messages=[USER] * 100_001)) == (
        "messages: List should have at most 100000 items after validation, not 100001"
    )


ACCEPTED = {
    "first message the assistant's": body(messages=[ANSWER, USER]),
    "roles in a row": body(messages=[USER, USER, ANSWER, ANSWER, USER]),
    "empty last assistant message": body(messages=[USER, {"role": "assistant", "content": ""}]),
    "system as a string": body(system="Be brief."),
    "system as blocks": body(system=[text("Be brief.", cache_control=EPHEMERAL)]),
    "stop sequences": body(stop_sequences=["a", "b"]),
    "no thinking": body(thinking={"type": "disabled"}),
    "metadata": body(metadata={"user_id": "u" * 256}),
    "tier": body(service_tier="standard_only"),
    "sampling": body(temperature=0, top_p=1, top_k=5),
    "nulls that ask for nothing": body(
        container=None, mcp_servers=[], context_management=None, diagnostics=None, cache_control=None
    ),
    "8,192 tokens": body(max_tokens=8192),
}


@pytest.mark.parametrize("value", ACCEPTED.values(), ids=ACCEPTED)
def test_accepted(asked: Asked, value: Any) -> None:
    assert asked.message(value)["role"] == "assistant"


def test_consecutive_turns_are_merged(asked: Asked) -> None:
    once = asked.message(body(messages=[{"role": "user", "content": "Hi\n\nthere"}]))
    twice = asked.message(body(messages=[{"role": "user", "content": "Hi"}, {"role": "user", "content": "there"}]))
    assert once["usage"]["input_tokens"] == twice["usage"]["input_tokens"]
