"""Streams byte by byte, from scripted turns with every kind of event; the official SDK reads them back to the same message."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass, field
from typing import Any

import anthropic
import httpx
import pytest

from senryu.errors import SenryuError
from senryu.service.turn import Service
from senryu.types import (
    BlockStarted,
    BlockStopped,
    CacheMiss,
    Citation,
    CitationDelta,
    Event,
    Finished,
    InputDelta,
    Started,
    Text,
    TextDelta,
    ToolUse,
    Turn,
    Usage,
)
from serving import scripted_model, serving

BODY = {"model": "senryu-mini", "max_tokens": 64, "messages": [{"role": "user", "content": "Hi"}]}
VERSION = {"anthropic-version": "2023-06-01"}
BEGUN = Usage(input_tokens=5, cache_write_5m=2048, cache_write_1h=4096, cache_read=1024, output_tokens=1)
ENDED = Usage(input_tokens=5, cache_write_5m=2048, cache_write_1h=4096, cache_read=1024, output_tokens=42)
STARTED = Started("msg_1", "senryu-mini", BEGUN)
CITED = Citation("char_location", "green", 0, 9, 14, "Grass")
LOOK = ToolUse("toolu_1", "look", {"x": 1, "y": "漢"})
FINISHED = Finished("tool_use", None, ENDED)
ANSWER: list[Event] = [
    STARTED,
    BlockStarted(Text("")),
    TextDelta("It is "),
    TextDelta("green"),
    CitationDelta(CITED),
    BlockStopped(Text("It is green", citations=(CITED,))),
    BlockStarted(ToolUse("toolu_1", "look", {})),
    InputDelta('{"x": 1'),
    InputDelta(', "y": "漢"}'),
    BlockStopped(LOOK),
    BlockStarted(ToolUse("toolu_2", "look", {})),
    InputDelta("{}"),
    BlockStopped(ToolUse("toolu_2", "look", {})),
    FINISHED,
]


@dataclass
class Script:
    """What the service does whatever it is asked; `turns` are what it was asked."""

    events: list[Event | Exception] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[str, Script]]:
    script = Script()

    async def run_grouped(self: Service, turn: Turn, keep: object = None) -> AsyncGenerator[list[Event], None]:
        script.turns.append(turn)
        group: list[Event] = []
        for number, event in enumerate(script.events):
            if isinstance(event, Exception):
                if group:
                    yield group
                raise event
            group.append(event)
            if len(group) > number % 3:
                yield group
                group = []
        if group:
            yield group

    with pytest.MonkeyPatch.context() as patch, serving(scripted_model()) as url:
        patch.setattr(Service, "run_grouped", run_grouped)
        yield url, script


def post(url: str, **fields: Any) -> httpx.Response:
    return httpx.post(url + "/v1/messages", json={**BODY, **fields}, headers=VERSION, timeout=60)


def frames(*data: dict[str, Any]) -> str:
    return "".join(
        f"event: {one['type']}\ndata: {json.dumps(one, ensure_ascii=False, separators=(',', ':'))}\n\n" for one in data
    )


def start(index: int, block: dict[str, Any]) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": block}


def delta(index: int, kind: str, **what: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": {"type": kind, **what}}


def stop(index: int) -> dict[str, Any]:
    return {"type": "content_block_stop", "index": index}


def call(index: int, id: str, *pieces: str) -> list[dict[str, Any]]:
    """The first piece of an input is empty."""
    begun = start(index, {"type": "tool_use", "id": id, "name": "look", "input": {}})
    return [begun, *(delta(index, "input_json_delta", partial_json=piece) for piece in ("", *pieces)), stop(index)]


USAGE = {"input_tokens": 5, "cache_creation_input_tokens": 6144, "cache_read_input_tokens": 1024, "output_tokens": 1}
SPLIT = {
    "cache_creation": {"ephemeral_5m_input_tokens": 2048, "ephemeral_1h_input_tokens": 4096},
    "service_tier": "standard",
    "inference_geo": "not_available",
}
MESSAGE: dict[str, Any] = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "senryu-mini",
    "content": [],
    "stop_reason": None,
    "stop_sequence": None,
    "usage": {**USAGE, **SPLIT},
}
CITATION = {
    "type": "char_location",
    "cited_text": "green",
    "document_index": 0,
    "document_title": "Grass",
    "file_id": None,
    "start_char_index": 9,
    "end_char_index": 14,
}
MESSAGE_START = {"type": "message_start", "message": MESSAGE}
MESSAGE_STOP = {"type": "message_stop"}


def end(reason: str, sequence: str | None = None) -> dict[str, Any]:
    return {
        "type": "message_delta",
        "delta": {"stop_reason": reason, "stop_sequence": sequence},
        "usage": {**USAGE, "output_tokens": 42},
    }


def test_every_event_byte_by_byte(served: tuple[str, Script]) -> None:
    url, script = served
    script.events = [*ANSWER]
    response = post(url, stream=True)
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.text == frames(
        MESSAGE_START,
        start(0, {"type": "text", "text": ""}),
        {"type": "ping"},
        delta(0, "text_delta", text="It is "),
        delta(0, "text_delta", text="green"),
        delta(0, "citations_delta", citation=CITATION),
        stop(0),
        *call(1, "toolu_1", '{"x": 1', ', "y": "漢"}'),
        *call(2, "toolu_2", "{}"),
        end("tool_use"),
        MESSAGE_STOP,
    )


def test_the_ping_comes_behind_the_first_start_also_of_a_call(served: tuple[str, Script]) -> None:
    url, script = served
    script.events = [STARTED, *ANSWER[6:]]
    begun, *rest = call(0, "toolu_1", '{"x": 1', ', "y": "漢"}')
    assert post(url, stream=True).text == frames(
        MESSAGE_START, begun, {"type": "ping"}, *rest, *call(1, "toolu_2", "{}"), end("tool_use"), MESSAGE_STOP
    )


def test_an_empty_answer_and_a_stop_sequence(served: tuple[str, Script]) -> None:
    url, script = served
    script.events = [STARTED, Finished("stop_sequence", "END", ENDED)]
    assert post(url, stream=True).text == frames(MESSAGE_START, end("stop_sequence", "END"), MESSAGE_STOP)
    assert post(url).json() == {
        **MESSAGE,
        "stop_reason": "stop_sequence",
        "stop_sequence": "END",
        "usage": {**MESSAGE["usage"], "output_tokens": 42},
    }


def test_the_same_turn_as_one_message(served: tuple[str, Script]) -> None:
    url, script = served
    script.events = [*ANSWER]
    assert post(url).json() == {
        **MESSAGE,
        "content": [
            {"type": "text", "text": "It is green", "citations": [CITATION]},
            {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"x": 1, "y": "漢"}},
            {"type": "tool_use", "id": "toolu_2", "name": "look", "input": {}},
        ],
        "stop_reason": "tool_use",
        "usage": {**MESSAGE["usage"], "output_tokens": 42},
    }


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (SenryuError("overloaded"), "overloaded_error", "Overloaded"),
        (SenryuError("deadline"), "timeout_error", "The request's deadline passed before its answer was complete"),
        (ArithmeticError("secret"), "api_error", "Internal server error"),
    ],
)
def test_a_failure_midway_is_an_event(served: tuple[str, Script], error: Exception, kind: str, message: str) -> None:
    url, script = served
    script.events = [*ANSWER[:3], error]
    response = post(url, stream=True)
    assert response.status_code == 200
    assert response.text == frames(
        MESSAGE_START,
        start(0, {"type": "text", "text": ""}),
        {"type": "ping"},
        delta(0, "text_delta", text="It is "),
        {"type": "error", "error": {"type": kind, "message": message}, "request_id": response.headers["request-id"]},
    )


def test_a_refusal_before_the_start_is_no_stream(served: tuple[str, Script]) -> None:
    url, script = served
    script.events = [SenryuError("overloaded")]
    for stream in (False, True):
        response = post(url, stream=stream)
        assert (response.status_code, response.json()["error"]["type"]) == (529, "overloaded_error")


@pytest.mark.parametrize(
    ("miss", "diagnostics"),
    [
        (None, None),
        (
            CacheMiss("system_changed", 3000),
            {"cache_miss_reason": {"type": "system_changed", "cache_missed_input_tokens": 3000}},
        ),
        (CacheMiss("previous_message_not_found"), {"cache_miss_reason": {"type": "previous_message_not_found"}}),
    ],
)
def test_diagnostics_where_they_were_asked_for(served: tuple[str, Script], miss: CacheMiss | None, diagnostics: Any) -> None:
    url, script = served
    script.events = [Started("msg_1", "senryu-mini", BEGUN, miss), FINISHED]
    asked = {"diagnostics": {"previous_message_id": "msg_0"}}
    assert post(url, **asked).json()["diagnostics"] == diagnostics
    assert script.turns[-1].diagnose == "msg_0"
    first = json.loads(post(url, **asked, stream=True).text.split("\n")[1].removeprefix("data: "))
    assert first["message"]["diagnostics"] == diagnostics
    assert "diagnostics" not in post(url).json()
    assert "diagnostics" not in post(url, stream=True).text


PLACES = [
    CITED,
    Citation("page_location", "c", 1, 1, 3, file_id="file_1"),
    Citation("content_block_location", "c", 2, 0, 1),
    Citation("search_result_location", "c", 0, 1, 2, "T", "https://x"),
]


@pytest.mark.parametrize("citation", PLACES, ids=lambda citation: citation.kind)
def test_the_sdk_reads_the_stream_back_to_the_message(served: tuple[str, Script], citation: Citation) -> None:
    url, script = served
    cited = [
        CitationDelta(citation) if isinstance(event, CitationDelta)
        else BlockStopped(Text("It is green", citations=(citation,))) if event == ANSWER[5]
        else event
        for event in ANSWER
    ]  # fmt: skip
    script.events = [*cited]
    with anthropic.Anthropic(base_url=url, api_key="k", max_retries=0, _strict_response_validation=True) as client:
        asked: Any = {"model": "senryu-mini", "max_tokens": 64, "messages": [{"role": "user", "content": "Hi"}]}
        message = client.messages.create(**asked)
        with client.messages.stream(**asked) as stream:
            seen = [event.type for event in stream]
            final = stream.get_final_message()
        assert message.content[1].to_dict()["input"] == {"x": 1, "y": "漢"}
        wanted = message.to_dict()
        assert [block.to_dict() for block in final.content] == wanted["content"]
        assert (final.stop_reason, final.usage.output_tokens, final.usage.cache_read_input_tokens) == ("tool_use", 42, 1024)
        assert {"text", "input_json", "citation"} <= set(seen)
        client.messages.create(
            **{**asked, "messages": [*asked["messages"], {"role": "assistant", "content": message.content[:1]}]}
        )
        returned = script.turns[-1].messages[1].content[0]
        assert returned == Text("It is green", citations=(citation,))
