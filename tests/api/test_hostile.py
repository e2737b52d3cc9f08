"""Requests that are made to break a server: each is refused or answered, and others are answered meanwhile."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from senryu.api.batches import new_requests
from senryu.api.body import BODY_BYTES, INLINE_BYTES, parse_body
from senryu.api.dialect import HEADER_CHARACTERS
from senryu.api.server import HEAD_BYTES
from senryu.config import Settings
from senryu.errors import SenryuError
from serving import says, scripted_model, serving, serving_with

VERSION = {"anthropic-version": "2023-06-01"}
HELLO: dict[str, Any] = {"model": "mini", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture(scope="module")
def lenient() -> Iterator[str]:
    with serving(scripted_model(says("ok")), profile="lenient") as url:
        yield url


def ask(url: str, body: dict[str, Any], **headers: str) -> httpx.Response:
    return httpx.post(f"{url}/v1/messages", json={**body, "model": "claude-3-5-haiku-latest"}, headers=VERSION | headers)


@pytest.mark.parametrize("name", ["😀" * 300, "é" * 128, "a" * 5000])
def test_a_name_that_grows_in_a_header_is_cut(lenient: str, name: str) -> None:
    response = ask(lenient, {**HELLO, name: 1, "b": 1})
    assert response.status_code == 200
    assert response.headers["senryu-ignored"].endswith("..., b" if name[0] != "a" else "a, b")
    assert len(response.headers["senryu-ignored"]) < HEADER_CHARACTERS


def test_of_many_names_the_first_are_shown(lenient: str) -> None:
    shown = ask(lenient, {**HELLO, **{f"field{i}": 1 for i in range(50_000)}}).headers["senryu-ignored"].split(", ")
    assert shown[:-1] == [f"field{i}" for i in range(len(shown) - 1)]
    assert shown[-1] == "..."
    betas = ask(lenient, HELLO, **{"anthropic-beta": ",".join(f"beta-{i:04}" for i in range(5000))}).headers["senryu-ignored"]
    assert betas.startswith("anthropic-beta:beta-0000, anthropic-beta:beta-0001, ")
    assert len(betas) < HEADER_CHARACTERS + 10


@pytest.mark.parametrize("pieces", [[b"x: ", *[b"y" * 8192] * 64], [b"x: y\r\n" * 1000] * 64, [b"x: y\r\n" * 64_000]])
def test_headers_end(lenient: str, pieces: list[bytes]) -> None:
    address = urlsplit(lenient)
    with socket.create_connection((address.hostname or "", address.port or 0), timeout=30) as caller:
        caller.sendall(b"GET /v1/models HTTP/1.1\r\nhost: x\r\n")
        try:
            for piece in pieces:
                caller.sendall(piece)
        except OSError:
            pass  # it has heard enough
        answer = b""
        try:
            while data := caller.recv(65536):
                answer += data
        except ConnectionResetError:
            pass
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    error = json.loads(body)
    assert error["error"]["type"] == "invalid_request_error"
    assert f"request-id: {error['request_id']}".encode() in head


def test_long_headers_pass_up_to_the_bound(lenient: str) -> None:
    response = ask(lenient, HELLO, x="y" * (HEAD_BYTES - 2000))
    assert response.status_code == 200


def test_examples_are_compared_beside_the_event_loop() -> None:
    """They may take a second, however short the body is."""

    async def thread_of(body: bytes) -> bool:
        return await parse_body(body, lambda value: threading.current_thread() is threading.main_thread())

    import asyncio

    assert asyncio.run(thread_of(b'{"a": 1}'))
    assert not asyncio.run(thread_of(b'{"input_examples": 1}'))
    assert not asyncio.run(thread_of(b'{"\\u0069nput_examples": 1}'))
    assert not asyncio.run(thread_of(b" " * INLINE_BYTES + b"{}"))


MUCH = b"[" + b"1," * (BODY_BYTES // 2) + b"1]"


@pytest.mark.parametrize(
    "body",
    [
        lambda: MUCH,
        lambda: b'{"requests": [{"custom_id": "a", "params": {}}], "x": %b}' % MUCH,
        lambda: b'{"requests": [{"custom_id": "a", "params": {"x": %b}}]}' % MUCH,
        lambda: b'{"requests": %b} x' % MUCH,
    ],
    ids=["a list", "beside the requests", "one request", "no JSON"],
)
def test_a_large_batch_is_never_decoded_as_a_whole(body: Callable[[], bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    """What is larger than a request may be would take 25 times its size in memory."""
    decoded: list[int] = []
    import senryu.api.batches as module

    decode = module.decode_json
    monkeypatch.setattr(module, "decode_json", lambda part: (decoded.append(len(part)), decode(part))[1])
    with pytest.raises(SenryuError) as refusal:
        new_requests(body())
    assert refusal.value.status == 413
    assert all(size <= BODY_BYTES for size in decoded)


def test_ids_with_nul_are_unknown_in_any_database(ledger_settings: Settings) -> None:
    with (
        serving_with(scripted_model(says("ok")), ledger_settings) as url,
        httpx.Client(base_url=url, headers=VERSION) as client,
    ):
        asked = {
            ("GET", "/v1/files/a%00"): 404,
            ("DELETE", "/v1/files/a%00"): 404,
            ("GET", "/v1/files?ids[]=a%00"): 200,
            ("GET", "/v1/files?page=page_MToA"): 200,  # 1:NUL
            ("GET", "/v1/messages/batches/a%00"): 404,
            ("POST", "/v1/messages/batches/a%00/cancel"): 404,
            ("DELETE", "/v1/messages/batches/a%00"): 404,
            ("GET", "/v1/messages/batches/a%00/results"): 404,
            ("GET", "/v1/messages/batches?after_id=a%00"): 400,
        }
        assert {(method, path): client.request(method, path).status_code for method, path in asked} == asked
        source = {"type": "file", "file_id": "a\0"}
        body = {**HELLO, "messages": [{"role": "user", "content": [{"type": "document", "source": source}]}]}
        response = ask(url, body)
        assert response.status_code == 404
        assert response.json()["error"]["message"].startswith("File not found")


@pytest.mark.parametrize("sent", ["1_0", "%D9%A3", "1.0", " 1", "9" * 5000, ""])
def test_a_limit_is_plain_digits(lenient: str, sent: str) -> None:
    for path in ("/v1/models", "/v1/files", "/v1/messages/batches"):
        response = httpx.get(f"{lenient}{path}?limit={sent}", headers=VERSION)
        assert (response.status_code, response.json()["error"]["message"]) == (400, "limit: Input should be a valid integer")


ENDLESS = {"type": "object", "properties": {"x": {"$ref": "#"}}, "required": ["x"], "additionalProperties": False}


@pytest.mark.parametrize("stream", [False, True])
def test_a_schema_that_no_answer_can_end(lenient: str, stream: bool) -> None:
    """It compiles; that nothing matches it shows where the call begins."""
    tool = {"name": "look", "input_schema": ENDLESS}
    response = ask(lenient, {**HELLO, "tools": [tool], "tool_choice": {"type": "any"}, "stream": stream})
    assert response.status_code == (200 if stream else 400)
    error = json.loads(response.text.rpartition("data: ")[2])["error"]
    assert error["type"] == "invalid_request_error"
    assert error["message"].startswith("Schema is too complex for compilation. ")
    assert "state" not in error["message"]
