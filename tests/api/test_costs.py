"""What 500 mixed requests cost by the ledger is what their answers say they used, times the published prices, exactly."""

from __future__ import annotations

import json
import random
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx

from senryu.config import Settings
from serving import scripted_model, serving_with

NANO_DOLLARS = {  # a token, after the published price list
    "input_tokens": 800,
    "output_tokens": 4000,
    "ephemeral_5m_input_tokens": 1000,
    "ephemeral_1h_input_tokens": 1600,
    "cache_read_input_tokens": 80,
}
TOOL = {"name": "pick", "input_schema": {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"]}}
HEADERS = {"anthropic-version": "2023-06-01", "senryu-cost": "true"}


def request_of(dice: random.Random) -> dict[str, Any]:
    """One of the many kinds of request: marked or not, both lifetimes, tools, prefill, nothing but the cache."""
    body: dict[str, Any] = {"model": "senryu-nano", "max_tokens": dice.randint(1, 40)}
    words = f"{dice.randrange(6)} harbour lights " * dice.choice([10, 150, 300])
    marker = dice.choice([None, {"type": "ephemeral"}, {"type": "ephemeral", "ttl": "1h"}])
    body["system"] = [{"type": "text", "text": words, "cache_control": marker}]
    body["messages"] = [{"role": "user", "content": f"Question {dice.randrange(50)}"}]
    if dice.random() < 0.2:
        body["tools"], body["tool_choice"] = [TOOL], {"type": dice.choice(["auto", "any", "none"])}
    elif dice.random() < 0.2:
        body["messages"].append({"role": "assistant", "content": "The answer"})
    if dice.random() < 0.2:
        body["cache_control"] = {"type": "ephemeral"} if (marker or {}).get("ttl") != "1h" else marker
    if dice.random() < 0.1 and body.get("tool_choice", {}).get("type") != "any":
        body["max_tokens"] = 0
    return body


def ask(http: httpx.Client, body: dict[str, Any], stream: bool) -> tuple[str, dict[str, Any], int | None]:
    """(id, usage, nano-dollars of the header) of one answer."""
    answer = http.post("/v1/messages", json={**body, "stream": stream and body["max_tokens"] > 0}, headers=HEADERS)
    assert answer.status_code == 200, answer.text
    if answer.headers["content-type"] == "application/json":
        message = answer.json()
        dollars, nano = answer.headers["senryu-cost-usd"].split(".")
        assert len(nano) == 9
        return message["id"], message["usage"], int(dollars + nano)
    events = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: ")]
    start = next(event for event in events if event["type"] == "message_start")["message"]
    end = next(event for event in events if event["type"] == "message_delta")["usage"]
    for name in ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens"):
        assert start["usage"][name] == end[name]
    return start["id"], start["usage"] | end, None


def price(usage: dict[str, Any], half: bool = False) -> int:
    flat = usage | usage["cache_creation"]
    assert sum(usage["cache_creation"].values()) == usage["cache_creation_input_tokens"]
    cost = sum(flat[name] * nano for name, nano in NANO_DOLLARS.items())
    assert not (half and cost % 2)
    return cost // 2 if half else cost


def test_costs_are_tokens_times_prices(tmp_path: Path) -> None:
    dice = random.Random(5)
    bodies = [request_of(dice) for _ in range(400)]
    params = [body for body in (request_of(dice) for _ in range(150)) if body["max_tokens"]][:100]
    settings = replace(Settings(home=tmp_path), port=0)
    with serving_with(scripted_model(), settings) as url, httpx.Client(base_url=url, timeout=120) as http:
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda item: ask(http, item[1], item[0] % 3 == 0), enumerate(bodies)))
        batch = {"requests": [{"custom_id": f"r{i}", "params": body} for i, body in enumerate(params)]}
        made = http.post("/v1/messages/batches", json=batch, headers=HEADERS).json()
        while made["processing_status"] != "ended":
            made = http.get(f"/v1/messages/batches/{made['id']}", headers=HEADERS).json()
        lines = [json.loads(line) for line in http.get(made["results_url"], headers=HEADERS).text.splitlines()]
    costs = {id: price(usage) for id, usage, _ in answers}
    assert all(header in (None, costs[id]) for id, _, header in answers)
    messages = [line["result"]["message"] for line in lines]
    assert len(costs) + len(messages) == 500
    costs |= {message["id"]: price(message["usage"], half=True) for message in messages}
    ledger = sqlite3.connect(tmp_path / "senryu.db")
    assert dict(ledger.execute("SELECT id, cost_nano FROM requests").fetchall()) == costs
    kinds = ledger.execute("SELECT sum(cache_read), sum(cache_write_5m), sum(cache_write_1h), sum(tool_calls) FROM requests")
    assert all(kinds.fetchone()), "the requests were not as mixed as they should be"
