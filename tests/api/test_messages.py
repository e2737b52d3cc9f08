"""POST /v1/messages over real sockets: JSON and streams, and that nobody computes for a caller who left."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest

from senryu.api import sse
from senryu.engine.interface import TokenRequest
from senryu.kernels.batch import Batch
from senryu.service.limits import Limits
from senryu.service.registry import LoadedModel
from serving import END, TOKENIZER, idle, says, scripted_model, serving

VERSION = {"anthropic-version": "2023-06-01"}


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "senryu-mini", "max_tokens": 64, "messages": [{"role": "user", "content": "Hi"}], **fields}


def post(url: str, path: str = "/v1/messages", **fields: Any) -> httpx.Response:
    return httpx.post(url + path, json=body(**fields), headers=VERSION, timeout=60)


def read_events(text: str) -> list[tuple[str, dict[str, Any]]]:
    events = []
    for block in text.strip().split("\n\n"):
        name, data = block.split("\n")
        events.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
        assert events[-1][0] == events[-1][1]["type"]
    return events


def shape(events: list[tuple[str, dict[str, Any]]]) -> list[str]:
    """Names in order, repeated deltas as one."""
    names = [name for name, _ in events]
    return [name for i, name in enumerate(names) if not (i and name == names[i - 1] == "content_block_delta")]


def text_of(events: list[tuple[str, dict[str, Any]]]) -> str:
    return "".join(data["delta"]["text"] for name, data in events if name == "content_block_delta")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    def reply(request: TokenRequest) -> list[int]:
        asked = TOKENIZER.decode(request.ids)
        return [END] if "silence" in asked else [*TOKENIZER.encode("Hello, 漢字 world"), END]

    with serving(scripted_model(reply)) as url:
        yield url


def test_a_message(url: str) -> None:
    message = post(url, model="claude-3-5-haiku-latest").json()
    assert message.pop("id").startswith("msg_")
    assert message == {
        "type": "message",
        "role": "assistant",
        "model": "claude-3-5-haiku-20241022",
        "content": [{"type": "text", "text": "Hello, 漢字 world"}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 6,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
            "output_tokens": 20,
            "service_tier": "standard",
            "inference_geo": "not_available",
        },
    }


def test_a_stream(url: str) -> None:
    response = post(url, stream=True)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["request-id"].startswith("req_")
    events = read_events(response.text)
    assert shape(events) == [
        "message_start",
        "content_block_start",
        "ping",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    start = events[0][1]["message"]
    assert (start["content"], start["stop_reason"], start["stop_sequence"]) == ([], None, None)
    assert start["usage"]["input_tokens"] == 6
    assert start["usage"]["output_tokens"] == 1
    assert text_of(events) == "Hello, 漢字 world"
    delta = events[-2][1]
    assert delta["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    assert delta["usage"]["output_tokens"] == 20


def test_an_empty_answer(url: str) -> None:
    silence = [{"role": "user", "content": "silence"}]
    message = post(url, messages=silence).json()
    assert (message["content"], message["stop_reason"], message["usage"]["output_tokens"]) == ([], "end_turn", 1)
    events = read_events(post(url, messages=silence, stream=True).text)
    assert shape(events) == ["message_start", "message_delta", "message_stop"]


def test_a_stop_sequence(url: str) -> None:
    message = post(url, stop_sequences=["字 w"]).json()
    assert message["content"][0]["text"] == "Hello, 漢"
    assert (message["stop_reason"], message["stop_sequence"]) == ("stop_sequence", "字 w")
    events = read_events(post(url, stop_sequences=["字 w"], stream=True).text)
    assert text_of(events) == "Hello, 漢"
    assert events[-2][1]["delta"] == {"stop_reason": "stop_sequence", "stop_sequence": "字 w"}


def test_max_tokens(url: str) -> None:
    message = post(url, max_tokens=4).json()
    assert (message["content"][0]["text"], message["stop_reason"]) == ("Hell", "max_tokens")


def test_count_tokens_equals_usage(url: str) -> None:
    asked = {"system": "Be brief.", "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "We"}]}
    message = post(url, **asked).json()
    counted = httpx.post(url + "/v1/messages/count_tokens", json={"model": "senryu-mini", **asked}, headers=VERSION)
    assert counted.json() == {"input_tokens": message["usage"]["input_tokens"]}


@pytest.mark.parametrize("stream", [False, True])
def test_limits_are_plain_errors_even_when_streaming(url: str, stream: bool) -> None:
    response = post(url, max_tokens=8193, model="claude-3-5-haiku-latest", stream=stream)
    assert response.status_code == 400
    assert response.json()["error"]["message"] == (
        "max_tokens: 8193 > 8192, which is the maximum allowed number of output tokens for claude-3-5-haiku-20241022"
    )
    long = [{"role": "user", "content": "x" * (200_001 - 4)}]
    assert post(url, messages=long, stream=stream).json()["error"]["message"] == (
        "prompt is too long: 200001 tokens > 200000 maximum"
    )
    long = [{"role": "user", "content": "x" * (199_000 - 4)}]
    assert post(url, messages=long, max_tokens=8000, stream=stream).json()["error"]["message"] == (
        "input length and `max_tokens` exceed context limit: 199000 + 8000 > 200000, "
        "decrease input length or `max_tokens` and try again"
    )


def test_a_smaller_model_names_its_own_limits() -> None:
    with serving(scripted_model(says("x"), limits=Limits(context=100, output=50))) as url:
        assert "51 > 50" in post(url, max_tokens=51).json()["error"]["message"]
        long = [{"role": "user", "content": "x" * 97}]
        assert (
            post(url, messages=long, max_tokens=1).json()["error"]["message"] == "prompt is too long: 101 tokens > 100 maximum"
        )


def test_pings_while_nothing_else_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "PING_SECONDS", 0.05)
    with serving(scripted_model(says("x"), seconds_per_step=0.4)) as url:
        events = read_events(post(url, stream=True).text)
    names = [name for name, _ in events]
    assert names[0] == "message_start"
    assert names.index("ping") < names.index("content_block_start")


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    """Returns when `condition` holds."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < seconds, "waited in vain"
        time.sleep(0.002)


def send(url: str, fields: dict[str, Any], receive_buffer: int | None = None, withhold: int = 0) -> socket.socket:
    """A request on a raw socket but for its last `withhold` bytes; its answer is not read."""
    address = httpx.URL(url)
    sock = socket.socket()
    if receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.connect((address.host, address.port))
    content = json.dumps(fields).encode()
    head = f"POST /v1/messages HTTP/1.1\r\nhost: x\r\nanthropic-version: 2023-06-01\r\ncontent-length: {len(content)}\r\n\r\n"
    sock.sendall(head.encode() + content[: len(content) - withhold])
    return sock


def running(model: LoadedModel) -> bool:
    return model.engine.stats().running > 0


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_a_caller_who_hangs_up_is_not_computed_for(stream: bool, phase: str) -> None:
    """A prompt of 20,000 tokens takes 20 seconds here; an answer of 8,000 takes as long."""
    slow = {"seconds_per_row": 0.001} if phase == "prefill" else {"seconds_per_step": 0.005}
    model = scripted_model(**slow)
    length = 20_000 if phase == "prefill" else 10
    with serving(model) as url:
        sock = send(url, body(stream=stream, max_tokens=8000, messages=[{"role": "user", "content": "x" * length}]))
        wait_until(lambda: running(model))
        if stream and phase == "decode":
            wait_until(lambda: b"content_block_delta" in sock.recv(65536))
        sock.close()
        wait_until(lambda: idle(model))
        assert model.engine.stats().output_tokens < (1 if phase == "prefill" else 8000)


def test_a_reader_who_stalls_is_dropped() -> None:
    """Its buffers full, the server waits `stall_timeout_s`, then frees what it held."""
    model = scripted_model(lambda request: TOKENIZER.encode("x") * 4000, seconds_per_step=0.001, drafts=False)
    with serving(model, send_buffer=4096, stall_timeout_s=0.3) as url:
        sock = send(url, body(stream=True, max_tokens=4000), receive_buffer=4096)
        wait_until(lambda: running(model))
        wait_until(lambda: idle(model))
        assert model.engine.stats().output_tokens < 4000
        sock.close()


@pytest.mark.parametrize("stream", [False, True])
def test_a_finished_answer_that_nobody_takes_is_dropped(stream: bool) -> None:
    """All of it is written, but lies in the server's buffer: it must not hold the connection, or a stop, open.

    The text is held back until it can no longer become the stop sequence, so that it comes as one event of 48,000 bytes.
    """
    text = "\x01" * 8000
    model = scripted_model(says(text))
    with serving(model, send_buffer=4096, stall_timeout_s=0.3) as url:
        asked = body(stream=stream, max_tokens=8192, stop_sequences=[text + "!"])
        sock = send(url, asked, receive_buffer=4096)
        assert sock.recv(1, socket.MSG_PEEK) == b"H"
        wait_until(lambda: model.engine.stats().output_tokens == 8001 and idle(model))
    with sock:
        answer = bytearray()
        with contextlib.suppress(ConnectionResetError):
            while piece := sock.recv(65536):
                answer += piece
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert not answer.endswith((b"}", b"0\r\n\r\n"))


def test_a_body_that_stops_coming_is_refused() -> None:
    with serving(scripted_model(), stall_timeout_s=0.2) as url, send(url, body(), withhold=1) as sock:
        sock.settimeout(60)
        answer = b"".join(iter(lambda: sock.recv(4096), b""))
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b'"type":"timeout_error"' in answer


def test_a_failing_engine_is_our_error(caplog: pytest.LogCaptureFixture) -> None:
    """Its step fails once: that answer fails, in the envelope or as an event, and the next one is whole."""
    model = scripted_model(says("Hello"))
    program = model.engine.program  # type: ignore[attr-defined]
    step = program.step
    broken = {"type": "api_error", "message": "Internal server error"}

    def fail_once(batch: Batch) -> np.ndarray:
        program.step = step
        raise ArithmeticError("not on this CPU")

    with serving(model) as url:
        program.step = fail_once
        response = post(url)
        assert (response.status_code, response.json()["error"]) == (500, broken)
        assert "not on this CPU" not in response.text
        program.step = fail_once
        events = read_events(post(url, stream=True).text)
        assert shape(events) == ["message_start", "error"]
        assert events[-1][1]["error"] == broken
        assert events[-1][1]["request_id"].startswith("req_")
        assert post(url).json()["content"][0]["text"] == "Hello"


def test_an_engine_that_has_failed_shows_in_health_and_in_every_answer(caplog: pytest.LogCaptureFixture) -> None:
    model = scripted_model(says("Hello"))
    broken = {"type": "api_error", "message": "Internal server error"}
    with serving(model) as url:
        assert httpx.get(url + "/health").json()["status"] == "ok"
        model.engine.program.step = lambda batch: []  # type: ignore[attr-defined]  # not an array: a defect
        assert [data.get("error") for _, data in read_events(post(url, stream=True).text)] == [None, broken]
        for stream in (False, True):
            response = post(url, stream=stream)
            assert (response.status_code, response.json()["error"]) == (500, broken)
            assert response.json()["request_id"] == response.headers["request-id"]
        health = httpx.get(url + "/health")
        assert (health.status_code, health.json()["type"]) == (503, "error")
        assert health.json()["error"] == {
            "type": "api_error",
            "message": "senryu-mini answers no more: its engine has failed. The server's log says more; restart the server.",
        }


@pytest.mark.parametrize("stream", [False, True])
def test_a_deadline_that_passes_is_a_timeout(stream: bool) -> None:
    model = scripted_model(seconds_per_step=0.005)
    generate = model.engine.generate
    engine: Any = model.engine
    engine.generate = lambda request: generate(replace(request, deadline=time.monotonic() + 0.05))
    late = {"type": "timeout_error", "message": "The request's deadline passed before its answer was complete"}
    with serving(model) as url:
        response = post(url, max_tokens=8000, stream=stream)
    if stream:
        assert read_events(response.text)[-1][1]["error"] == late
    else:
        assert (response.status_code, response.json()["error"]) == (504, late)


def test_too_many_requests_are_an_overload() -> None:
    model = scripted_model(seconds_per_step=0.005)
    with serving(model, max_requests=1) as url:
        sock = send(url, body(max_tokens=8000))
        wait_until(lambda: running(model))
        response = post(url)
        assert response.status_code == 529
        assert response.json()["error"] == {"type": "overloaded_error", "message": "Overloaded"}
        sock.close()
