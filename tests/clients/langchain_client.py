"""What a LangChain application does, through langchain-anthropic: BASE_URL KEY."""

from __future__ import annotations

import time
from typing import Any, Literal

import anthropic
from checks import Check, arguments, long_text, report
from langchain_anthropic import ChatAnthropic
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from pydantic import BaseModel

MODEL = "claude-3-5-haiku-20241022"


def chat(**options: Any) -> ChatAnthropic:
    return ChatAnthropic(model=MODEL, base_url=URL, api_key=KEY, max_tokens=200, max_retries=0, **options)


@tool
def get_weather(city: Literal["Bonn", "Oslo"]) -> str:
    """The weather in a city."""
    return f"12 degrees in {city}"


def create() -> str:
    answer = chat().invoke([SystemMessage("Be brief."), HumanMessage("Hello!")])
    assert isinstance(answer, AIMessage)
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["output_tokens"] > 0
    return answer.text


def stream() -> str:
    pieces = list(chat().stream("Hello!"))
    return f"{len(pieces)} pieces"


def tool_loop() -> str:
    bound = chat().bind_tools([get_weather], tool_choice="any", parallel_tool_calls=False)
    asked: list[Any] = [HumanMessage("What is the weather in Bonn?")]
    answer = bound.invoke(asked)
    assert isinstance(answer, AIMessage)
    (call,) = answer.tool_calls
    result = get_weather.invoke(call)
    assert isinstance(result, ToolMessage)
    last = chat().bind_tools([get_weather]).invoke([*asked, answer, result])
    return f"{call['args']}, then {last.response_metadata['stop_reason']}"


def structured() -> str:
    class Order(BaseModel):
        """An order."""

        size: Literal["small", "large"]
        paid: bool

    order = chat().with_structured_output(Order).invoke("A large coffee, paid.")
    assert isinstance(order, Order)
    return repr(order)


def cache() -> str:
    text = f"{time.time()} {long_text()}"
    system = SystemMessage([{"type": "text", "text": text, "cache_control": {"type": "ephemeral"}}])
    read = []
    for _ in range(2):
        answer = chat().invoke([system, HumanMessage("Hello!")])
        assert isinstance(answer, AIMessage)
        assert answer.usage_metadata is not None
        read.append(answer.usage_metadata["input_token_details"].get("cache_read", 0))
    assert read[0] == 0
    assert read[1] >= 2048
    return f"read {read[1]}"


def count_tokens() -> str:
    return f"{chat().get_num_tokens_from_messages([HumanMessage('Hello!')])} tokens"


def wrong_key() -> str:
    try:
        ChatAnthropic(model=MODEL, base_url=URL, api_key="wrong", max_retries=0).invoke("Hello!")
    except anthropic.AuthenticationError as error:
        return str(error)
    raise AssertionError("no AuthenticationError")


CHECKS: list[tuple[str, Check]] = [
    ("create", create),
    ("stream", stream),
    ("tools", tool_loop),
    ("structured output", structured),
    ("cache", cache),
    ("count tokens", count_tokens),
    ("errors", wrong_key),
]

if __name__ == "__main__":
    URL, KEY = arguments()
    report(CHECKS)
