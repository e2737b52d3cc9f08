"""What an application does through LiteLLM: OpenAI's shape to its caller, the Messages API to us. BASE_URL KEY."""

from __future__ import annotations

import json
import time
from typing import Any

import litellm
from checks import Check, arguments, long_text, report

litellm.suppress_debug_info = True
MODEL = "anthropic/claude-3-5-haiku-20241022"
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather in a city",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string", "enum": ["Bonn", "Oslo"]}},
                "required": ["city"],
            },
        },
    }
]


def ask(messages: list[Any], **options: Any) -> Any:
    return litellm.completion(
        model=MODEL, api_base=URL, api_key=KEY, max_tokens=200, messages=messages, num_retries=0, **options
    )


def create() -> str:
    answer = ask([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello!"}])
    assert answer.usage.completion_tokens > 0
    return str(answer.choices[0].message.content)


def stream() -> str:
    pieces = [piece.choices[0].delta.content or "" for piece in ask([{"role": "user", "content": "Hello!"}], stream=True)]
    return f"{len(pieces)} pieces"


def tool_loop() -> str:
    messages: list[Any] = [{"role": "user", "content": "What is the weather in Bonn?"}]
    answer = ask(messages, tools=TOOLS, tool_choice="required", parallel_tool_calls=False).choices[0]
    assert answer.finish_reason == "tool_calls"
    (call,) = answer.message.tool_calls
    city = json.loads(call.function.arguments)["city"]
    assert city in {"Bonn", "Oslo"}
    messages += [answer.message, {"role": "tool", "tool_call_id": call.id, "content": "12 degrees"}]
    return f"{city}, then {ask(messages, tools=TOOLS).choices[0].finish_reason}"


def cache() -> str:
    text = f"{time.time()} {long_text()}"
    system = {"role": "system", "content": [{"type": "text", "text": text, "cache_control": {"type": "ephemeral"}}]}
    asked = [system, {"role": "user", "content": "Hello!"}]
    first, second = ask(asked).usage, ask(asked).usage
    assert first.cache_creation_input_tokens >= 2048
    assert second.cache_read_input_tokens == first.cache_creation_input_tokens
    return f"read {second.cache_read_input_tokens}"


def wrong_key() -> str:
    try:
        litellm.completion(model=MODEL, api_base=URL, api_key="wrong", messages=[{"role": "user", "content": "Hi"}])
    except litellm.AuthenticationError as error:
        return str(error)
    raise AssertionError("no AuthenticationError")


CHECKS: list[tuple[str, Check]] = [
    ("create", create),
    ("stream", stream),
    ("tools", tool_loop),
    ("cache", cache),
    ("errors", wrong_key),
]

if __name__ == "__main__":
    URL, KEY = arguments()
    report(CHECKS)
