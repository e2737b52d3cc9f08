"""What a LangChain application does, through ChatAnthropic, ChatBedrock or ChatBedrockConverse: the variant."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from checks import ACCESS_KEY, BREAK_OFF, Check, Outcome, arguments, breaks_off, caught, lacks, long_text, report, waits
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from pydantic import BaseModel, SecretStr

BRIDGE = "The bridge opened in 1911. It is painted green."
ONE_BLOCK = "ChatBedrockConverse has citations in streams; of a whole answer of one block it keeps the words alone."
WEATHER: list[Any] = [HumanMessage("What is the weather in Bonn?")]


class Kind(NamedTuple):
    """One of LangChain's chat models. chat: makes it for (server, key, retries). The rest: what it raises when; limited_name:
    the class by name, which botocore makes anew for every client."""

    chat: Callable[..., Any]
    wrong_key: type[Exception]
    limited: type[Exception]
    broken: type[Exception]
    limited_name: str = ""


def anthropic_kind() -> Kind:
    import anthropic
    from langchain_anthropic import ChatAnthropic
    from langchain_anthropic.chat_models import AnthropicAuthenticationError, AnthropicRateLimitError

    def chat(url: str, key: str, retries: int) -> Any:
        return ChatAnthropic(
            model="claude-3-5-haiku-20241022", base_url=url, api_key=SecretStr(key), max_tokens=200, max_retries=retries
        )

    return Kind(chat, AnthropicAuthenticationError, AnthropicRateLimitError, anthropic.APIStatusError)


def bedrock_kind(converse: bool) -> Kind:
    from botocore.config import Config
    from botocore.exceptions import ClientError, EventStreamError
    from langchain_aws import ChatBedrock, ChatBedrockConverse

    def chat(url: str, secret: str, retries: int) -> Any:
        how: dict[str, Any] = {
            "model": "us.anthropic.claude-3-5-haiku-20241022-v1:0",
            "endpoint_url": f"{url}/bedrock",
            "region_name": "us-east-1",
            "aws_access_key_id": SecretStr(ACCESS_KEY),
            "aws_secret_access_key": SecretStr(secret),
            "config": Config(retries={"total_max_attempts": retries + 1, "mode": "standard"}),
            "max_tokens": 200,
        }
        return ChatBedrockConverse(**how) if converse else ChatBedrock(**how)

    return Kind(chat, ClientError, ClientError, EventStreamError, "ThrottlingException")


KINDS: dict[str, Callable[[], Kind]] = {
    "ChatAnthropic": anthropic_kind,
    "ChatBedrock": lambda: bedrock_kind(converse=False),
    "ChatBedrockConverse": lambda: bedrock_kind(converse=True),
}


def chat(url: str = "", key: str = "", retries: int = 0) -> Any:
    return KIND.chat(url or GIVEN.url, key or GIVEN.key, retries)


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
    whole = pieces[0]
    for piece in pieces[1:]:
        whole += piece
    assert whole.usage_metadata["output_tokens"] > 0
    return f"{len(pieces)} pieces"


def tool_loop() -> str:
    answer = chat().bind_tools([get_weather], tool_choice="any").invoke(WEATHER)
    assert isinstance(answer, AIMessage)
    results = [get_weather.invoke(call) for call in answer.tool_calls]
    assert results
    assert all(isinstance(result, ToolMessage) for result in results)
    last = chat().bind_tools([get_weather]).invoke([*WEATHER, answer, *results])
    assert isinstance(last, AIMessage)
    return f"{answer.tool_calls[0]['args']}, then {last.text!r}"


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
    marked: list[Any] = [{"type": "text", "text": text, "cache_control": {"type": "ephemeral"}}]
    if GIVEN.variant == "ChatBedrockConverse":
        marked = [{"type": "text", "text": text}, {"cachePoint": {"type": "default"}}]
    details = []
    for _ in range(2):
        answer = chat().invoke([SystemMessage(marked), HumanMessage("Hello!")])
        assert isinstance(answer, AIMessage)
        assert answer.usage_metadata is not None
        details.append(answer.usage_metadata["input_token_details"])
    assert details[0].get("cache_read", 0) == 0
    assert details[1]["cache_read"] >= 2048
    return f"{details}"


def documents() -> Outcome:
    source = {"type": "text", "media_type": "text/plain", "data": BRIDGE}
    document: dict[str, Any] = {"type": "document", "source": source, "title": "Bridge", "citations": {"enabled": True}}
    if GIVEN.variant == "ChatBedrockConverse":
        held = {"format": "txt", "name": "Bridge", "source": {"bytes": BRIDGE.encode()}, "citations": {"enabled": True}}
        document = {"document": held}
    asked = [HumanMessage([document, {"type": "text", "text": "When did it open?"}]), AIMessage("The bridge opened in 1911")]
    for _ in range(9):  # an answer may also be empty
        for piece in chat().stream(asked):
            for block in piece.content if isinstance(piece.content, list) else []:
                if found := block.get("citations"):
                    return Outcome(str(found), note=ONE_BLOCK if GIVEN.variant == "ChatBedrockConverse" else "")
    raise AssertionError("no citations")


def count_tokens() -> str:
    counted = chat().get_num_tokens_from_messages([HumanMessage("Hello!")])
    assert counted == chat().invoke("Hello!").usage_metadata["input_tokens"]
    return f"{counted} tokens"


def wrong_key() -> Outcome:
    error = caught(KIND.wrong_key, lambda: chat(key="wrong").invoke("Hello!"))
    return Outcome(str(error), type(error).__name__)


def retries() -> Outcome:
    return waits(lambda most: chat(GIVEN.limited, retries=most).invoke("Hello!"), KIND.limited, 9, KIND.limited_name)


def mid_stream() -> Outcome:
    return breaks_off(KIND.broken, lambda: list(chat(GIVEN.stage).stream(BREAK_OFF)))


CHECKS: list[tuple[str, Check]] = [
    ("create", create),
    ("stream", stream),
    ("tools", tool_loop),
    ("structured output", structured),
    ("cache", cache),
    ("documents", documents),
    ("batches", lacks("LangChain's `batch` asks in threads; its chat models know no batches of the API.")),
    ("count tokens", count_tokens),
    ("models", lacks("LangChain's chat models have no list of models.")),
    ("errors", wrong_key),
    ("retries", retries),
    ("mid-stream", mid_stream),
]

if __name__ == "__main__":
    GIVEN = arguments()
    KIND = KINDS[GIVEN.variant]()
    report(CHECKS)
