"""What an application does with the official OpenAI SDK."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import openai
from checks import BREAK_OFF, Check, NotServed, Outcome, arguments, breaks_off, caught, lacks, report, waits
from pydantic import BaseModel, ConfigDict

MODEL = "claude-3-5-haiku-20241022"
HELLO: Any = [{"role": "user", "content": "Hello! What can you do?"}]
ASK: Any = [{"role": "user", "content": "What is the weather in Bonn?"}]
CITY = {"type": "object", "properties": {"city": {"enum": ["Bonn", "Oslo"]}}, "required": ["city"]}
WEATHER: Any = {"name": "get_weather", "description": "The weather in a city", "parameters": CITY}
TOOLS: Any = [{"type": "function", "function": WEATHER}]
README = Path(__file__).parents[2] / "README.md"
NO_DOCUMENTS = "In OpenAI's shape the server takes text, and no files."
NO_BATCHES = "The server has batches in the shape of the Claude API alone."


class Mood(BaseModel):
    """What an answer is parsed into."""

    model_config = ConfigDict(extra="forbid")
    mood: Literal["good", "bad"]


def client(url: str = "", **options: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url or URL}/v1", **{"api_key": KEY, "max_retries": 0, **options})


def raises(kind: type[openai.APIStatusError], call: Callable[[], Any]) -> openai.APIStatusError:
    error = caught(kind, call)
    assert error.request_id
    return error


def create() -> str:
    answer = client().chat.completions.create(
        model=MODEL,
        messages=[{"role": "developer", "content": "Be brief."}, *HELLO],
        max_completion_tokens=64,
        temperature=0,
        stop=["\n\n"],
        user="someone",
    )
    assert answer.model == MODEL
    assert answer._request_id
    assert answer.usage
    assert answer.usage.prompt_tokens_details
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    return f"{answer.choices[0].finish_reason} after {answer.usage.completion_tokens} tokens"


def readme() -> str:
    example = re.search(r"```py\n(.*?)```", README.read_text(), re.S)
    assert example is not None
    said: list[str] = []
    code = example[1].replace("http://127.0.0.1:8484", URL).replace('"any"', repr(KEY))
    exec(compile(code, str(README), "exec"), {"print": said.append})
    return said[0]


def cached() -> str:
    system: Any = {"role": "system", "content": "The harbour has two piers. " * 200}
    ask = [client().chat.completions.create(model=MODEL, messages=[system, *HELLO], max_tokens=8) for _ in range(2)]
    usage = ask[1].usage
    assert usage
    assert usage.prompt_tokens_details
    assert usage.prompt_tokens_details.cached_tokens
    return f"{usage.prompt_tokens_details.cached_tokens} of {usage.prompt_tokens} tokens"


def stream() -> str:
    with client().chat.completions.stream(
        model=MODEL, messages=HELLO, max_tokens=64, stream_options={"include_usage": True}
    ) as events:
        text = "".join(event.delta for event in events if event.type == "content.delta")
        final = events.get_final_completion()
    assert text == final.choices[0].message.content
    assert final.usage
    return f"{final.usage.completion_tokens} tokens"


def asynchronous() -> str:
    async def ask() -> int:
        async with openai.AsyncOpenAI(base_url=f"{URL}/v1", api_key=KEY, max_retries=0) as many:
            calls = (many.chat.completions.create(model="senryu-mini", messages=HELLO, max_tokens=16) for _ in range(4))
            return sum(answer.usage.completion_tokens for answer in await asyncio.gather(*calls) if answer.usage)

    return f"{asyncio.run(ask())} tokens of 4 together"


def tool_loop() -> str:
    how: dict[str, Any] = {"model": MODEL, "tools": TOOLS, "max_tokens": 200}
    first = client().chat.completions.create(**how, messages=ASK, tool_choice="required", parallel_tool_calls=False)
    message = first.choices[0].message
    assert first.choices[0].finish_reason == "tool_calls"
    (call,) = message.tool_calls or ()
    assert json.loads(call.function.arguments)["city"] in ("Bonn", "Oslo")
    result = {"role": "tool", "tool_call_id": call.id, "content": "12 degrees"}
    second = client().chat.completions.create(**how, messages=[*ASK, message, result], tool_choice="none")
    assert not second.choices[0].message.tool_calls
    return f"{call.function.arguments}, then {second.choices[0].finish_reason}"


def tool_in_a_stream() -> str:
    named: Any = {"type": "function", "function": {"name": "get_weather"}}
    with client().chat.completions.stream(
        model=MODEL, messages=ASK, tools=TOOLS, tool_choice=named, parallel_tool_calls=False, max_tokens=200
    ) as events:
        pieces = [event.arguments_delta for event in events if event.type == "tool_calls.function.arguments.delta"]
        final = events.get_final_completion()
    (call,) = final.choices[0].message.tool_calls or ()
    assert "".join(pieces) == call.function.arguments
    return str(json.loads(call.function.arguments))


def parse() -> str:
    answer = client().chat.completions.parse(model=MODEL, messages=HELLO, response_format=Mood, max_tokens=64)
    parsed = answer.choices[0].message.parsed
    assert isinstance(parsed, Mood)
    return parsed.mood


def completions() -> str:
    answer = client().completions.create(model=MODEL, prompt="Once upon a time", max_tokens=16, echo=True)
    assert answer.choices[0].text.startswith("Once upon a time")
    pieces = client().completions.create(model=MODEL, prompt=[40, 41, 42], max_tokens=8, stream=True)
    assert [chunk.choices[0].finish_reason for chunk in pieces][-1] in ("length", "stop")
    return answer.choices[0].text


def responses() -> str:
    answer = client().responses.create(model=MODEL, input="Hello!", instructions="Be brief.", max_output_tokens=64)
    assert answer.status in ("completed", "incomplete")
    assert answer.usage
    assert answer.usage.input_tokens_details.cached_tokens >= 0
    with client().responses.stream(model=MODEL, input="Hello!", max_output_tokens=64) as events:
        text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
        final = events.get_final_response()
    assert text == final.output_text
    return answer.output_text


def response_tools() -> str:
    tools: Any = [{"type": "function", **WEATHER, "strict": False}]
    how: dict[str, Any] = {"model": MODEL, "tools": tools, "max_output_tokens": 200}
    first = client().responses.create(**how, input=ASK, tool_choice="required", parallel_tool_calls=False)
    (call,) = first.output
    assert call.type == "function_call"
    result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "12 degrees"}
    second = client().responses.create(**how, input=[*ASK, call, result], tool_choice="none")
    assert all(item.type == "message" for item in second.output)
    parsed = client().responses.parse(model=MODEL, input="Hello!", text_format=Mood, max_output_tokens=64).output_parsed
    assert isinstance(parsed, Mood)
    return f"{call.arguments}, {parsed.mood}"


def models() -> str:
    ids = [model.id for model in client().models.list()]
    assert {MODEL, "senryu-mini"} <= set(ids)
    assert client().models.retrieve("claude-3-5-haiku-latest").id == MODEL
    return ", ".join(ids)


def errors() -> str:
    def ask(**fields: Any) -> Callable[[], Any]:
        return lambda: client().chat.completions.create(**{"model": MODEL, "messages": HELLO, "max_tokens": 8, **fields})

    assert raises(openai.BadRequestError, ask(n=2)).param == "n"
    assert raises(openai.BadRequestError, ask(max_tokens=8193)).param == "max_tokens"
    image: Any = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    assert "image_url" in raises(openai.BadRequestError, ask(messages=[{"role": "user", "content": [image]}])).message
    assert raises(openai.NotFoundError, ask(model="gpt-9")).code == "model_not_found"
    return "400, 404"


def wrong_key() -> Outcome:
    error = raises(openai.AuthenticationError, lambda: client(api_key="wrong").models.list())
    assert error.code == "invalid_api_key"
    return Outcome(error.message, openai.AuthenticationError.__name__)


def count_tokens() -> str:
    counted = client().responses.input_tokens.count(model=MODEL, input="Hello!").input_tokens
    usage = client().responses.create(model=MODEL, input="Hello!", max_output_tokens=16).usage
    assert usage
    assert counted == usage.input_tokens
    return f"{counted} tokens"


def retries() -> Outcome:
    def ask(most: int) -> object:
        return client(LIMITED, max_retries=most).chat.completions.create(model=MODEL, messages=HELLO, max_tokens=1)

    return waits(ask, openai.RateLimitError)


def mid_stream() -> Outcome:
    asked: Any = [{"role": "user", "content": BREAK_OFF}]

    def read() -> object:
        with client(STAGE).chat.completions.stream(model=MODEL, messages=asked) as events:
            return events.get_final_completion()

    return breaks_off(openai.APIError, read)


def response_mid_stream() -> Outcome:
    def read() -> object:
        with client(STAGE).responses.stream(model=MODEL, input=BREAK_OFF) as events:
            return events.get_final_response()

    return breaks_off(RuntimeError, read)  # "Didn't receive a `response.completed` event."


CHECKS: list[tuple[str, Check]] = [
    ("create", create),
    ("create", readme),
    ("create", asynchronous),
    ("create", completions),
    ("create", responses),
    ("stream", stream),
    ("tools", tool_loop),
    ("tools", tool_in_a_stream),
    ("tools", response_tools),
    ("structured output", parse),
    ("cache", cached),
    ("documents", lacks(NO_DOCUMENTS, kind=NotServed)),
    ("batches", lacks(NO_BATCHES, kind=NotServed)),
    ("count tokens", count_tokens),
    ("models", models),
    ("errors", errors),
    ("errors", wrong_key),
    ("retries", retries),
    ("mid-stream", mid_stream),
    ("mid-stream", response_mid_stream),
]

if __name__ == "__main__":
    URL, KEY, STAGE, LIMITED = arguments()[:4]
    report(CHECKS)
