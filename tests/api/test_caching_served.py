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
    return {"model": "senryu-mini", "messages": [{"role": "user", "content": list(blocks)}], **fields}


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


def post(url: str, *blocks: dict[str, Any], key: str = "", **fields: Any) -> httpx.Response:
    asked = {"max_tokens": 8, **body(*blocks, **fields)}
    return httpx.post(url + "/v1/messages", json=asked, headers=VERSION | ({"x-api-key": key} if key else {}), timeout=120)


def test_automatic_caching_keys_and_prewarming(url: str) -> None:
    blocks = [block("d" * 2500)]
    assert [counts(ask(url, *blocks, cache_control=HOUR)["usage"]) for _ in range(2)] == [(0, 0, 2502, 2), (2502, 0, 0, 2)]
    for key in ("one", "two"):
        usages = [counts(post(url, *blocks, key=key, cache_control=FIVE).json()["usage"]) for _ in range(2)]
        assert usages == [(0, 2502, 0, 2), (2502, 0, 0, 2)]
    warmed = post(url, block("e" * 2500, FIVE), max_tokens=0).json()
    assert (warmed["content"], warmed["stop_reason"], warmed["usage"]["output_tokens"]) == ([], "max_tokens", 0)
    assert counts(warmed["usage"]) == (0, 2502, 0, 2)
    assert counts(ask(url, block("e" * 2500, FIVE))["usage"]) == (2502, 0, 0, 2)


def test_refusals_of_automatic_caching_and_prewarming(url: str) -> None:
    tool = {"name": "look", "input_schema": {"type": "object"}}
    four = [block("x", FIVE)] * 4
    for answer, message in [
        (
            post(url, *four, block("y"), cache_control=FIVE),
            "A maximum of 4 blocks with cache_control may be provided. Found 5.",
        ),
        (
            post(url, block("x", HOUR), cache_control=FIVE),
            "cache_control: the last cacheable block has a cache_control of another ttl. "
            "Give both the same ttl, or remove one.",
        ),
        (
            post(url, block("x"), max_tokens=0, tools=[tool], tool_choice={"type": "any"}),
            "max_tokens: must be greater than or equal to 1 with tool_choice 'any': 0 only reads the prompt into the cache",
        ),
        (
            post(url, block("x"), max_tokens=0, stream=True),
            "max_tokens: must be greater than or equal to 1 with stream: 0 only reads the prompt into the cache",
        ),
    ]:
        assert answer.status_code == 400
        assert answer.json()["error"] == {"type": "invalid_request_error", "message": message}
    assert post(url, *four, cache_control=FIVE).status_code == 200


def test_diagnostics_say_why(url: str) -> None:
    first = post(url, block("f" * 2500, FIVE), diagnostics={"previous_message_id": None}).json()
    assert first["diagnostics"] is None
    asked = {"diagnostics": {"previous_message_id": first["id"]}}
    assert post(url, block("f" * 2500, FIVE), block("more"), **asked).json()["diagnostics"] in (
        None,
        {"cache_miss_reason": None},
    )
    assert post(url, block("g" * 2500, FIVE), **asked).json()["diagnostics"] == {
        "cache_miss_reason": {"type": "messages_changed", "cache_missed_input_tokens": 2502}
    }
    assert post(url, block("f" * 2500, FIVE), key="other", **asked).json()["diagnostics"] == {
        "cache_miss_reason": {"type": "previous_message_not_found"}
    }


def sized(model: LoadedModel, tokens: int) -> str:
    """A first block that ends after exactly so many tokens."""

    def end(text: str) -> int:
        turn = Turn("senryu-mini", (Message("user", (Text(text), Text("Define it."))),), 8)
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
    mini = load_model(settings, "mini")
    with serving(mini) as url:
        short, long = sized(mini, 2047), sized(mini, 2048)
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
