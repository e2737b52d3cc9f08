"""Many callers at once, and the official SDK as the caller."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from tests.clients.stage import stage_model
from tests.clients.table import COLUMNS

from senryu.engine.interface import TokenRequest
from serving import END, TOKENIZER, idle, scripted_model, serving

SDK_SCRIPT = Path(__file__).parents[1] / "clients" / "anthropic_sdk.py"


def echo(request: TokenRequest) -> list[int]:
    """Answers with the caller's own words."""
    return [*[id for id in request.ids if id not in TOKENIZER.special_ids], END]


async def ask(client: httpx.AsyncClient, words: str) -> str:
    """The streamed answer to `words`."""
    body = {"model": "senryu-mini", "max_tokens": 128, "stream": True, "messages": [{"role": "user", "content": words}]}
    pieces = []
    async with client.stream("POST", "/v1/messages", json=body) as response:
        async for line in response.aiter_lines():
            if line.startswith("data: ") and (data := json.loads(line[6:]))["type"] == "content_block_delta":
                pieces.append(data["delta"]["text"])
    return "".join(pieces)


def test_everybody_gets_their_own_answer() -> None:
    """100 streams over an engine that runs 16 together and has room for fewer: the rest wait, none is refused."""
    model = scripted_model(echo, max_sequences=16, pages=12, check=True)
    words = [f"This is caller {number}, and nobody else: {'é漢' * (number % 9)}." for number in range(100)]

    async def all_of_them() -> list[str]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=120, limits=limits) as client:
            return await asyncio.gather(*(ask(client, text) for text in words))

    headers = {"anthropic-version": "2026-10-21"}
    with serving(model, max_requests=100) as url:
        assert asyncio.run(all_of_them()) == words
        assert idle(model)


def test_the_official_sdk() -> None:
    """The script of `make clients`, with the version that is installed beside these tests, against scripted models."""
    pytest.importorskip("anthropic")
    with (
        serving(scripted_model(echo), api_key="k") as url,
        serving(stage_model(), api_key="k") as stage,
        serving(stage_model(), api_key="k", requests_per_minute=60) as limited,
    ):
        command = [sys.executable, "-W", "ignore", str(SDK_SCRIPT), url, "k", stage, limited]
        done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert {result["column"] for result in results} == set(COLUMNS)
    assert [result for result in results if not result["ok"]] == []
