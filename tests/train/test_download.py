"""Downloads against a server on this machine: once, whole, verified, and going on where a connection broke."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from senryu.train.download import TRIES, fetch
from senryu.train.recipe import RecipeError

CONTENT = bytes(range(256)) * 4000  # 1 MB
SHA = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves CONTENT; breaks off after each number of bytes in `breaks` in turn; keeps what was asked for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.breaks: list[int] = []
        self.ranges = True
        self.status = 200
        self.asked: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/data/my%20rows.jsonl?version=2"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        wanted = self.headers.get("Range")
        self.server.asked.append(wanted)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and self.server.ranges else 0
        if self.server.status != 200 or start >= len(CONTENT):
            self.send_error(self.server.status if self.server.status != 200 else 416)
            return
        body = CONTENT[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.server.breaks.pop(0)] if self.server.breaks else body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_file_is_fetched_once(server: Server, tmp_path: Path) -> None:
    path = fetch(server.url, SHA, tmp_path)
    assert path.read_bytes() == CONTENT
    assert path.name == "my_rows.jsonl"
    assert fetch(server.url, SHA, tmp_path) == path
    assert server.asked == [None]
    assert {p.name for p in path.parent.iterdir()} == {"my_rows.jsonl", "lock"}


def test_a_broken_connection_goes_on_where_it_stopped(server: Server, tmp_path: Path) -> None:
    server.breaks = [300_000, 500_000]
    assert fetch(server.url, SHA, tmp_path).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=300000-", "bytes=800000-"]


def test_a_server_without_ranges_sends_the_whole_again(server: Server, tmp_path: Path) -> None:
    server.breaks, server.ranges = [300_000], False
    assert fetch(server.url, SHA, tmp_path).read_bytes() == CONTENT
    assert server.asked == [None, "bytes=300000-"]


def test_a_part_that_an_earlier_run_left_is_used(server: Server, tmp_path: Path) -> None:
    folder = tmp_path / SHA[:32]
    folder.mkdir()
    (folder / "my_rows.jsonl.part").write_bytes(CONTENT[:7])
    assert fetch(server.url, SHA, tmp_path).read_bytes() == CONTENT
    assert server.asked == ["bytes=7-"]


@pytest.mark.parametrize("part", [b"of another file", CONTENT + b"too long", CONTENT])
def test_a_part_that_does_not_fit_is_fetched_anew(server: Server, tmp_path: Path, part: bytes) -> None:
    folder = tmp_path / SHA[:32]
    folder.mkdir()
    (folder / "my_rows.jsonl.part").write_bytes(part)
    assert fetch(server.url, SHA, tmp_path).read_bytes() == CONTENT


def test_a_damaged_file_is_fetched_again(server: Server, tmp_path: Path) -> None:
    path = fetch(server.url, SHA, tmp_path)
    path.write_bytes(b"damaged")
    assert fetch(server.url, SHA, tmp_path).read_bytes() == CONTENT


def test_another_file_than_expected_is_an_error_with_both_checksums(server: Server, tmp_path: Path) -> None:
    wrong = "0" * 64
    with pytest.raises(RecipeError, match=f"has the sha256 {SHA}, but the recipe says {wrong}"):
        fetch(server.url, wrong, tmp_path)
    assert [p.name for p in (tmp_path / wrong[:32]).iterdir()] == ["lock"]


def test_an_address_that_gives_nothing_says_why(server: Server, tmp_path: Path) -> None:
    server.status = 404
    with pytest.raises(RecipeError, match="404 Not Found; check the address"):
        fetch(server.url, SHA, tmp_path)
    server.status, server.asked = 503, []
    with pytest.raises(RecipeError, match="503 Service Unavailable"):
        fetch(server.url, SHA, tmp_path)
    assert len(server.asked) == TRIES


def test_a_server_that_always_breaks_off_is_given_up_with_the_part_kept(server: Server, tmp_path: Path) -> None:
    server.breaks = [1000] * TRIES
    with pytest.raises(RecipeError, match="the connection ended early"):
        fetch(server.url, SHA, tmp_path)
    assert fetch(server.url, SHA, tmp_path).read_bytes() == CONTENT
    assert server.asked[-1] == f"bytes={1000 * TRIES}-"
