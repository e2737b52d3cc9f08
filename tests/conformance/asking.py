"""What the conformance tests share: a server of a scripted model, requests to it, and how its refusals read.

Texts that the reference does not give, or gives as unverified, stand in UNVERIFIED and nowhere else: when a real answer is
known, this is the place to correct.
"""

from __future__ import annotations

import json
from typing import Any

import httpx

V2023, V2026 = "2023-06-01", "2026-10-21"
HAIKU = "claude-3-5-haiku-20241022"
USER = {"role": "user", "content": "Hi"}
EPHEMERAL = {"type": "ephemeral"}
HOUR = {"type": "ephemeral", "ttl": "1h"}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"name": "weather", "description": "The weather of a city", "input_schema": SCHEMA}

UNVERIFIED = {
    "model": "model: claude-9",
    "thinking": f"'{HAIKU}' does not support thinking.",
    "effort": "This model does not support the effort parameter.",
    "stop": "stop_sequences: each stop sequence must contain non-whitespace",
    "version": 'anthropic-version: "2024-10-22" is not a valid version',
    "document in an answer": "messages.1.content.0: `document` blocks can only be in `user` messages",
    "url": "messages.0.content.0.document.source: this server fetches nothing. Send the document itself, as a source of type "
    "'base64', 'text' or 'content'.",
    "inner marker": "messages.0.content.0.document.source.content.content.0.cache_control: blocks inside of document cannot be "
    "cached on their own. Put cache_control on the document itself.",
    "negative": "max_tokens: Input should be greater than or equal to 0",
    "nothing to stream": "max_tokens: must be greater than or equal to 1 with stream: 0 only reads the prompt into the cache",
    "choice": "tool_choice: Tool 'book' not found in provided tools",
    "example": "tools.0.custom.input_examples.0: does not match the tool's input_schema: 'city' is a required property",
    "second result": "messages.2.content.1: each `tool_use` must have a single result. Found multiple `tool_result` blocks "
    "with id: toolu_1",
    "result of the assistant": "messages.1.content.0: `tool_result` blocks can only be in `user` messages",
    "call of the user": "messages.0.content.0: `tool_use` blocks can only be in `assistant` messages",
    "server tool": "tools.0: tools of type 'web_search_20250305' are not supported by this server yet. "
    "Remove it and try again.",
    "completions": "Text completions are not supported by any model here. Use the Messages API: POST /v1/messages",
}


def body(**fields: Any) -> dict[str, Any]:
    """A good request, changed."""
    return {"model": HAIKU, "max_tokens": 64, "messages": [USER], **fields}


def said(content: Any, *more: Any) -> dict[str, Any]:
    """A request whose first message is the user's `content`."""
    return body(messages=[{"role": "user", "content": content}, *more])


def text(value: Any = "x", **fields: Any) -> dict[str, Any]:
    """A block of text."""
    return {"type": "text", "text": value, **fields}


def use(id: str = "toolu_1", **fields: Any) -> dict[str, Any]:
    """A call."""
    return {"type": "tool_use", "id": id, "name": "weather", "input": {"city": "Kyoto"}, **fields}


def result(id: str = "toolu_1", **fields: Any) -> dict[str, Any]:
    """The result of a call."""
    return {"type": "tool_result", "tool_use_id": id, **fields}


def after_call(*results: Any, calls: Any = None, **fields: Any) -> dict[str, Any]:
    """A request that answers calls."""
    called = {"role": "assistant", "content": calls or [use()]}
    return body(tools=[TOOL], messages=[USER, called, {"role": "user", "content": list(results)}], **fields)


class Asked:
    """A server to ask."""

    def __init__(self, url: str) -> None:
        self.url = url

    def post(self, value: Any, path: str = "/v1/messages", version: str = V2023, headers: Any = ()) -> httpx.Response:
        """The answer to one request."""
        every = [("anthropic-version", version), *headers]
        return httpx.post(self.url + path, json=value, headers=every, timeout=120)

    def get(self, path: str, version: str = V2023) -> httpx.Response:
        """The answer to a GET."""
        return httpx.get(self.url + path, headers={"anthropic-version": version}, timeout=60)

    def message(self, value: Any, version: str = V2023, headers: Any = ()) -> dict[str, Any]:
        """A Message."""
        response = self.post(value, version=version, headers=headers)
        assert response.status_code == 200, response.text
        message: dict[str, Any] = response.json()
        return message

    def refusal(self, value: Any, version: str = V2023, path: str = "/v1/messages", headers: Any = ()) -> str:
        """The message of a 400, its envelope checked."""
        response = self.post(value, path, version, headers)
        assert response.status_code == 400, response.text
        answer = response.json()
        assert answer["request_id"] == response.headers["request-id"]
        assert (answer["type"], answer["error"]["type"]) == ("error", "invalid_request_error")
        assert set(answer["error"]) == {"type", "message"}
        return str(answer["error"]["message"])

    def events(self, value: Any, version: str = V2023, headers: Any = ()) -> list[dict[str, Any]]:
        """The events of a stream, names checked."""
        response = self.post({**value, "stream": True}, version=version, headers=headers)
        assert response.status_code == 200, response.text
        return read_events(response.text)


def read_events(stream: str) -> list[dict[str, Any]]:
    """Events out of the text of a stream: every one has a name, which is its type."""
    events = []
    for block in stream.removesuffix("\n\n").split("\n\n"):
        name, data = block.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    return events
