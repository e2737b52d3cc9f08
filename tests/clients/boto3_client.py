"""What an application does with boto3's Bedrock runtime, signed and with a bearer key over HTTPS, as one script."""

from __future__ import annotations

import base64
import contextlib
import functools
import json
import os
import random
import time
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import boto3
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.eventstream import EventStreamBuffer
from botocore.exceptions import ClientError, EventStreamError
from checks import (
    ACCESS_KEY,
    BREAK_OFF,
    Check,
    NotServed,
    Outcome,
    arguments,
    breaks_off,
    caught,
    lacks,
    long_text,
    report,
    waits,
)

MODEL = "us.anthropic.claude-3-5-haiku-20241022-v1:0"
ARN = f"arn:aws:bedrock:us-east-1:123456789012:inference-profile/{MODEL}"
REGION = "us-east-1"
CONTROL = "Lists of models and batches are Bedrock's control plane; the server has its runtime alone."
HELLO: list[Any] = [{"role": "user", "content": [{"text": "Hello! What can you do?"}]}]
INVOKE: dict[str, Any] = {
    "anthropic_version": "bedrock-2023-05-31",
    "max_tokens": 48,
    "messages": [{"role": "user", "content": "Hello! What can you do?"}],
}


@functools.cache
def client(secret: str = "", key: str = ACCESS_KEY, url: str = "", retries: int = 0) -> Any:
    return boto3.client(
        "bedrock-runtime",
        endpoint_url=f"{url or URL}/bedrock",
        region_name=REGION,
        aws_access_key_id=key,
        aws_secret_access_key=secret or SECRET,
        config=Config(retries={"total_max_attempts": retries + 1, "mode": "standard"}, read_timeout=120),
    )


@contextlib.contextmanager
def bearer(key: str) -> Iterator[Any]:
    """A client with such a key, which botocore takes from the environment, whenever it signs, and sends over HTTPS alone."""
    os.environ["AWS_BEARER_TOKEN_BEDROCK"] = key
    try:
        yield boto3.client("bedrock-runtime", endpoint_url=f"{TLS}/bedrock", region_name=REGION, verify=CA)
    finally:
        del os.environ["AWS_BEARER_TOKEN_BEDROCK"]


def raises(code: str, status: int, call: Callable[[], Any]) -> str:
    """The message of the error that `call` must raise, its class, code, status and request id checked."""
    kind = getattr(client().exceptions, code, ClientError)
    found = caught(kind, call).response
    assert found["Error"]["Code"] == code, found
    assert found["ResponseMetadata"]["HTTPStatusCode"] == status
    assert found["ResponseMetadata"]["RequestId"].startswith("req_")
    return str(found["Error"]["Message"])


def converse() -> str:
    answer = client().converse(
        modelId=MODEL, messages=HELLO, system=[{"text": "Be brief."}], inferenceConfig={"maxTokens": 48, "temperature": 0.5}
    )
    usage = answer["usage"]
    assert usage["totalTokens"] == usage["inputTokens"] + usage["outputTokens"]
    assert answer["stopReason"] in ("end_turn", "max_tokens")
    assert answer["metrics"]["latencyMs"] >= 0
    assert answer["ResponseMetadata"]["RequestId"].startswith("req_")
    return "".join(block["text"] for block in answer["output"]["message"]["content"])


def other_names() -> str:
    for name in (ARN, "anthropic.claude-3-5-haiku-20241022-v1:0", "senryu-mini"):
        client().converse(modelId=name, messages=HELLO, inferenceConfig={"maxTokens": 2})
    return ARN


def converse_stream() -> str:
    answer = client().converse_stream(
        modelId=MODEL, messages=HELLO, inferenceConfig={"maxTokens": 48}, performanceConfig={"latency": "optimized"}
    )
    events = list(answer["stream"])
    assert events[0] == {"messageStart": {"role": "assistant"}}
    assert events[-1]["metadata"]["performanceConfig"] == {"latency": "optimized"}
    assert "messageStop" in events[-2]
    deltas = [event["contentBlockDelta"]["delta"]["text"] for event in events if "contentBlockDelta" in event]
    assert deltas or events[-2]["messageStop"]["stopReason"] == "end_turn"
    return f"{len(events)} events, {events[-1]['metadata']['usage']['outputTokens']} tokens"


def invoke() -> str:
    answer = client().invoke_model(modelId=MODEL, body=json.dumps(INVOKE), performanceConfigLatency="optimized")
    assert answer["contentType"] == "application/json"
    assert answer["performanceConfigLatency"] == "optimized"
    message = json.loads(answer["body"].read())
    assert (message["type"], message["role"]) == ("message", "assistant")
    headers = answer["ResponseMetadata"]["HTTPHeaders"]
    assert headers["x-amzn-bedrock-output-token-count"] == str(message["usage"]["output_tokens"])
    return f"{message['usage']['output_tokens']} tokens"


def invoke_stream() -> str:
    answer = client().invoke_model_with_response_stream(modelId=MODEL, body=json.dumps(INVOKE))
    assert answer["contentType"] == "application/json"
    events = [json.loads(event["chunk"]["bytes"]) for event in answer["body"]]
    assert events[0]["type"] == "message_start"
    metrics = events[-1]["amazon-bedrock-invocationMetrics"]
    assert metrics["outputTokenCount"] == events[-2]["usage"]["output_tokens"]
    return f"{len(events)} chunks, {metrics}"


def count_tokens() -> str:
    counted = client().count_tokens(modelId=MODEL, input={"converse": {"messages": HELLO}})["inputTokens"]
    other = client().count_tokens(modelId=MODEL, input={"invokeModel": {"body": json.dumps(INVOKE).encode()}})["inputTokens"]
    used = client().converse(modelId=MODEL, messages=HELLO, inferenceConfig={"maxTokens": 1})["usage"]["inputTokens"]
    assert counted == other == used
    return f"{counted} tokens"


TOOLS: dict[str, Any] = {
    "tools": [
        {
            "toolSpec": {
                "name": "get_weather",
                "description": "The weather in a city",
                "inputSchema": {
                    "json": {"type": "object", "properties": {"city": {"enum": ["Bonn", "Oslo"]}}, "required": ["city"]}
                },
            }
        }
    ]
}


def tool_loop() -> str:
    messages: list[Any] = [{"role": "user", "content": [{"text": "What is the weather in Bonn?"}]}]
    asked: dict[str, Any] = {"modelId": MODEL, "inferenceConfig": {"maxTokens": 200}}
    first = client().converse(messages=messages, toolConfig={**TOOLS, "toolChoice": {"any": {}}}, **asked)
    assert first["stopReason"] == "tool_use", first
    said = first["output"]["message"]
    calls = [block["toolUse"] for block in said["content"]]
    assert {call["input"]["city"] for call in calls} <= {"Bonn", "Oslo"}
    results = [{"toolResult": {"toolUseId": call["toolUseId"], "content": [{"json": {"degrees": 12}}]}} for call in calls]
    second = client().converse(messages=[*messages, said, {"role": "user", "content": results}], toolConfig=TOOLS, **asked)
    return f"{calls[0]['name']}({calls[0]['input']}), then {second['stopReason']}"


def forced_tool_in_a_stream() -> str:
    forced = {**TOOLS, "toolChoice": {"tool": {"name": "get_weather"}}}
    answer = client().converse_stream(modelId=MODEL, messages=HELLO, toolConfig=forced, inferenceConfig={"maxTokens": 200})
    events = list(answer["stream"])
    start = next(event["contentBlockStart"] for event in events if "contentBlockStart" in event)
    pieces = [
        event["contentBlockDelta"]["delta"]["toolUse"]["input"]
        for event in events
        if "contentBlockDelta" in event and event["contentBlockDelta"]["contentBlockIndex"] == start["contentBlockIndex"]
    ]
    assert json.loads("".join(pieces))["city"] in {"Bonn", "Oslo"}
    assert start["start"]["toolUse"]["name"] == "get_weather"
    return f"{len(pieces)} pieces"


def structured_output() -> str:
    schema = {
        "type": "object",
        "properties": {"mood": {"enum": ["good", "bad"]}},
        "required": ["mood"],
        "additionalProperties": False,
    }
    format = {"type": "json_schema", "structure": {"jsonSchema": {"schema": json.dumps(schema), "name": "mood"}}}
    answer = client().converse(
        modelId=MODEL, messages=HELLO, outputConfig={"textFormat": format}, inferenceConfig={"maxTokens": 100}
    )
    (block,) = answer["output"]["message"]["content"]
    assert json.loads(block["text"])["mood"] in ("good", "bad")
    return str(block["text"])


def cache_points() -> str:
    system = [{"text": f"{time.time()} {long_text()}"}, {"cachePoint": {"type": "default", "ttl": "1h"}}]
    asked: dict[str, Any] = {"modelId": MODEL, "messages": HELLO, "system": system, "inferenceConfig": {"maxTokens": 4}}
    first, second = (client().converse(**asked)["usage"] for _ in range(2))
    written = first["cacheWriteInputTokens"]
    assert written >= 2048
    assert first["cacheDetails"] == [{"ttl": "1h", "inputTokens": written}]
    assert (second["cacheReadInputTokens"], second["cacheWriteInputTokens"]) == (written, 0)
    return f"wrote {written}, read {second['cacheReadInputTokens']}"


def documents() -> str:
    document = {
        "format": "txt",
        "name": "Bridge",
        "source": {"bytes": b"The bridge opened in 1911. It is painted green."},
        "citations": {"enabled": True},
    }
    begun = {"role": "assistant", "content": [{"text": "The bridge opened in 1911"}]}  # a small model writes no such thing
    asked = [{"role": "user", "content": [{"document": document}, {"text": "When did the bridge open?"}]}, begun]
    cited: list[Any] = []
    for _ in range(9):  # an answer may also be empty
        answer = client().converse(modelId=MODEL, messages=asked, inferenceConfig={"maxTokens": 2})
        for block in answer["output"]["message"]["content"]:
            cited += block.get("citationsContent", {}).get("citations", [])
    assert cited
    for citation in cited:
        place = citation["location"]["documentChar"]
        text = document["source"]["bytes"].decode()  # type: ignore[index]
        assert text[place["start"] : place["end"]] == citation["sourceContent"][0]["text"]
    return f"{len(cited)} citations"


def bad_keys() -> Outcome:
    def ask(**how: Any) -> Callable[[], Any]:
        return lambda: client(**how).converse(modelId=MODEL, messages=HELLO)

    raises("UnrecognizedClientException", 403, ask(key="AKIDNOBODY"))
    raises("InvalidSignatureException", 403, ask(secret="wrong"))
    with bearer("wrong") as one:
        told = raises("AccessDeniedException", 403, lambda: one.converse(modelId=MODEL, messages=HELLO))
    return Outcome(told, "AccessDeniedException")


def bearer_over_https() -> str:
    with bearer(SECRET) as one:
        answer = one.converse(modelId=MODEL, messages=HELLO, inferenceConfig={"maxTokens": 48})
        body = one.invoke_model_with_response_stream(modelId=MODEL, body=json.dumps(INVOKE))["body"]
        events = [json.loads(event["chunk"]["bytes"])["type"] for event in body]
    assert events[-1] == "message_stop"
    return f"{answer['usage']['outputTokens']} tokens"


def retries() -> Outcome:
    def ask(most: int) -> object:
        return client(url=LIMITED, retries=most).converse(modelId=MODEL, messages=HELLO, inferenceConfig={"maxTokens": 1})

    return waits(ask, client().exceptions.ThrottlingException, retries=9)


def converse_mid_stream() -> Outcome:
    asked = [{"role": "user", "content": [{"text": BREAK_OFF}]}]
    ask = client(url=STAGE).converse_stream
    return breaks_off(EventStreamError, lambda: list(ask(modelId=MODEL, messages=asked)["stream"]))


def invoke_mid_stream() -> Outcome:
    body = json.dumps({**INVOKE, "max_tokens": 500, "messages": [{"role": "user", "content": BREAK_OFF}]})
    ask = client(url=STAGE).invoke_model_with_response_stream
    return breaks_off(EventStreamError, lambda: list(ask(modelId=MODEL, body=body)["body"]))


def bad_requests() -> str:
    image = {"image": {"format": "png", "source": {"bytes": b"x"}}}
    said = [{"role": "user", "content": [image]}]
    message = raises("ValidationException", 400, lambda: client().converse(modelId=MODEL, messages=said))
    assert message.startswith("messages.0.content.0.image: ")
    raises("ResourceNotFoundException", 404, lambda: client().converse_stream(modelId="anthropic.claude-9", messages=HELLO))
    broken = json.dumps({**INVOKE, "messages": []})
    return raises("ValidationException", 400, lambda: client().invoke_model(modelId=MODEL, body=broken))


def random_splits() -> str:
    """One stream, cut anew a thousand times, is the same frames to botocore, whose decoder checks both sums of each."""
    body = json.dumps(INVOKE).encode()
    where = f"{URL}/model/{MODEL.replace(':', '%3A')}/invoke-with-response-stream"
    request = AWSRequest("POST", where, data=body)
    SigV4Auth(Credentials(ACCESS_KEY, SECRET), "bedrock", REGION).add_auth(request)
    sent = urllib.request.Request(where, body, dict(request.headers.items()))
    with urllib.request.urlopen(sent, timeout=120) as response:
        stream = response.read()

    def read(cuts: list[int]) -> list[Any]:
        buffer, found = EventStreamBuffer(), []
        for start, end in zip([0, *cuts], [*cuts, len(stream)]):
            buffer.add_data(stream[start:end])
            found += [(event.headers, event.payload) for event in buffer]
        return found

    whole = read([])
    last = json.loads(base64.b64decode(json.loads(whole[-1][1])["bytes"]))
    assert last["type"] == "message_stop"
    chance = random.Random(7)
    for _ in range(1000):
        assert read(sorted(chance.choices(range(len(stream)), k=chance.randrange(40)))) == whole
    return f"{len(whole)} frames of {len(stream)} bytes"


CHECKS: list[tuple[str, Check]] = [
    ("create", converse),
    ("create", other_names),
    ("create", invoke),
    ("create", bearer_over_https),
    ("stream", converse_stream),
    ("stream", invoke_stream),
    ("stream", random_splits),
    ("tools", tool_loop),
    ("tools", forced_tool_in_a_stream),
    ("structured output", structured_output),
    ("cache", cache_points),
    ("documents", documents),
    ("batches", lacks(CONTROL, kind=NotServed)),
    ("count tokens", count_tokens),
    ("models", lacks(CONTROL, kind=NotServed)),
    ("errors", bad_keys),
    ("errors", bad_requests),
    ("retries", retries),
    ("mid-stream", converse_mid_stream),
    ("mid-stream", invoke_mid_stream),
]

if __name__ == "__main__":
    URL, SECRET, STAGE, LIMITED, TLS, CA = arguments()[:6]
    report(CHECKS)
