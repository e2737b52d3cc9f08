"""One conversation through every door: the same prompt, hence the same text and the same counts of tokens."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from senryu.config import Settings
from senryu.engine.interface import TokenRequest
from serving import TOKENIZER, scripted_model, serving, serving_with

SYSTEM = "You are a porter. Answer in one line."
ASKED, SAID, THEN = "Is there a boat to the island today?", "I will look it up.", "And tomorrow?"
ARGUMENTS = {"day": "today", "to": "island"}
RESULT = "No boat: storm."
SCHEMA = {
    "type": "object",
    "properties": {"day": {"type": "string"}, "to": {"type": "string"}},
    "required": ["day", "to"],
}
DESCRIPTION = "The boats of a day"
MOST = 40
LETTERS = TOKENIZER.encode("abcdefghijklmnopqrstuvwxyz")


def claude(**fields: Any) -> dict[str, Any]:
    """The conversation as a body of the Messages API."""
    call = {"type": "tool_use", "id": "toolu_1", "name": "boats", "input": ARGUMENTS}
    result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": RESULT}
    return {
        "max_tokens": MOST,
        "temperature": 0,
        "system": SYSTEM,
        "tools": [{"name": "boats", "description": DESCRIPTION, "input_schema": SCHEMA}],
        "tool_choice": {"type": "none"},
        "messages": [
            {"role": "user", "content": ASKED},
            {"role": "assistant", "content": [{"type": "text", "text": SAID}, call]},
            {"role": "user", "content": [result, {"type": "text", "text": THEN}]},
        ],
        **fields,
    }


def openai(**fields: Any) -> dict[str, Any]:
    """The same as a body of chat completions."""
    call = {"id": "toolu_1", "type": "function", "function": {"name": "boats", "arguments": json.dumps(ARGUMENTS)}}
    function = {"name": "boats", "description": DESCRIPTION, "parameters": SCHEMA}
    return {
        "max_completion_tokens": MOST,
        "temperature": 0,
        "tools": [{"type": "function", "function": function}],
        "tool_choice": "none",
        "messages": [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": ASKED},
            {"role": "assistant", "content": SAID, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "toolu_1", "content": RESULT},
            {"role": "user", "content": THEN},
        ],
        **fields,
    }


def converse(**fields: Any) -> dict[str, Any]:
    """The same as a body of Bedrock's Converse. It has no tool choice "none": this one offers, and the answer calls nothing."""
    spec = {"name": "boats", "description": DESCRIPTION, "inputSchema": {"json": SCHEMA}}
    call = {"toolUse": {"toolUseId": "toolu_1", "name": "boats", "input": ARGUMENTS}}
    result = {"toolResult": {"toolUseId": "toolu_1", "content": [{"text": RESULT}]}}
    return {
        "inferenceConfig": {"maxTokens": MOST, "temperature": 0},
        "system": [{"text": SYSTEM}],
        "toolConfig": {"tools": [{"toolSpec": spec}]},
        "messages": [
            {"role": "user", "content": [{"text": ASKED}]},
            {"role": "assistant", "content": [{"text": SAID}, call]},
            {"role": "user", "content": [result, {"text": THEN}]},
        ],
        **fields,
    }


Read = tuple[str, int, int, str]  # text, tokens of the prompt, tokens of the answer, why it ended


def of_message(answer: dict[str, Any]) -> Read:
    text = "".join(block["text"] for block in answer["content"])
    return text, answer["usage"]["input_tokens"], answer["usage"]["output_tokens"], answer["stop_reason"]


def of_completion(answer: dict[str, Any]) -> Read:
    (choice,), usage = answer["choices"], answer["usage"]
    reason = {"length": "max_tokens", "stop": "end_turn"}[choice["finish_reason"]]
    return choice["message"]["content"], usage["prompt_tokens"], usage["completion_tokens"], reason


def of_converse(answer: dict[str, Any]) -> Read:
    text = "".join(block["text"] for block in answer["output"]["message"]["content"])
    return text, answer["usage"]["inputTokens"], answer["usage"]["outputTokens"], answer["stopReason"]


BEDROCK = "/bedrock/model/us.anthropic.claude-3-5-haiku-20241022-v1:0"
VERTEX = "/vertex/v1/projects/p/locations/l/publishers/anthropic/models/claude-3-5-haiku@20241022:rawPredict"
DOORS: dict[str, tuple[str, dict[str, Any], Callable[[dict[str, Any]], Read]]] = {
    "messages": ("/v1/messages", claude(model="claude-3-5-haiku-20241022"), of_message),
    "vertex": (VERTEX, claude(anthropic_version="vertex-2023-10-16"), of_message),
    "invoke of bedrock": (f"{BEDROCK}/invoke", claude(anthropic_version="bedrock-2023-05-31"), of_message),
    "converse of bedrock": (f"{BEDROCK}/converse", converse(), of_converse),
    "openai": ("/v1/chat/completions", openai(model="claude-3-5-haiku-latest"), of_completion),
    "openrouter": ("/api/v1/chat/completions", openai(model="anthropic/claude-3.5-haiku"), of_completion),
    "messages of openrouter": ("/api/v1/messages", claude(model="anthropic/claude-3.5-haiku"), of_message),
}


class Prompts:
    """What the engine was asked, and an answer that depends on all of it."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, ...]] = []

    def reply(self, request: TokenRequest) -> list[int]:
        """Tokens that another prompt would not give."""
        self.seen.append(tuple(request.ids))
        assert request.sampling.temperature == 0
        assert request.max_tokens == MOST
        value, tokens = hash(tuple(request.ids)), []
        for _ in range(MOST):
            value = (value * 6364136223846793005 + 1442695040888963407) % 2**64
            tokens.append(LETTERS[(value >> 40) % len(LETTERS)])
        return tokens


@pytest.fixture(scope="module")
def prompts() -> Prompts:
    return Prompts()


@pytest.fixture(scope="module")
def http(prompts: Prompts) -> Iterator[httpx.Client]:
    headers = {"anthropic-version": "2023-06-01"}
    with serving(scripted_model(prompts.reply)) as url, httpx.Client(base_url=url, headers=headers, timeout=60) as http:
        yield http


def ask(http: httpx.Client, door: str, **fields: Any) -> Read:
    path, body, read = DOORS[door]
    response = http.post(path, json={**body, **fields})
    assert response.status_code == 200, response.text
    return read(response.json())


@pytest.mark.parametrize("door", [name for name in DOORS if name != "messages"])
def test_every_door_means_the_same(http: httpx.Client, prompts: Prompts, door: str) -> None:
    prompts.seen.clear()
    first, second = ask(http, "messages"), ask(http, door)
    assert first == second
    text, asked, made, reason = first
    assert (len(text), made, reason) == (MOST, MOST, "max_tokens")
    assert len(set(prompts.seen)) == 1
    assert asked == len(prompts.seen[0]) > 100


def test_another_conversation_gives_another_answer(http: httpx.Client) -> None:
    """Otherwise the test above could not fail."""
    assert ask(http, "messages", system=SYSTEM + " Please.")[0] != ask(http, "messages")[0]


def test_every_door_costs_the_same(prompts: Prompts, tmp_path: Path) -> None:
    """Rows of the ledger differ in ids and times alone."""
    headers = {"anthropic-version": "2023-06-01"}
    with (
        serving_with(scripted_model(prompts.reply), Settings(home=tmp_path, port=0)) as url,
        httpx.Client(base_url=url, headers=headers, timeout=60) as http,
    ):
        for door in DOORS:
            ask(http, door)
    with closing(sqlite3.connect(tmp_path / "senryu.db")) as database:
        database.row_factory = sqlite3.Row
        rows = [dict(row) for row in database.execute("SELECT * FROM requests")]
    assert len(rows) == len(DOORS)
    apart = {name for name in rows[0] if len({row[name] for row in rows}) > 1}
    assert apart <= {"id", "at", "first_token_ms", "total_ms", "reused_tokens"}
    assert rows[0]["cost_nano"] > 0
