"""What an application does with AnthropicVertex, the official Python client for Vertex AI."""

from __future__ import annotations

import asyncio
import functools
import json
import time
from collections.abc import Callable
from typing import Any

import anthropic
import pydantic
from checks import Check, Outcome, arguments, caught, lacks, long_text, report
from messages_parts import HELLO, broken, cited, retried

MODEL = "claude-3-5-haiku@20241022"
SERVED = "claude-3-5-haiku-20241022"
TOOLS: list[Any] = [
    {
        "name": "get_weather",
        "description": "The weather in a city",
        "input_schema": {"type": "object", "properties": {"city": {"enum": ["Bonn", "Oslo"]}}, "required": ["city"]},
    }
]
ASK: list[Any] = [{"role": "user", "content": "What is the weather in Bonn?"}]
ANY: Any = {"type": "any", "disable_parallel_tool_use": True}
NO_BATCHES = "AnthropicVertex refuses `messages.batches` itself: Vertex AI has batches of its own."


def options(key: str = "", url: str = "", retries: int = 0) -> dict[str, Any]:
    place = {"base_url": f"{url or URL}/vertex/v1", "region": "us-east5", "project_id": "a-project"}
    how = {"max_retries": retries, "_strict_response_validation": True, "timeout": 120}
    return {**place, "access_token": key or KEY, **how}


@functools.cache
def client(key: str = "", url: str = "", retries: int = 0) -> anthropic.AnthropicVertex:
    return anthropic.AnthropicVertex(**options(key, url, retries))


def create() -> str:
    message = client().messages.create(model=MODEL, max_tokens=64, messages=HELLO, system="Be brief.")
    assert (message.type, message.role, message.model) == ("message", "assistant", SERVED)
    assert message.usage.output_tokens > 0
    assert str(message._request_id).startswith("req_")
    return "".join(block.text for block in message.content if block.type == "text")


def asynchronous() -> str:
    async def ask() -> anthropic.types.Message:
        async with anthropic.AsyncAnthropicVertex(**options()) as client:
            return await client.messages.create(model=MODEL, max_tokens=16, messages=HELLO)

    return f"{asyncio.run(ask()).usage.output_tokens} tokens"


def stream() -> str:
    with client().messages.stream(model=MODEL, max_tokens=64, messages=HELLO) as events:
        text = "".join(events.text_stream)
        final = events.get_final_message()
    assert text == "".join(block.text for block in final.content if block.type == "text")
    return f"{final.usage.output_tokens} tokens"


def tool_loop() -> str:
    first = client().messages.create(model=MODEL, max_tokens=200, messages=ASK, tools=TOOLS, tool_choice=ANY)
    (call,) = first.content
    assert call.type == "tool_use"
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "12 degrees and rain"}
    history: list[Any] = [*ASK, {"role": "assistant", "content": first.content}, {"role": "user", "content": [result]}]
    second = client().messages.create(model=MODEL, max_tokens=64, messages=history, tools=TOOLS, tool_choice={"type": "none"})
    return f"{call.input}, then {second.stop_reason}"


def tool_in_a_stream() -> str:
    with client().messages.stream(model=MODEL, max_tokens=200, messages=ASK, tools=TOOLS, tool_choice=ANY) as events:
        pieces = [event.partial_json for event in events if event.type == "input_json"]
        (call,) = events.get_final_message().content
    assert call.type == "tool_use"
    assert json.loads("".join(pieces)) == call.input
    return f"{len(pieces)} pieces of {call.input}"


def parse() -> str:
    class Order(pydantic.BaseModel):
        large: bool
        paid: bool

    asked: list[Any] = [{"role": "user", "content": "A large coffee with milk, paid in cash."}]
    order = client().messages.parse(model=MODEL, max_tokens=200, messages=asked, output_format=Order).parsed_output
    assert isinstance(order, Order)
    return repr(order)


def cache() -> str:
    system: list[Any] = [{"type": "text", "text": f"{time.time()}. {long_text()}", "cache_control": {"type": "ephemeral"}}]
    asked: Any = {"model": MODEL, "max_tokens": 8, "system": system, "messages": HELLO}
    written = client().messages.create(**asked).usage.cache_creation_input_tokens or 0
    assert written >= 2048
    assert client().messages.create(**asked).usage.cache_read_input_tokens == written
    return f"wrote and read {written}"


def count_tokens() -> str:
    counted = client().messages.count_tokens(model=MODEL, messages=HELLO).input_tokens
    assert counted == client().messages.create(model=MODEL, max_tokens=1, messages=HELLO).usage.input_tokens
    return f"{counted} tokens"


def documents() -> str:
    return cited(client(), MODEL)


def raises(kind: type[anthropic.APIStatusError], words: str, call: Callable[[], Any]) -> str:
    error = caught(kind, call)
    assert str(error.request_id).startswith("req_")
    assert words in str(error)
    return str(error)


def bad_request() -> str:
    return raises(
        anthropic.BadRequestError,
        "max_tokens: 8193 > 8192",
        lambda: client().messages.create(model=MODEL, max_tokens=8193, messages=HELLO),
    )


def wrong_key() -> Outcome:
    ask = client("wrong").messages.create
    kind = anthropic.AuthenticationError
    told = raises(kind, "UNAUTHENTICATED", lambda: ask(model=MODEL, max_tokens=1, messages=HELLO))
    return Outcome(told, kind.__name__)


def unknown_model() -> str:
    return raises(
        anthropic.NotFoundError,
        "publishers/anthropic/models/claude-9",
        lambda: client().messages.create(model="claude-9", max_tokens=1, messages=HELLO),
    )


def retries() -> Outcome:
    return retried(lambda most: client(url=LIMITED, retries=most), MODEL)


def mid_stream() -> Outcome:
    return broken(client(url=STAGE), MODEL)


CHECKS: list[tuple[str, Check]] = [
    ("create", create),
    ("create", asynchronous),
    ("stream", stream),
    ("tools", tool_loop),
    ("tools", tool_in_a_stream),
    ("structured output", parse),
    ("cache", cache),
    ("documents", documents),
    ("batches", lacks(NO_BATCHES, lambda: client().messages.batches.list(), anthropic.AnthropicError)),
    ("count tokens", count_tokens),
    ("models", lacks("AnthropicVertex has no `models`.", lambda: client().models)),  # type: ignore[attr-defined]
    ("errors", bad_request),
    ("errors", wrong_key),
    ("errors", unknown_model),
    ("retries", retries),
    ("mid-stream", mid_stream),
]

if __name__ == "__main__":
    URL, KEY, STAGE, LIMITED = arguments()[:4]
    report(CHECKS)
