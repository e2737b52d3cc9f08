"""A server killed behind its answers: the ledger has them in order up to some last moment, and all that it showed before."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import pytest

SCRIPT = """
import sys
from pathlib import Path
from senryu.api.app import serve_model
from senryu.config import Settings
from senryu.service.registry import Registry
from serving import says, scripted_model
model = scripted_model(says("Hello"))
serve_model(Registry([model]), Settings(home=Path(sys.argv[1]), port=0), ready=lambda url: print(url, flush=True))
"""
BODY = {"model": "senryu-mini", "max_tokens": 20, "messages": [{"role": "user", "content": "Hi"}]}


@contextmanager
def server(home: Path, end: int) -> Iterator[str]:
    """A server process, sent the signal `end` when it is left; its URL."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])}
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(home)], stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.send_signal(end)
        process.wait()
        process.stdout.close()


def rows(home: Path) -> list[tuple[str, int]]:
    with closing(sqlite3.connect(home / "senryu.db", timeout=60)) as database:
        return database.execute("SELECT id, output_tokens FROM requests ORDER BY rowid").fetchall()


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_what_was_answered_is_in_the_ledger(tmp_path: Path, end: int) -> None:
    """Of a server that is killed, perhaps without the last answers; of one that is stopped, all of it."""
    answered: list[str] = []
    shown: list[tuple[str, int]] = []
    deadline = time.monotonic() + 600
    headers = {"anthropic-version": "2023-06-01"}
    with server(tmp_path, end) as url, httpx.Client(base_url=url, headers=headers, timeout=60) as http:
        while len(shown) < 20:
            assert time.monotonic() < deadline
            answered.append(http.post("/v1/messages", json=BODY).json()["id"])
            shown = rows(tmp_path)
    kept = rows(tmp_path)
    assert kept == [(id, 6) for id in answered[: len(kept)]]
    assert kept[: len(shown)] == shown
    if end == signal.SIGTERM:
        assert len(kept) == len(answered)
