"""The official SDK's Bedrock client: signed, with a bearer key, and with a bearer key over HTTPS, as one script."""

from __future__ import annotations

import functools
import json
import ssl
import time
from collections.abc import Callable
from typing import Any

import anthropic
import httpx2
import pydantic
from checks import ACCESS_KEY, Check, Outcome, arguments, caught, lacks, long_text, report
from messages_parts import HELLO, broken, cited, retried

MODEL = "us.anthropic.claude-3-5-haiku-20241022-v1:0"
CITY = {"type": "object", "properties": {"city": {"enum": ["Bonn", "Oslo"]}}, "required": ["city"]}
TOOLS: list[Any] = [{"name": "get_weather", "description": "The weather in a city", "input_schema": CITY}]
ASK: dict[str, Any] = {"model": MODEL, "max_tokens": 48, "messages": HELLO}
NO_BATCHES = "AnthropicBedrock refuses `messages.batches` itself: Bedrock has batches of its own."
NO_COUNT = "AnthropicBedrock refuses `messages.count_tokens` itself."


@functools.cache
def client(secret: str = "", path: str = "/bedrock", url: str = "", retries: int = 0) -> anthropic.AnthropicBedrock:
    return anthropic.AnthropicBedrock(
        base_url=(url or URL) + path,
        aws_region="us-east-1",
        aws_access_key=ACCESS_KEY,
        aws_secret_key=secret or KEY,
        max_retries=retries,
        timeout=120,
    )


def bearer(key: str = "", url: str = "", **options: Any) -> anthropic.AnthropicBedrock:
    how = {"aws_region": "us-east-1", "max_retries": 0, "timeout": 120, **options}
    return anthropic.AnthropicBedrock(base_url=url or URL, api_key=key or KEY, **how)


def raises(kind: type[anthropic.APIStatusError], call: Callable[[], Any]) -> str:
    """The message of the error that `call` must raise."""
    return str(caught(kind, call).message)


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


def over_https() -> str:
    with httpx2.Client(verify=ssl.create_default_context(cafile=CA)) as http:
        message = bearer(url=TLS, http_client=http).messages.create(**ASK)
    return f"{message.usage.output_tokens} tokens"


def parse() -> str:
    class Order(pydantic.BaseModel):
        large: bool
        paid: bool

    message = client().messages.parse(**{**ASK, "max_tokens": 200}, output_format=Order)
    assert isinstance(message.parsed_output, Order)
    return repr(message.parsed_output)


def documents() -> str:
    return cited(client(), MODEL)


def count_tokens() -> object:
    return client().messages.count_tokens(model=MODEL, messages=HELLO)


def wrong_key() -> Outcome:
    raises(anthropic.PermissionDeniedError, lambda: client(secret="wrong").messages.create(**ASK))
    told = raises(anthropic.PermissionDeniedError, lambda: bearer(key="wrong").messages.create(**ASK))
    return Outcome(told, anthropic.PermissionDeniedError.__name__)


def errors() -> str:
    raises(anthropic.NotFoundError, lambda: client().messages.create(**{**ASK, "model": "anthropic.claude-9"}))
    return raises(anthropic.BadRequestError, lambda: client().messages.create(**{**ASK, "max_tokens": 8193}, stream=True))


def retries() -> Outcome:
    return retried(lambda most: client(url=LIMITED, retries=most), MODEL)


def mid_stream() -> Outcome:
    return broken(client(url=STAGE), MODEL)


CHECKS: list[tuple[str, Check]] = [
    ("create", create),
    ("create", over_https),
    ("stream", stream),
    ("stream", raw_stream),
    ("tools", tool_loop),
    ("structured output", parse),
    ("cache", cache),
    ("documents", documents),
    ("batches", lacks(NO_BATCHES, lambda: client().messages.batches.list(), anthropic.AnthropicError)),
    ("count tokens", lacks(NO_COUNT, count_tokens, anthropic.AnthropicError)),
    ("models", lacks("AnthropicBedrock has no `models`.", lambda: client().models)),  # type: ignore[attr-defined]
    ("errors", wrong_key),
    ("errors", errors),
    ("retries", retries),
    ("mid-stream", mid_stream),
]

if __name__ == "__main__":
    URL, KEY, STAGE, LIMITED, TLS, CA = arguments()[:6]
    report(CHECKS)
