"""What an application does through LiteLLM: OpenAI's shape to its caller, to us the shape that the variant names."""

from __future__ import annotations

import asyncio
import base64
import functools
import http.server
import json
import os
import threading
import time
import urllib.request
from collections.abc import Callable
from typing import Any, NamedTuple

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # which it would fetch from the net when it is imported

import litellm
from checks import (
    ACCESS_KEY,
    BREAK_OFF,
    Check,
    Lacks,
    NotServed,
    Outcome,
    arguments,
    breaks_off,
    caught,
    long_text,
    report,
    waits,
)

litellm.suppress_debug_info = True
HELLO: list[Any] = [{"role": "user", "content": "Hello!"}]
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
MOOD = {
    "type": "object",
    "properties": {"mood": {"type": "string", "enum": ["good", "bad"]}},
    "required": ["mood"],
    "additionalProperties": False,
}
BEDROCK = "us.anthropic.claude-3-5-haiku-20241022-v1:0"


CONTROL = "Lists of models and batches are Bedrock's control plane; the server has its runtime alone."


class Shape(NamedTuple):
    """model: as LiteLLM names it. where: options that lead to a server, with a key. wrong_key: what it raises for one."""

    model: str
    where: Callable[[str, str], dict[str, Any]]
    wrong_key: type[Exception] = litellm.AuthenticationError

    @property
    def provider(self) -> str:
        return self.model.partition("/")[0]


def at(path: str) -> Callable[[str, str], dict[str, Any]]:
    return lambda url, key: {"api_base": url + path, "api_key": key}


def signed(url: str, key: str) -> dict[str, Any]:
    how = {"aws_access_key_id": ACCESS_KEY, "aws_secret_access_key": key, "aws_region_name": "us-east-1"}
    return {"aws_bedrock_runtime_endpoint": f"{url}/bedrock", **how}


class TokenServer(http.server.BaseHTTPRequestHandler):
    """Google's place, where service accounts get their tokens: here the token is the address that is asked."""

    def do_POST(self) -> None:
        body = json.dumps({"access_token": self.path[1:], "expires_in": 3600, "token_type": "Bearer"}).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *values: object) -> None:
        pass


@functools.cache
def google_account() -> dict[str, str]:
    """A service account of nobody, but for the address that gives it its tokens, which is `at` and the token."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), TokenServer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return {
        "type": "service_account",
        "project_id": "a-project",
        "client_email": "nobody@a-project.iam.gserviceaccount.com",
        "private_key": key.private_bytes(*form).decode(),
        "token_uri": f"http://127.0.0.1:{server.server_port}/",
    }


def google(url: str, key: str) -> dict[str, Any]:
    account = google_account()
    told = json.dumps({**account, "token_uri": account["token_uri"] + key})
    return {"api_base": url, "vertex_credentials": told, "vertex_project": "a-project", "vertex_location": "us-east5"}


SHAPES = {
    "anthropic/": Shape("anthropic/claude-3-5-haiku-20241022", at("")),
    "bedrock/converse/": Shape(f"bedrock/converse/{BEDROCK}", signed, litellm.PermissionDeniedError),
    "bedrock/invoke/": Shape(f"bedrock/invoke/{BEDROCK}", signed, litellm.PermissionDeniedError),
    "vertex_ai/": Shape("vertex_ai/claude-3-5-haiku@20241022", google),
    "openai/": Shape("openai/claude-3-5-haiku-20241022", at("/v1")),
    "openrouter/": Shape("openrouter/anthropic/claude-3.5-haiku", at("/api/v1")),
}


def ask(messages: list[Any], url: str = "", key: str = "", **options: Any) -> Any:
    how = {"max_tokens": 200, "num_retries": 0, "max_retries": 0, **SHAPE.where(url or GIVEN.url, key or GIVEN.key), **options}
    return litellm.completion(model=SHAPE.model, messages=messages, **how)


def bearer_over_https() -> str:
    where = {"aws_bedrock_runtime_endpoint": f"{GIVEN.tls}/bedrock", "aws_region_name": "us-east-1"}
    answer = litellm.completion(model=SHAPE.model, messages=HELLO, api_key=GIVEN.key, max_tokens=64, **where)
    return f"{answer.usage.completion_tokens} tokens"


def create() -> str:
    answer = ask([{"role": "system", "content": "Be brief."}, *HELLO])
    assert answer.usage.completion_tokens > 0
    return str(answer.choices[0].message.content)


def stream() -> str:
    pieces = list(ask(HELLO, stream=True, stream_options={"include_usage": True}))
    assert pieces[-1].usage.completion_tokens > 0
    text = "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices)
    return f"{len(pieces)} pieces, {len(text)} characters"


def tool_loop() -> str:
    messages: list[Any] = [{"role": "user", "content": "What is the weather in Bonn?"}]
    answer = ask(messages, tools=TOOLS, tool_choice="required").choices[0]
    assert answer.finish_reason == "tool_calls"
    calls = answer.message.tool_calls
    cities = [json.loads(call.function.arguments)["city"] for call in calls]
    assert set(cities) <= {"Bonn", "Oslo"}
    results = [{"role": "tool", "tool_call_id": call.id, "content": "12 degrees"} for call in calls]
    return f"{cities}, then {ask([*messages, answer.message, *results], tools=TOOLS).choices[0].finish_reason}"


def structured() -> str:
    form = {"type": "json_schema", "json_schema": {"name": "mood", "schema": MOOD, "strict": True}}
    text = ask(HELLO, response_format=form).choices[0].message.content
    assert json.loads(text)["mood"] in ("good", "bad")
    return str(text)


def cache() -> str:
    text = f"{time.time()} {long_text()}"
    marked: Any = [{"type": "text", "text": text, "cache_control": {"type": "ephemeral"}}]
    if SHAPE.provider == "openai":  # which has no markers
        marked = text
    first, second = (ask([{"role": "system", "content": marked}, *HELLO]).usage for _ in range(2))
    read = second.prompt_tokens_details.cached_tokens
    assert read >= 2048
    if SHAPE.provider != "openai":  # nor a count of what was written
        assert first.prompt_tokens_details.cached_tokens in (0, None)
    return f"read {read}"


def documents() -> Outcome:
    if SHAPE.provider in ("openai", "openrouter"):
        raise NotServed("In OpenAI's shape the server takes text, and no files.")
    text = "The bridge opened in 1911. It is painted green."
    source = {"type": "text", "media_type": "text/plain", "data": text}
    document: dict[str, Any] = {"type": "document", "source": source, "title": "Bridge", "citations": {"enabled": True}}
    if "converse" in GIVEN.variant:
        document["source"] = source | {"type": "base64", "data": base64.b64encode(text.encode()).decode()}
    asked = [{"role": "user", "content": [document, {"type": "text", "text": "When did it open?"}]}]
    begun = {"role": "assistant", "content": "The bridge opened in 1911", "prefix": True}
    for _ in range(9):  # an answer may also be empty
        message = ask([*asked, begun], max_tokens=2).choices[0].message
        if found := (message.provider_specific_fields or {}).get("citations"):
            return Outcome(str(found))
    assert "converse" in GIVEN.variant, message
    return Outcome("read", note="LiteLLM sends documents to Converse without `citations`.")


def batches() -> Outcome:
    if SHAPE.provider == "bedrock":
        raise NotServed(CONTROL)
    if SHAPE.provider == "vertex_ai":
        raise NotServed("LiteLLM's batches of Vertex AI are its batch prediction, which the server refuses.")
    if SHAPE.provider == "openai":
        raise NotServed("The server has batches in the shape of the Claude API alone.")
    if SHAPE.provider == "openrouter":
        raise Lacks("OpenRouter has no batches.")
    params = {"model": "senryu-mini", "max_tokens": 1, "messages": HELLO}
    body = json.dumps({"requests": [{"custom_id": "row", "params": params}]}).encode()
    headers = {"x-api-key": GIVEN.key, "anthropic-version": "2023-06-01", "content-type": "application/json"}
    sent = urllib.request.Request(f"{GIVEN.url}/v1/messages/batches", body, headers)
    with urllib.request.urlopen(sent) as response:
        id = json.load(response)["id"]
    where = {"api_base": GIVEN.url, "api_key": GIVEN.key}
    batch: Any = litellm.retrieve_batch(id, custom_llm_provider="anthropic", **where)
    assert batch.id == id
    return Outcome(str(batch.status), note="LiteLLM retrieves batches of the Claude API, but creates none.")


def count_tokens() -> str:
    if SHAPE.provider == "bedrock":  # which takes no options here
        os.environ |= {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": GIVEN.key, "AWS_REGION": "us-east-1"}
        os.environ["AWS_BEDROCK_RUNTIME_ENDPOINT"] = f"{GIVEN.url}/bedrock"
    where = SHAPE.where(GIVEN.url, GIVEN.key)
    if SHAPE.provider == "vertex_ai":
        os.environ |= {"VERTEXAI_PROJECT": "a-project", "VERTEXAI_LOCATION": "us-east5"}
        os.environ["VERTEXAI_CREDENTIALS"] = where["vertex_credentials"]
    where = {name: value for name, value in where.items() if name.startswith("api_")}
    counted = asyncio.run(litellm.acount_tokens(SHAPE.model, HELLO, **where))
    if counted.tokenizer_type == "local_tokenizer":
        raise Lacks(f"LiteLLM counts tokens of {GIVEN.variant} itself.")
    assert counted.total_tokens == ask(HELLO, max_tokens=1).usage.prompt_tokens
    return f"{counted.total_tokens} tokens by {counted.tokenizer_type}"


def models() -> str:
    if SHAPE.provider == "bedrock":
        raise NotServed(CONTROL)
    how: Any = {"check_provider_endpoint": True, "custom_llm_provider": SHAPE.provider}
    if SHAPE.provider == "vertex_ai":
        assert litellm.get_valid_models(**how) == []
        raise Lacks("LiteLLM has no list of Vertex AI's models.")
    found = litellm.get_valid_models(**how, **SHAPE.where(GIVEN.url, GIVEN.key))
    assert SHAPE.model in [name if "/" in name else f"{SHAPE.provider}/{name}" for name in found], found
    return ", ".join(found)


def wrong_key() -> Outcome:
    error = caught(SHAPE.wrong_key, lambda: ask(HELLO, key="wrong"))
    return Outcome(str(error), type(error).__name__)


def retries() -> Outcome:
    def ask_limited(most: int) -> object:
        how = {"num_retries": most, "retry_strategy": "exponential_backoff_retry"} if most else {}
        return ask(HELLO, GIVEN.limited, max_tokens=1, **how)

    return waits(ask_limited, litellm.RateLimitError)


def mid_stream() -> Outcome:
    asked = [{"role": "user", "content": BREAK_OFF}]
    read = lambda: list(ask(asked, GIVEN.stage, stream=True, max_tokens=500))  # noqa: E731
    return breaks_off(litellm.exceptions.MidStreamFallbackError, read)


CHECKS: list[tuple[str, Check]] = [
    ("create", create),
    ("stream", stream),
    ("tools", tool_loop),
    ("structured output", structured),
    ("cache", cache),
    ("documents", documents),
    ("batches", batches),
    ("count tokens", count_tokens),
    ("models", models),
    ("errors", wrong_key),
    ("retries", retries),
    ("mid-stream", mid_stream),
]

if __name__ == "__main__":
    GIVEN = arguments()
    SHAPE = SHAPES[GIVEN.variant]
    litellm.ssl_verify = GIVEN.ca  # once for all: its clients are kept
    report([*CHECKS, *([("create", bearer_over_https)] if SHAPE.provider == "bedrock" else [])])
