"""Prompt caching as a caller sees it: usage over real sockets, with a scripted model and with the bundled one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from senryu import kernels
from senryu.config import load_settings
from senryu.service.prompt import encode
from senryu.service.registry import LoadedModel, load_model
from senryu.types import Message, Text, Turn
from serving import says, scripted_model, serving

VERSION = {"anthropic-version": "2023-06-01"}
FIVE = {"type": "ephemeral"}
HOUR = {"type": "ephemeral", "ttl": "1h"}


def block(text: str, marker: dict[str, str] | None = None) -> dict[str, Any]:
    return {"type": "text", "text": text} | ({"cache_control": marker} if marker else {})


def body(*blocks: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"model": "senryu-nano", "messages": [{"role": "user", "content": list(blocks)}], **fields}


def ask(url: str, *blocks: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """The Message."""
    answer = httpx.post(
        url + "/v1/messages", json=body(*blocks, max_tokens=8, temperature=0, **fields), headers=VERSION, timeout=120
    )
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def counts(usage: dict[str, Any]) -> tuple[int, int, int, int]:
    """Read, written for 5 minutes, written for an hour, plain."""
    split = usage["cache_creation"]
    assert sum(split.values()) == usage["cache_creation_input_tokens"]
    return (
        usage["cache_read_input_tokens"],
        split["ephemeral_5m_input_tokens"],
        split["ephemeral_1h_input_tokens"],
        usage["input_tokens"],
    )


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(scripted_model(says("ok"))) as base:
        yield base


def test_usage_is_the_same_in_the_message_and_at_both_ends_of_a_stream(url: str) -> None:
    blocks = [block("a" * 2100, HOUR), block("b" * 500, FIVE), block("tail")]
    counted = httpx.post(url + "/v1/messages/count_tokens", json=body(*blocks), headers=VERSION, timeout=60).json()
    first = counts(ask(url, *blocks)["usage"])
    assert first == (0, 502, 2102, 8)
    assert sum(first) == counted["input_tokens"]
    again = counts(ask(url, *blocks)["usage"])
    assert again == (2604, 0, 0, 8)
    answer = httpx.post(url + "/v1/messages", json=body(*blocks, max_tokens=8, stream=True), headers=VERSION, timeout=60)
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: ")]
    events = [httpx.Response(200, text=line).json() for line in lines]
    start = next(event["message"]["usage"] for event in events if event["type"] == "message_start")
    end = next(event["usage"] for event in events if event["type"] == "message_delta")
    assert counts(start) == again
    for name in ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"):
        assert end[name] == start[name]
    assert start["output_tokens"] == 1
    assert end["output_tokens"] == 3


def test_what_nobody_marked_is_plain_input(url: str) -> None:
    blocks = [block("c" * 2500), block("tail")]
    assert [counts(ask(url, *blocks)["usage"]) for _ in range(2)] == [(0, 0, 0, 2510)] * 2


def test_a_conversation_reads_what_it_wrote(url: str) -> None:
    """The marker moves to the newest message, as clients do it."""
    system = [block("s" * 2500, FIVE)]
    said: list[dict[str, Any]] = []
    previous = 0
    for number in range(4):
        said.append({"role": "user", "content": [block(f"question {number}", FIVE)]})
        fields = {"messages": said, "system": system}
        read, written, _, rest = counts(ask(url, **fields)["usage"])
        assert (read, rest) == (previous, 2)
        previous = read + written
        said[-1]["content"][0].pop("cache_control")
        said.append({"role": "assistant", "content": [block("ok")]})


def sized(model: LoadedModel, tokens: int) -> str:
    """A first block that ends after exactly so many tokens."""

    def end(text: str) -> int:
        turn = Turn("senryu-nano", (Message("user", (Text(text), Text("Define it."))),), 8)
        return encode(model, turn, {}).positions[0].end

    text = " river" * tokens
    while (excess := end(text) - tokens) > 0:
        text = text[: -len(" river") * max(1, excess // 4)]
    while (missing := tokens - end(text)) > 0:
        text += "~" * missing  # a character that never merges with its like
    assert end(text) == tokens
    return text


@pytest.mark.skipif(kernels.available()[0] == "numpy", reason="too long without compiled kernels")
def test_the_bundled_model_caches_from_2048_tokens(tmp_path: Path, kept_kernels: Path) -> None:
    settings = replace(load_settings({"SENRYU_HOME": str(tmp_path)}), kv_cache_gb=0.1, kv_spill_gb=0.0)
    nano = load_model(settings, "nano")
    with serving(nano) as url:
        short, long = sized(nano, 2047), sized(nano, 2048)
        tail = block("Define it.")
        plain = ask(url, block(short), tail)
        assert [counts(ask(url, block(short, FIVE), tail)["usage"])[:3] for _ in range(2)] == [(0, 0, 0)] * 2
        cold, warm = (ask(url, block(long, FIVE), tail) for _ in range(2))
        rest = cold["usage"]["input_tokens"]
        assert counts(cold["usage"]) == (0, 2048, 0, rest)
        assert counts(warm["usage"]) == (2048, 0, 0, rest)
        assert cold["content"] == warm["content"] == ask(url, block(long), tail)["content"]
        assert plain["content"] == ask(url, block(short, HOUR), tail)["content"]
        other = ask(url, block(long, FIVE), block("What is the question about?"))
        assert counts(other["usage"])[:3] == (2048, 0, 0)
