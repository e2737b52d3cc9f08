"""The official SDK's Bedrock client: signed and with a bearer key, as one script: BASE_URL KEY."""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable
from typing import Any

import anthropic
from checks import ACCESS_KEY, Check, arguments, long_text, report

MODEL = "us.anthropic.claude-3-5-haiku-20241022-v1:0"
HELLO: list[Any] = [{"role": "user", "content": "Hello! What can you do?"}]
CITY = {"type": "object", "properties": {"city": {"enum": ["Bonn", "Oslo"]}}, "required": ["city"]}
TOOLS: list[Any] = [{"name": "get_weather", "description": "The weather in a city", "input_schema": CITY}]
ASK: dict[str, Any] = {"model": MODEL, "max_tokens": 48, "messages": HELLO}


@functools.cache
def client(secret: str = "", path: str = "/bedrock") -> anthropic.AnthropicBedrock:
    return anthropic.AnthropicBedrock(
        base_url=URL + path,
        aws_region="us-east-1",
        aws_access_key=ACCESS_KEY,
        aws_secret_key=secret or KEY,
        max_retries=0,
        timeout=120,
    )


@functools.cache
def bearer(key: str = "") -> anthropic.AnthropicBedrock:
    return anthropic.AnthropicBedrock(base_url=URL, aws_region="us-east-1", api_key=key or KEY, max_retries=0, timeout=120)


def raises(kind: type[anthropic.APIStatusError], call: Callable[[], Any]) -> str:
    """The message of the error that `call` must raise."""
    try:
        call()
    except anthropic.APIStatusError as error:
        caught = error
    else:
        raise AssertionError(f"no {kind.__name__}")
    assert type(caught) is kind, f"{type(caught).__name__}, expected {kind.__name__}"
    return str(caught.message)


def create() -> str:
    for one in (client(), client(path=""), bearer()):
        message = one.messages.create(**ASK, system="Be brief.")
        assert (message.type, message.model) == ("message", "claude-3-5-haiku-20241022")
        assert message.stop_reason in ("end_turn", "max_tokens")
    return f"{message.usage.output_tokens} tokens"


def stream() -> str:
    for one in (client(), bearer()):
        with one.messages.stream(**ASK) as events:
            text = "".join(events.text_stream)
            final = events.get_final_message()
        assert text == "".join(block.text for block in final.content if block.type == "text")
        assert final.usage.output_tokens > 0
    return f"{final.usage.output_tokens} tokens"


def raw_stream() -> str:
    kinds = [event.type for event in client().messages.create(**ASK, stream=True)]
    assert (kinds[0], kinds[-2:]) == ("message_start", ["message_delta", "message_stop"])
    return f"{len(kinds)} events"


def tool_loop() -> str:
    asked: Any = {**ASK, "max_tokens": 200, "tools": TOOLS}
    choice = {"type": "any", "disable_parallel_tool_use": True}
    with client().messages.stream(**asked, tool_choice=choice) as events:
        pieces = [event.partial_json for event in events if event.type == "input_json"]
        first = events.get_final_message()
    (call,) = first.content
    assert call.type == "tool_use"
    assert json.loads("".join(pieces)) == call.input
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "12 degrees"}
    history = [*HELLO, {"role": "assistant", "content": first.content}, {"role": "user", "content": [result]}]
    second = client().messages.create(**{**asked, "messages": history})
    return f"{call.input}, then {second.stop_reason}"


def cache() -> str:
    system = [{"type": "text", "text": f"{time.time()} {long_text()}", "cache_control": {"type": "ephemeral"}}]
    first, second = (client().messages.create(**ASK, system=system).usage for _ in range(2))  # type: ignore[arg-type]
    assert (first.cache_creation_input_tokens or 0) >= 2048
    assert second.cache_read_input_tokens == first.cache_creation_input_tokens
    return f"read {second.cache_read_input_tokens}"


def errors() -> str:
    raises(anthropic.PermissionDeniedError, lambda: client(secret="wrong").messages.create(**ASK))
    raises(anthropic.PermissionDeniedError, lambda: bearer(key="wrong").messages.create(**ASK))
    raises(anthropic.NotFoundError, lambda: client().messages.create(**{**ASK, "model": "anthropic.claude-9"}))
    return raises(anthropic.BadRequestError, lambda: client().messages.create(**{**ASK, "max_tokens": 8193}, stream=True))


CHECKS: list[tuple[str, Check]] = [
    ("create", create),
    ("stream", stream),
    ("stream", raw_stream),
    ("tools", tool_loop),
    ("cache", cache),
    ("errors", errors),
]

if __name__ == "__main__":
    URL, KEY = arguments()
    report(CHECKS)
