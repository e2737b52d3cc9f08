"""What an application does with the official Python SDK, as one script that runs under every version."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import operator
import time
from collections.abc import Callable
from typing import Any, Literal

import anthropic
import pydantic
from checks import Check, Lacks, Outcome, arguments, caught, long_text, report
from messages_parts import HELLO, broken, cited, fields, retried

MODEL = "claude-3-5-haiku-20241022"


@functools.cache
def client(key: str = "", url: str = "", retries: int = 0) -> anthropic.Anthropic:
    return anthropic.Anthropic(
        base_url=url or URL, api_key=key or KEY, max_retries=retries, _strict_response_validation=True, timeout=120
    )


def offered(path: str) -> Any:
    """What stands at `path` of the client, or of its beta part, as it did in old versions. Raises Lacks."""
    for root in (client(), client().beta):
        with contextlib.suppress(AttributeError):
            return operator.attrgetter(path)(root)
    raise Lacks(f"anthropic {anthropic.__version__} has no `{path}`.")


def raises(kind: type[anthropic.APIStatusError], status: int, error: str, call: Callable[[], Any]) -> str:
    """The message of the error that `call` must raise, its class, status, type and request id checked."""
    found = caught(kind, call)
    assert found.status_code == status
    assert str(found.request_id).startswith("req_")
    body: Any = found.body
    assert body["request_id"] == found.request_id
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
            calls = (client.messages.create(model="senryu-mini", max_tokens=16, messages=HELLO) for _ in range(4))
            return sum(message.usage.output_tokens for message in await asyncio.gather(*calls))

    return f"{asyncio.run(ask())} tokens of 4 together"


def count_tokens() -> str:
    counted = offered("messages.count_tokens")(model=MODEL, messages=HELLO).input_tokens
    used = client().messages.create(model=MODEL, max_tokens=1, messages=HELLO).usage.input_tokens
    assert counted == used
    return f"{counted} tokens"


def models() -> str:
    ids = [model.id for model in offered("models").list(limit=1)]  # an iterator over all pages
    assert {MODEL, "senryu-mini"} <= set(ids)
    model = offered("models").retrieve("claude-3-5-haiku-latest")
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


def wrong_key() -> Outcome:
    call = client("wrong").messages.create
    wrong = (anthropic.AuthenticationError, 401, "authentication_error")
    told = raises(*wrong, lambda: call(model=MODEL, max_tokens=1, messages=HELLO))
    return Outcome(told, anthropic.AuthenticationError.__name__)


MISSING = (anthropic.NotFoundError, 404, "not_found_error")


def not_found() -> str:
    return raises(*MISSING, lambda: client().messages.create(model="claude-9", max_tokens=1, messages=HELLO))


def no_such_model() -> str:
    models = offered("models")
    return raises(*MISSING, lambda: models.retrieve("claude-9"))


def retries() -> Outcome:
    return retried(lambda most: client(url=LIMITED, retries=most), MODEL)


def mid_stream() -> Outcome:
    return broken(client(url=STAGE), MODEL)


TOOLS: list[Any] = [
    {
        "name": "get_weather",
        "description": "The weather in a city",
        "input_schema": {
            "type": "object",
            "properties": {"city": {"enum": ["Bonn", "Oslo"]}, "unit": {"enum": ["celsius", "fahrenheit"]}},
            "required": ["city"],
        },
    },
    {"name": "get_time", "description": "What time it is", "input_schema": {"type": "object", "properties": {}}},
]
ASK: list[Any] = [{"role": "user", "content": "What is the weather in Bonn?"}]
ANY: Any = {"type": "any", "disable_parallel_tool_use": True}


def tool_loop() -> str:
    first = client().messages.create(model=MODEL, max_tokens=200, messages=ASK, tools=TOOLS, tool_choice=ANY)
    assert first.stop_reason == "tool_use", first
    (call,) = first.content
    assert call.type == "tool_use"
    assert call.id.startswith("toolu_")
    assert call.name in {"get_weather", "get_time"}
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "12 degrees and rain"}
    history: list[Any] = [*ASK, {"role": "assistant", "content": first.content}, {"role": "user", "content": [result]}]
    second = client().messages.create(model=MODEL, max_tokens=64, messages=history, tools=TOOLS, tool_choice={"type": "none"})
    assert all(block.type == "text" for block in second.content)
    return f"{call.name}({call.input}), then {second.stop_reason}"


def forced_tool_in_a_stream() -> str:
    forced: Any = {"type": "tool", "name": "get_weather", "disable_parallel_tool_use": True}
    with client().messages.stream(model=MODEL, max_tokens=200, messages=ASK, tools=TOOLS, tool_choice=forced) as events:
        pieces = [event.partial_json for event in events if event.type == "input_json"]
        final = events.get_final_message()
    (call,) = final.content
    assert call.type == "tool_use"
    assert json.loads("".join(pieces)) == call.input
    assert call.input["city"] in {"Bonn", "Oslo"}  # type: ignore[index]
    return f"{len(pieces)} pieces of {call.input}"


def tool_runner() -> str:
    asked: list[str] = []
    tool: Any = getattr(anthropic, "beta_tool", None)
    if tool is None:
        raise Lacks(f"anthropic {anthropic.__version__} has no `beta_tool`, so nothing that runs tools.")

    @tool
    def get_weather(city: Literal["Bonn", "Oslo"]) -> str:
        """The weather in a city.

        Args:
            city: The city.
        """
        asked.append(city)
        return f"12 degrees in {city}"

    runner = offered("messages.tool_runner")(
        model=MODEL, max_tokens=200, messages=ASK, tools=[get_weather], tool_choice=ANY, max_iterations=2
    )
    answers = list(runner)
    assert len(answers) == 2
    assert asked
    return f"ran {asked}"


def parse() -> str:
    class Order(pydantic.BaseModel):
        size: Literal["small", "large"]
        paid: bool
        extra: Literal["milk", "sugar"] | None

    asked: list[Any] = [{"role": "user", "content": "A large coffee with milk, paid in cash."}]
    message = offered("messages.parse")(model=MODEL, max_tokens=400, messages=asked, output_format=Order)
    assert message.stop_reason == "end_turn"
    order = message.parsed_output
    assert isinstance(order, Order)
    return repr(order)


def cache() -> str:
    name = f"{anthropic.__version__} at {time.time()}"  # a prefix that nobody has written yet
    system: list[Any] = [{"type": "text", "text": f"{name}. {long_text()}", "cache_control": {"type": "ephemeral"}}]
    asked: Any = {"model": MODEL, "max_tokens": 8, "system": system, "messages": HELLO}
    counted = offered("messages.count_tokens")(model=MODEL, system=system, messages=HELLO).input_tokens
    first = client().messages.create(**asked).usage
    written = first.cache_creation_input_tokens or 0
    assert written >= 2048
    assert first.cache_read_input_tokens == 0
    assert fields(first.cache_creation)["ephemeral_5m_input_tokens"] == written
    assert first.input_tokens + written == counted
    second = client().messages.create(**asked).usage
    assert (second.cache_read_input_tokens, second.cache_creation_input_tokens) == (written, 0)
    assert second.input_tokens == first.input_tokens
    with client().messages.stream(**asked) as events:
        starts = [event.message.usage for event in events if event.type == "message_start"]
    assert starts[0].cache_read_input_tokens == written
    return f"wrote {written}, read {second.cache_read_input_tokens} of {counted}"


def documents() -> str:
    return cited(client(), MODEL)


def ended_batch(requests: list[Any]) -> Any:
    """A batch of these, once all of them are answered."""
    batched = offered("messages.batches")
    batch = batched.create(requests=requests)
    assert batch.request_counts.processing == len(requests)
    until = time.monotonic() + 120
    while batch.processing_status != "ended":
        assert time.monotonic() < until, batch
        time.sleep(0.2)
        batch = batched.retrieve(batch.id)
    return batch


def batches() -> str:
    params: Any = {"model": MODEL, "max_tokens": 16, "messages": HELLO}
    bad: Any = {"model": MODEL, "max_tokens": 16, "messages": []}
    requests: list[Any] = [{"custom_id": f"row-{number}", "params": params} for number in range(5)]
    batch = ended_batch([*requests, {"custom_id": "bad", "params": bad}])
    assert (batch.request_counts.succeeded, batch.request_counts.errored) == (5, 1)
    batched = offered("messages.batches")
    assert batch.id in {one.id for one in batched.list(limit=5)}
    results = {line.custom_id: line.result for line in batched.results(batch.id)}
    assert len(results) == 6
    assert results["bad"].type == "errored"
    assert results["bad"].error.error.message == "messages: at least one message is required"
    first = results["row-0"]
    assert first.type == "succeeded"
    assert first.message.usage.service_tier == "batch"
    return f"{len(results)} results"


def deleted_batch() -> str:
    delete = offered("messages.batches.delete")
    params: Any = {"model": MODEL, "max_tokens": 1, "messages": HELLO}
    batch = ended_batch([{"custom_id": "row", "params": params}])
    assert delete(batch.id).type == "message_batch_deleted"
    return str(batch.id)


def too_many_breakpoints() -> str:
    marked = [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}} for _ in range(5)]
    return raises(
        anthropic.BadRequestError,
        400,
        "invalid_request_error",
        lambda: client().messages.create(model=MODEL, max_tokens=1, messages=[{"role": "user", "content": marked}]),  # type: ignore[typeddict-item]
    )


def result_without_its_call() -> str:
    result = {"type": "tool_result", "tool_use_id": "toolu_none", "content": "12"}
    return raises(
        anthropic.BadRequestError,
        400,
        "invalid_request_error",
        lambda: client().messages.create(model=MODEL, max_tokens=1, messages=[{"role": "user", "content": [result]}]),  # type: ignore[typeddict-item]
    )


CHECKS: list[tuple[str, Check]] = [
    ("create", create),
    ("create", create_with_alias_and_blocks),
    ("create", asynchronous),
    ("stream", stream),
    ("stream", raw_stream),
    ("tools", tool_loop),
    ("tools", forced_tool_in_a_stream),
    ("tools", tool_runner),
    ("structured output", parse),
    ("cache", cache),
    ("documents", documents),
    ("batches", batches),
    ("batches", deleted_batch),
    ("count tokens", count_tokens),
    ("models", models),
    ("errors", bad_requests),
    ("errors", wrong_key),
    ("errors", not_found),
    ("errors", no_such_model),
    ("errors", too_many_breakpoints),
    ("errors", result_without_its_call),
    ("retries", retries),
    ("mid-stream", mid_stream),
]

if __name__ == "__main__":
    URL, KEY, STAGE, LIMITED = arguments()[:4]
    report(CHECKS)
