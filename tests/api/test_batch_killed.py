"""A server killed in the midst of a batch, twice: what it ran is kept and billed, what it did not is run, nothing twice."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import pytest

from senryu.ledger.prices import load_prices
from senryu.types import Usage

HEADERS = {"anthropic-version": "2023-06-01"}
SCRIPT = """
import sys
from pathlib import Path
from senryu.api.app import serve_model
from senryu.config import Settings
from senryu.service.registry import Registry
from serving import END, scripted_model
model = scripted_model(lambda request: [*request.ids[-8:], END], seconds_per_step=0.002)
serve_model(Registry([model]), Settings(home=Path(sys.argv[1]), port=0), ready=lambda url: print(url, flush=True))
"""


@contextmanager
def server(home: Path) -> Iterator[str]:
    """A server process, killed when it is left; its URL."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])}
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(home)], stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def done(home: Path) -> int:
    with closing(sqlite3.connect(home / "senryu.db", timeout=60)) as database:
        return database.execute("SELECT count(*) FROM batch_requests WHERE state <> 'pending'").fetchone()[0]


def until(condition: object) -> None:
    deadline = time.monotonic() + 600
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def params(number: int) -> dict[str, object]:
    """One of ten is wrong."""
    text = {"role": "user", "content": f"{number:08d}"}
    wrong = {"top_k": -1} if number % 10 == 9 else {}
    return {"model": "senryu-mini", "max_tokens": 20, "messages": [text], "system": "x" * (number % 3), **wrong}


def ended(url: str, id: str) -> dict[str, object] | None:
    batch = httpx.get(f"{url}/v1/messages/batches/{id}", headers=HEADERS, timeout=60).json()
    return batch if batch["processing_status"] == "ended" else None


@pytest.mark.parametrize("count", [100, pytest.param(2000, marks=pytest.mark.slow)])
def test_every_result_is_there_once_and_billed_once(tmp_path: Path, count: int) -> None:
    body = {"requests": [{"custom_id": f"c{number}", "params": params(number)} for number in range(count)]}
    with server(tmp_path) as url:
        made = httpx.post(f"{url}/v1/messages/batches", json=body, headers=HEADERS, timeout=60).json()
        until(lambda: done(tmp_path) >= count // 5)
    first = done(tmp_path)
    with server(tmp_path) as url:
        until(lambda: done(tmp_path) >= count // 2)
        assert ended(url, made["id"]) is None
    second = done(tmp_path)
    assert count // 5 <= first < second < count
    with server(tmp_path) as url:
        until(lambda: ended(url, made["id"]))
        batch = ended(url, made["id"])
        assert batch is not None
        text = httpx.get(str(batch["results_url"]), headers=HEADERS, timeout=60).text
    lines = [json.loads(line) for line in text.splitlines()]
    assert [line["custom_id"] for line in lines] == [f"c{number}" for number in range(count)]
    messages, prices = {}, load_prices()["batch"]
    for number, line in enumerate(lines):
        if number % 10 == 9:
            assert line["result"]["error"]["error"]["message"] == "top_k: Input should be greater than or equal to 0"
            continue
        message = line["result"]["message"]
        assert message["content"], line
        usage = message["usage"]
        messages[message["id"]] = prices.cost(Usage(usage["input_tokens"], output_tokens=usage["output_tokens"]))
    assert len(messages) == count - count // 10
    assert batch["request_counts"] == {
        "processing": 0, "succeeded": len(messages), "errored": count // 10, "canceled": 0, "expired": 0,
    }  # fmt: skip
    with closing(sqlite3.connect(tmp_path / "senryu.db")) as database:
        billed = database.execute("SELECT id, cost_nano FROM requests WHERE batch_id = ?", [made["id"]]).fetchall()
    assert len(billed) == len(messages)
    assert dict(billed) == messages
