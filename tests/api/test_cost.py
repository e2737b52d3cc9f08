"""What a request costs: in a header where it is asked for, and in the ledger exactly what its answer's usage comes to."""

from __future__ import annotations

import json
import random
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx

from senryu.config import Settings
from senryu.engine.interface import TokenRequest
from serving import END, TOKENIZER, says, scripted_model, serving, serving_with

HEADERS = {"anthropic-version": "2023-06-01"}
PRICES = {"input_tokens": 800, "5m": 1000, "1h": 1600, "cache_read_input_tokens": 80, "output_tokens": 4000}

TOOL = {"name": "pick", "input_schema": {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"]}}


def body(text: str = "Hi", **fields: Any) -> dict[str, Any]:
    return {"model": "senryu-mini", "max_tokens": 50, "messages": [{"role": "user", "content": text}], **fields}


def counts(usage: dict[str, Any]) -> dict[str, int]:
    """Tokens by what they are priced as."""
    split = usage["cache_creation"]
    whole = {**usage, "5m": split["ephemeral_5m_input_tokens"], "1h": split["ephemeral_1h_input_tokens"]}
    return {kind: whole[kind] for kind in PRICES}


def cost(usage: dict[str, Any]) -> int:
    """Nano-dollars by the published prices, half of them in a batch."""
    full = sum(PRICES[kind] * count for kind, count in counts(usage).items())
    return full // 2 if usage["service_tier"] == "batch" else full


def streamed(http: httpx.Client, asked: dict[str, Any]) -> dict[str, Any]:
    """The message of a stream, put together."""
    answer = http.post("/v1/messages", json={**asked, "stream": True})
    events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]
    message = next(event["message"] for event in events if event["type"] == "message_start")
    message["usage"] |= next(event["usage"] for event in events if event["type"] == "message_delta")
    return message


def test_the_header_is_sent_to_who_asks() -> None:
    with serving(scripted_model(says("Hello"))) as url, httpx.Client(base_url=url, headers=HEADERS) as http:
        answer = http.post("/v1/messages", json=body(), headers={"senryu-cost": "true"})
        nano = cost(answer.json()["usage"])
        assert answer.headers["senryu-cost-usd"] == f"0.{nano:09d}"
        assert nano > 0
        for headers in ({}, {"senryu-cost": "false"}):
            assert "senryu-cost-usd" not in http.post("/v1/messages", json=body(), headers=headers).headers
        refused = http.post("/v1/messages", json=body(max_tokens=0.5), headers={"senryu-cost": "true"})
        assert "senryu-cost-usd" not in refused.headers


def reply(request: TokenRequest) -> list[int]:
    return [*TOKENIZER.encode("x") * (len(request.ids) % 37), END]


def mixed(draw: random.Random) -> dict[str, Any]:
    """Some are cut by max_tokens; some write a prefix for five minutes or an hour, or read it; some call tools."""
    system: list[dict[str, Any]] = []
    for ttl in draw.choice([[], ["5m"], ["1h"], ["1h", "5m"]]):
        marker = {"type": "ephemeral", "ttl": ttl}
        system.append({"type": "text", "text": draw.choice("xyz") * 2100, "cache_control": marker})
    asked = body("a" * draw.randrange(1, 300), max_tokens=draw.randrange(1, 60), system=system)
    if draw.random() < 0.2:
        asked |= {"tools": [TOOL], "tool_choice": {"type": draw.choice(["auto", "any", "none"])}}
    elif draw.random() < 0.2:
        asked["messages"].append({"role": "assistant", "content": "The answer"})
    return asked


def test_the_ledger_is_what_500_answers_come_to(tmp_path: Path) -> None:
    """Messages, streams and a batch at once."""
    draw = random.Random(1)
    asked = [mixed(draw) for _ in range(400)]
    with (
        serving_with(scripted_model(reply), Settings(home=tmp_path, port=0)) as url,
        httpx.Client(base_url=url, headers=HEADERS, timeout=60) as http,
        ThreadPoolExecutor(8) as pool,
    ):
        batch = [{"custom_id": f"r{number}", "params": asked[number]} for number in range(100)]
        made = http.post("/v1/messages/batches", json={"requests": batch}).json()
        whole = pool.map(lambda one: http.post("/v1/messages", json=one).json(), asked[:200])
        pieces = pool.map(lambda one: streamed(http, one), asked[200:])
        messages = [*whole, *pieces]
        while (made := http.get(f"/v1/messages/batches/{made['id']}").json())["processing_status"] != "ended":
            pass
        lines = http.get(made["results_url"]).text.splitlines()
        messages += [json.loads(line)["result"]["message"] for line in lines]
        expected = {message["id"]: cost(message["usage"]) for message in messages}
    assert len(expected) == 500
    for kind in PRICES:
        assert any(counts(message["usage"])[kind] for message in messages), kind
    with closing(sqlite3.connect(tmp_path / "senryu.db")) as database:
        rows = database.execute("SELECT id, cost_nano, tier FROM requests").fetchall()
        ((calls,),) = database.execute("SELECT sum(tool_calls) FROM requests")
    assert calls
    assert {id: cost for id, cost, _ in rows} == expected
    assert sum(tier == "batch" for _, _, tier in rows) == 100
    assert all(isinstance(cost, int) for _, cost, _ in rows)
