"""Listening and stopping: refused binds, taken ports, and answers that outlive the first SIGTERM."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from senryu.api.server import check_bind, is_loopback, listen
from senryu.config import Settings
from senryu.errors import SenryuError

SCRIPT = """
import sys
from pathlib import Path
from senryu.api.app import serve_model
from senryu.config import Settings
from senryu.service.registry import Registry
from serving import TOKENIZER, scripted_model
model = scripted_model(lambda request: TOKENIZER.encode("x") * 8000, seconds_per_step=0.02)
serve_model(Registry([model]), Settings(home=Path(sys.argv[1]), port=0), ready=lambda url: print(url, flush=True))
print("closed", flush=True)
"""


def settings(host: str, port: int = 0, api_key: str | None = None) -> Settings:
    return Settings(home=Path("unused"), host=host, port=port, api_key=api_key)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "localhost", "LOCALHOST", "::1", "[::1]"])
def test_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "", "::", "10.0.0.1", "example.com", "localhost.example.com"])
def test_other_addresses_need_a_key(host: str) -> None:
    with pytest.raises(SenryuError, match=r"without an API key.*--api-key KEY"):
        check_bind(settings(host))


def test_addresses_that_will_do() -> None:
    check_bind(settings("127.0.0.1"))
    check_bind(settings("0.0.0.0", api_key="k"))


def test_a_taken_port_is_named() -> None:
    with listen("127.0.0.1", 0) as sock:
        sock.listen()
        port = sock.getsockname()[1]
        with pytest.raises(SenryuError, match=f"127.0.0.1:{port}.*--port 0"):
            check_bind(settings("127.0.0.1", port))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A server process that streams for a long time."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None
    try:
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def stream(url: str, max_tokens: int) -> Iterator[dict[str, object]]:
    body = {"model": "senryu-mini", "max_tokens": max_tokens, "stream": True, "messages": [{"role": "user", "content": "Hi"}]}
    with httpx.stream(
        "POST", url + "/v1/messages", json=body, headers={"anthropic-version": "2023-06-01"}, timeout=60
    ) as answer:
        assert answer.status_code == 200
        for line in answer.iter_lines():
            if line.startswith("data: "):
                yield json.loads(line.removeprefix("data: "))


def until(events: Iterator[dict[str, object]], kind: str) -> dict[str, object]:
    return next(event for event in events if event["type"] == kind)


def until_refused(url: str) -> None:
    """Once told to stop, a server first answers 529, then closes its door."""
    with contextlib.suppress(httpx.TransportError):
        while True:
            assert httpx.post(url + "/v1/messages", json={}, timeout=60).status_code in (400, 529)


def test_the_first_sigterm_lets_answers_finish(server: tuple[subprocess.Popen[str], str]) -> None:
    process, url = server
    with httpx.Client() as idle_connection:
        idle_connection.get(url + "/health")
        events = stream(url, 100)
        until(events, "content_block_delta")
        process.send_signal(signal.SIGTERM)
        until_refused(url)
        assert until(events, "message_delta")["usage"]["output_tokens"] == 100  # type: ignore[index]
        until(events, "message_stop")
    assert process.wait(timeout=60) == 0
    assert process.stdout is not None
    assert process.stdout.read() == "closed\n"


def test_the_second_sigterm_ends_them_with_an_error(server: tuple[subprocess.Popen[str], str]) -> None:
    process, url = server
    events = stream(url, 8000)
    until(events, "content_block_delta")
    process.send_signal(signal.SIGTERM)
    until_refused(url)
    process.send_signal(signal.SIGTERM)
    error = until(events, "error")
    assert error["error"] == {"type": "overloaded_error", "message": "Overloaded"}
    assert str(error["request_id"]).startswith("req_")
    assert next(events, None) is None
    assert process.wait(timeout=60) == 0


def test_sockets_can_be_ipv6() -> None:
    if not socket.has_ipv6:
        pytest.skip("no IPv6 here")
    try:
        sock = listen("::1", 0)
    except SenryuError:
        pytest.skip("no IPv6 loopback here")
    sock.close()
