"""The rules of prompt caching on the bundled model, over real sockets: what a bill says is what the engine did."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest

from senryu import kernels
from senryu.config import load_settings
from senryu.service.registry import LoadedModel, load_model
from senryu.service.turn import Service
from serving import serving

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(kernels.available()[0] == "numpy", reason="too long without compiled kernels"),
]
FIVE, HOUR = {"type": "ephemeral"}, {"type": "ephemeral", "ttl": "1h"}
LONG = "The harbour of Ithra has two piers, a crane, a lighthouse and a customs house built of grey stone. " * 120
POOL = 16_000  # tokens of K/V: a long prompt pushes another out
Usage = dict[str, int]
Ask = Callable[..., tuple[Usage, Any]]
seconds = 1000.0


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    settings = load_settings({"SENRYU_HOME": str(tmp_path_factory.mktemp("home"))})
    tokens_gb = 8 * 64 * 2 * (1 + 4 / 64) / 1e9  # layers, head size, K and V, a byte each and a scale for each head
    return load_model(replace(settings, kv_cache_gb=POOL * tokens_gb, kv_spill_gb=0.0), "mini")


@pytest.fixture(scope="module")
def ask(mini: LoadedModel) -> Iterator[Ask]:
    """Asks under a clock that tests move; every bill adds up to what is counted."""
    init = Service.__init__

    def with_clock(self: Service, *args: Any, **how: Any) -> None:
        init(self, *args, **{**how, "clock": lambda: seconds})

    def asked(*blocks: Any, **fields: Any) -> tuple[Usage, Any]:
        body: dict[str, Any] = {"model": "senryu-mini", "messages": [{"role": "user", "content": list(blocks)}], **fields}
        counted = http.post("/v1/messages/count_tokens", json=body).json()
        answer = http.post("/v1/messages", json={**body, "max_tokens": 8, "temperature": 0})
        if answer.status_code != 200:
            return {}, answer.json()["error"]["message"]
        usage, split = answer.json()["usage"], answer.json()["usage"]["cache_creation"]
        bill = {
            "read": usage["cache_read_input_tokens"],
            "five": split["ephemeral_5m_input_tokens"],
            "hour": split["ephemeral_1h_input_tokens"],
            "rest": usage["input_tokens"],
        }
        assert counted == {"input_tokens": sum(bill.values())}
        return bill, answer.json()["content"]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Service, "__init__", with_clock)
        with serving(mini) as url:
            http = httpx.Client(base_url=url, headers={"anthropic-version": "2023-06-01"}, timeout=120)
            yield asked
            http.close()


def later(more: float) -> None:
    global seconds
    seconds += more


def block(words: str, marker: Any = None) -> dict[str, Any]:
    return {"type": "text", "text": words} | ({"cache_control": marker} if marker else {})


@pytest.mark.parametrize(("between", "hit"), [(19, True), (20, False)])
def test_a_breakpoint_looks_back_over_twenty_positions(ask: Ask, between: int, hit: bool) -> None:
    head = f"{between} {LONG}"
    written, _ = ask(block(head, FIVE))
    assert written["five"] > 2048
    blocks = [block(f"word {number}") for number in range(between - 1)]
    again, _ = ask(block(head), *blocks, block("the last", FIVE))
    assert again["read"] == (written["five"] if hit else 0)
    assert again["five"] > 0


def test_breakpoints_are_counted_and_ordered(ask: Ask) -> None:
    _, error = ask(*(block(f"{LONG} {number}", FIVE) for number in range(5)))
    assert error == "A maximum of 4 blocks with cache_control may be provided. Found 5."
    _, error = ask(block(LONG, FIVE), block("x", HOUR))
    assert "a ttl='1h' cache_control block must not come after a ttl='5m' cache_control block" in error
    bill, _ = ask(block("Mixed. " + LONG, HOUR), block("tail", FIVE))
    assert bill["hour"] > 2048
    assert bill["five"] > 0


@pytest.mark.parametrize(("marker", "kind", "ttl"), [(FIVE, "five", 300), (HOUR, "hour", 3600)])
def test_entries_expire_and_reads_refresh_them(ask: Ask, marker: Any, kind: str, ttl: int) -> None:
    blocks = block(f"Alive {kind}. {LONG}", marker), block("?")
    written, text = ask(*blocks)
    for _ in range(2):
        later(ttl - 1)
        read, again = ask(*blocks)
        assert (read["read"], read[kind], again) == (written[kind], 0, text)
    later(ttl + 1)
    gone, again = ask(*blocks)
    assert (gone["read"], gone[kind], again) == (0, written[kind], text)


def test_another_tool_choice_keeps_tools_and_system(ask: Ask) -> None:
    tool = {"name": "look", "description": LONG, "input_schema": {"type": "object"}, "cache_control": FIVE}
    fields = {"tools": [tool], "system": [block("Chosen. " + LONG, FIVE)]}
    said = block(LONG, FIVE), block("?")
    first, error = ask(*said, **fields, tool_choice={"type": "auto"})
    assert first, error
    other, _ = ask(*said, **fields, tool_choice={"type": "none"})
    assert first["read"] == 0
    assert 0.6 * first["five"] < other["read"] < 0.7 * first["five"]
    assert other["read"] + other["five"] == first["five"]


def test_answers_are_the_same_with_breakpoints_and_without(ask: Ask) -> None:
    words = "Same. " + LONG
    plain, unmarked = ask(block(words), block("What is there?"))
    assert (plain["read"], plain["five"]) == (0, 0)
    assert [ask(block(words, FIVE), block("What is there?"))[1] for _ in range(2)] == [unmarked] * 2


def test_what_was_evicted_is_written_again(ask: Ask, mini: LoadedModel) -> None:
    blocks = block("Evicted. " + LONG, FIVE), block("?")
    written, text = ask(*blocks)
    room = mini.engine.stats().pages_total * 64 - 100
    words = LONG * (room // written["five"])
    pushed, _ = ask(block(f"Another. {words}{LONG[: (room % written['five']) * 2]}"))
    assert pushed["rest"] > room - written["five"]
    again, same = ask(*blocks)
    assert again["read"] < written["five"]
    assert (again["read"] + again["five"], same) == (written["five"], text)
    assert ask(*blocks)[0]["read"] == written["five"]
