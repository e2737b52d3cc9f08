"""What an application does with the official Python SDK, as one script that runs under every version: BASE_URL KEY."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from functools import cache
from typing import Any

import anthropic

MODEL = "claude-3-5-haiku-20241022"
HELLO: list[Any] = [{"role": "user", "content": "Hello! What can you do?"}]


@cache
def client(key: str | None = None) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=URL, api_key=key or KEY, max_retries=0, _strict_response_validation=True, timeout=120)


def raises(kind: type[anthropic.APIStatusError], status: int, error: str, call: Callable[[], Any]) -> str:
    """The message of the error that `call` must raise, its class, status, type and request id checked."""
    try:
        call()
    except anthropic.APIStatusError as error_raised:
        caught = error_raised
    else:
        raise AssertionError(f"no {kind.__name__}")
    assert type(caught) is kind, f"{type(caught).__name__}, expected {kind.__name__}"
    assert caught.status_code == status
    assert str(caught.request_id).startswith("req_")
    body: Any = caught.body
    assert body["request_id"] == caught.request_id
    assert body["error"]["type"] == error
    return str(body["error"]["message"])


def create() -> str:
    message = client().messages.create(model=MODEL, max_tokens=64, messages=HELLO, system="Be brief.")
    assert (message.type, message.role, message.model) == ("message", "assistant", MODEL)
    assert message.stop_reason in ("end_turn", "max_tokens")
    assert message.stop_sequence is None
    assert message.usage.input_tokens > 5
    assert message.usage.output_tokens > 0
    assert str(message._request_id).startswith("req_")
    return "".join(block.text for block in message.content if block.type == "text")


def create_with_alias_and_blocks() -> str:
    message = client().messages.create(
        model="claude-3-5-haiku-latest",
        max_tokens=8,
        system=[{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
        messages=[*HELLO, {"role": "assistant", "content": "I can"}],
        stop_sequences=["\n\nHuman:"],
        metadata={"user_id": "someone"},
    )
    assert message.model == MODEL
    usage = message.usage
    assert (usage.cache_read_input_tokens, usage.cache_creation_input_tokens) == (0, 0)
    return f"{message.stop_reason} after {usage.output_tokens} tokens"


def stream() -> str:
    with client().messages.stream(model=MODEL, max_tokens=64, messages=HELLO) as events:
        text = "".join(events.text_stream)
        final = events.get_final_message()
    assert text == "".join(block.text for block in final.content if block.type == "text")
    assert final.usage.output_tokens > 0
    assert final.stop_reason in ("end_turn", "max_tokens")
    return f"{final.usage.output_tokens} tokens"


def raw_stream() -> str:
    kinds = [event.type for event in client().messages.create(model=MODEL, max_tokens=16, messages=HELLO, stream=True)]
    assert (kinds[0], kinds[-2:]) == ("message_start", ["message_delta", "message_stop"])
    return f"{len(kinds)} events"


def asynchronous() -> str:
    async def ask() -> int:
        async with anthropic.AsyncAnthropic(base_url=URL, api_key=KEY, max_retries=0) as client:
            calls = (client.messages.create(model="senryu-nano", max_tokens=16, messages=HELLO) for _ in range(4))
            return sum(message.usage.output_tokens for message in await asyncio.gather(*calls))

    return f"{asyncio.run(ask())} tokens of 4 together"


def count_tokens() -> str:
    counted = client().messages.count_tokens(model=MODEL, messages=HELLO).input_tokens
    used = client().messages.create(model=MODEL, max_tokens=1, messages=HELLO).usage.input_tokens
    assert counted == used
    return f"{counted} tokens"


def models() -> str:
    ids = [model.id for model in client().models.list(limit=1)]  # an iterator over all pages
    assert {MODEL, "senryu-nano"} <= set(ids)
    model = client().models.retrieve("claude-3-5-haiku-latest")
    assert (model.id, model.type) == (MODEL, "model")
    return ", ".join(ids)


def bad_requests() -> str:
    def ask(**fields: Any) -> Callable[[], Any]:
        return lambda: client().messages.create(**{"model": MODEL, "max_tokens": 8, "messages": HELLO, **fields})

    bad = (anthropic.BadRequestError, 400, "invalid_request_error")
    assert raises(*bad, ask(messages=[])) == "messages: at least one message is required"
    assert raises(*bad, ask(max_tokens=8193)) == (
        f"max_tokens: 8193 > 8192, which is the maximum allowed number of output tokens for {MODEL}"
    )
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}}
    assert raises(*bad, ask(messages=[{"role": "user", "content": [image]}])) == f"'{MODEL}' does not support image input."
    temperature = ask(extra_body={"temperature": 0.5})
    if int(anthropic.__version__.split(".")[0]) >= 2:
        assert raises(*bad, temperature) == "temperature: Extra inputs are not permitted"
    else:
        temperature()
    with_stream = lambda: list(client().messages.create(model=MODEL, max_tokens=9999, messages=HELLO, stream=True))  # noqa: E731
    return raises(*bad, with_stream)


def wrong_key() -> str:
    call = client("wrong").messages.create
    return raises(
        anthropic.AuthenticationError, 401, "authentication_error", lambda: call(model=MODEL, max_tokens=1, messages=HELLO)
    )


def not_found() -> str:
    missing = (anthropic.NotFoundError, 404, "not_found_error")
    raises(*missing, lambda: client().models.retrieve("claude-9"))
    return raises(*missing, lambda: client().messages.create(model="claude-9", max_tokens=1, messages=HELLO))


CHECKS = [
    create,
    create_with_alias_and_blocks,
    stream,
    raw_stream,
    asynchronous,
    count_tokens,
    models,
    bad_requests,
    wrong_key,
    not_found,
]

if __name__ == "__main__":
    URL, KEY = sys.argv[1:3]
    for check in CHECKS:
        print(f"  {check.__name__:30} {check()[:90]!r}", flush=True)
