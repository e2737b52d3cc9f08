"""Converse and ConverseStream over real sockets: answers, streams, calls, citations, cache points and what is echoed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from aws import read_stream
from senryu.engine.interface import TokenRequest
from senryu.kernels.batch import Batch
from senryu.service.limits import Limits
from serving import END, SPECIALS, TOKENIZER, says, scripted_model, serving

MODEL = "us.anthropic.claude-3-5-haiku-20241022-v1:0"
CALL, RESULT = SPECIALS.index("<|call|>"), SPECIALS.index("<|result|>")
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = {"tools": [{"toolSpec": {"name": "weather", "description": "Weather", "inputSchema": {"json": SCHEMA}}}]}
DOCUMENT = {
    "format": "txt",
    "name": "harbour",
    "source": {"text": "The harbour opened in 1899. It closes at night."},
    "citations": {"enabled": True},
}
POINT = {"cachePoint": {"type": "default"}}


def reply(request: TokenRequest) -> list[int]:
    prompt = TOKENIZER.decode(request.ids)
    if "weather" in prompt and RESULT not in request.ids:
        return [CALL, *TOKENIZER.encode('{"name": "weather", "arguments": {"city": "Kyoto"}}'), END]
    if "mood" in prompt:
        return [*TOKENIZER.encode('{"mood": "good"}'), END]
    if "harbour" in prompt:
        return [*TOKENIZER.encode("The harbour opened in 1899."), END]
    return [*TOKENIZER.encode("Hello, 漢字"), END]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(scripted_model(reply)) as url:
        yield url


def said(*blocks: Any, role: str = "user") -> dict[str, Any]:
    return {"role": role, "content": [{"text": block} if isinstance(block, str) else block for block in blocks]}


def post(url: str, *messages: dict[str, Any], operation: str = "converse", **fields: Any) -> httpx.Response:
    body = {"messages": messages or [said("Hi")], **fields}
    return httpx.post(f"{url}/model/{MODEL}/{operation}", json=body, timeout=60)


def ask(url: str, *messages: dict[str, Any], **fields: Any) -> dict[str, Any]:
    response = post(url, *messages, **fields)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    assert answer["output"]["message"]["role"] == "assistant"
    return answer


def stream(url: str, *messages: dict[str, Any], **fields: Any) -> list[tuple[str, dict[str, Any]]]:
    return read_stream(post(url, *messages, operation="converse-stream", **fields))


def test_an_answer(url: str) -> None:
    answer = ask(url)
    assert answer.pop("metrics")["latencyMs"] >= 0
    assert answer == {
        "output": {"message": said("Hello, 漢字", role="assistant")},
        "stopReason": "end_turn",
        "usage": {
            "inputTokens": 6,
            "outputTokens": 14,
            "totalTokens": 20,
            "cacheReadInputTokens": 0,
            "cacheWriteInputTokens": 0,
            "cacheDetails": [],
        },
    }


def test_a_stream(url: str) -> None:
    events = stream(url)
    names = [name for name, _ in events]
    assert names[0] == "messageStart"
    assert events[0][1] == {"role": "assistant"}
    assert names[-3:] == ["contentBlockStop", "messageStop", "metadata"]
    assert set(names[1:-3]) == {"contentBlockDelta"}
    assert {value["contentBlockIndex"] for _, value in events[1:-2]} == {0}
    assert "".join(value["delta"]["text"] for _, value in events[1:-3]) == "Hello, 漢字"
    assert events[-2][1] == {"stopReason": "end_turn"}
    metadata = events[-1][1]
    assert metadata.pop("metrics")["latencyMs"] >= 0
    assert metadata == {"usage": ask(url)["usage"]}


def test_a_tool_loop(url: str) -> None:
    asked = said("The weather in Kyoto?")
    answer = ask(url, asked, toolConfig={**TOOLS, "toolChoice": {"any": {}}})
    assert answer["stopReason"] == "tool_use"
    (block,) = answer["output"]["message"]["content"]
    call = block["toolUse"]
    assert (call["name"], call["input"]) == ("weather", {"city": "Kyoto"})
    result = {"toolUseId": call["toolUseId"], "content": [{"json": {"degrees": 18}}], "status": "success"}
    messages = [asked, answer["output"]["message"], said({"toolResult": result})]
    assert ask(url, *messages, toolConfig=TOOLS)["output"]["message"]["content"] == [{"text": "Hello, 漢字"}]


def test_a_call_in_a_stream(url: str) -> None:
    events = stream(url, said("The weather in Kyoto?"), toolConfig=TOOLS)
    (start,) = (value for name, value in events if name == "contentBlockStart")
    assert start["start"]["toolUse"]["name"] == "weather"
    assert start["start"]["toolUse"]["toolUseId"].startswith("toolu_")
    index = start["contentBlockIndex"]
    pieces = [value["delta"]["toolUse"]["input"] for name, value in events if name == "contentBlockDelta"]
    assert json.loads("".join(pieces)) == {"city": "Kyoto"}
    assert ("contentBlockStop", {"contentBlockIndex": index}) in events
    assert ("messageStop", {"stopReason": "tool_use"}) in events


CITED = {
    "title": "harbour",
    "sourceContent": [{"text": "The harbour opened in 1899."}],
    "location": {"documentChar": {"documentIndex": 0, "start": 0, "end": 27}},
}


def test_citations(url: str) -> None:
    messages = [said({"document": DOCUMENT}, "When?")]
    answer = ask(url, *messages)["output"]["message"]
    (block,) = answer["content"]
    (citation,) = block["citationsContent"]["citations"]
    assert block["citationsContent"]["content"] == [{"text": "The harbour opened in 1899."}]
    assert citation["sourceContent"][0]["text"].strip() == "The harbour opened in 1899."
    place = citation["location"]["documentChar"]
    assert DOCUMENT["source"]["text"][place["start"] : place["end"]] == citation["sourceContent"][0]["text"]  # type: ignore[index]
    assert (citation["title"], place["documentIndex"]) == ("harbour", 0)
    assert ask(url, *messages, answer, said("Again?"))["stopReason"] == "end_turn"  # and it can be sent back
    events = stream(url, *messages)
    assert [value["delta"]["citation"] for _, value in events if "citation" in value.get("delta", {})] == [citation]


def test_a_search_result_is_cited_by_its_blocks(url: str) -> None:
    found = {
        "source": "https://harbour.example",
        "title": "Harbour",
        "content": [{"text": "The harbour opened in 1899."}],
        "citations": {"enabled": True},
    }
    (block,) = ask(url, said({"searchResult": found}, "When?"))["output"]["message"]["content"]
    (citation,) = block["citationsContent"]["citations"]
    assert citation["source"] == "https://harbour.example"
    assert citation["location"] == {"searchResultLocation": {"searchResultIndex": 0, "start": 0, "end": 1}}


def test_cache_points(url: str) -> None:
    system = [{"text": "a" * 3000}, {"cachePoint": {"type": "default", "ttl": "1h"}}]
    messages = [said("b" * 3000, POINT, "Hi")]
    first, second = (ask(url, *messages, system=system)["usage"] for _ in range(2))
    hour, five = first["cacheDetails"]
    assert (hour["ttl"], five["ttl"]) == ("1h", "5m")
    assert hour["inputTokens"] > 3000
    assert five["inputTokens"] >= 3000
    assert first["cacheWriteInputTokens"] == hour["inputTokens"] + five["inputTokens"] == second["cacheReadInputTokens"]
    assert (first["cacheReadInputTokens"], second["cacheWriteInputTokens"], second["cacheDetails"]) == (0, 0, [])
    assert first["totalTokens"] == first["inputTokens"] + first["cacheWriteInputTokens"] + first["outputTokens"]
    assert stream(url, *messages, system=system)[-1][1]["usage"] == second


def test_structured_output(url: str) -> None:
    schema = {
        "type": "object",
        "properties": {"mood": {"enum": ["good", "bad"]}},
        "required": ["mood"],
        "additionalProperties": False,
    }
    format = {"type": "json_schema", "structure": {"jsonSchema": {"schema": json.dumps(schema), "name": "mood"}}}
    answer = ask(url, said("My mood?"), outputConfig={"textFormat": format})
    assert json.loads(answer["output"]["message"]["content"][0]["text"]) == {"mood": "good"}


def test_what_is_said_again(url: str) -> None:
    fields: dict[str, Any] = {
        "performanceConfig": {"latency": "optimized"},
        "serviceTier": {"type": "priority"},
        "requestMetadata": {"team": "harbour"},
        "inferenceConfig": {"stopSequences": ["漢"]},
        "additionalModelResponseFieldPaths": ["/stop_sequence", "/usage/output_tokens", "/nowhere/x"],
    }
    echo = {"performanceConfig": {"latency": "optimized"}, "serviceTier": {"type": "priority"}}
    answer = ask(url, **fields)
    assert {name: answer[name] for name in echo} == echo
    assert answer["stopReason"] == "stop_sequence"
    more = {"stop_sequence": "漢", "usage": {"output_tokens": answer["usage"]["outputTokens"]}}
    assert answer["additionalModelResponseFields"] == more
    stop, metadata = (value for _, value in stream(url, **fields)[-2:])
    assert stop == {"stopReason": "stop_sequence", "additionalModelResponseFields": more}
    assert {name: metadata[name] for name in echo} == echo


def test_without_max_tokens_an_answer_may_fill_what_is_left() -> None:
    with serving(scripted_model(limits=Limits(context=100, output=50))) as url:
        assert (ask(url)["stopReason"], ask(url)["usage"]["outputTokens"]) == ("max_tokens", 50)
        answer = ask(url, said("x" * 66))
        assert (answer["stopReason"], answer["usage"]["outputTokens"]) == ("model_context_window_exceeded", 30)
        long = post(url, said("x" * 66), inferenceConfig={"maxTokens": 50})
        assert long.json()["message"].startswith("input length and `max_tokens` exceed context limit: 70 + 50 > 100")


def test_tokens_are_counted_as_they_are_used(url: str) -> None:
    asked = {"system": [{"text": "Be brief."}], "toolConfig": TOOLS}
    counted = httpx.post(f"{url}/model/{MODEL}/count-tokens", json={"input": {"converse": {"messages": [said("Hi")], **asked}}})
    assert counted.json() == {"inputTokens": ask(url, **asked)["usage"]["inputTokens"]}
    wrong = httpx.post(f"{url}/model/{MODEL}/count-tokens", json={"input": {"converse": {"messages": [{}]}}})
    assert wrong.json() == {"message": "input.converse.messages.0.role: Field required"}


def test_errors_have_a_status_before_a_stream_begins(url: str) -> None:
    for operation in ("converse", "converse-stream"):
        response = post(url, said(), operation=operation)
        assert (response.status_code, response.headers["x-amzn-errortype"]) == (400, "ValidationException")
        assert response.json() == {
            "message": "messages.0: all messages must have non-empty content except for the optional final assistant message"
        }


def test_a_stream_that_fails_midway_ends_with_an_exception(caplog: pytest.LogCaptureFixture) -> None:
    model = scripted_model(says("Hello"))
    program = model.engine.program  # type: ignore[attr-defined]

    def fail(batch: Batch) -> np.ndarray:
        raise ArithmeticError("not on this CPU")

    with serving(model) as url:
        program.step = fail
        assert stream(url) == [
            ("messageStart", {"role": "assistant"}),
            ("internalServerException", {"message": "Internal server error"}),
        ]
