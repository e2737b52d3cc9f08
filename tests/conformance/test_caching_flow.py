"""Reference 2.2 to 2.12: what is written, what is read, for how long, and what is billed. One token is one byte here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from asking import EPHEMERAL, HAIKU, HOUR, TOOL, Asked, body, text

from senryu.service.turn import Service
from serving import scripted_model, serving

LONG = "All of this is to be kept. " * 100  # 2,700 tokens
SAME_TTL = "A maximum of 4 blocks with cache_control may be provided. Found 5."


@dataclass
class Clock:
    """Seconds; time passes when a test says so."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


CLOCK = Clock()


@pytest.fixture(scope="module")
def model() -> Iterator[Asked]:
    """A model that invents tokens from all that it has read, so that a wrong page would show."""
    init = Service.__init__

    def with_clock(self: Service, *args: Any, **how: Any) -> None:
        init(self, *args, **{**how, "clock": CLOCK})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Service, "__init__", with_clock)
        with serving(scripted_model(pages=8192)) as url:
            yield Asked(url)


@pytest.fixture
def fresh(request: pytest.FixtureRequest) -> str:
    """A beginning that no other test has."""
    return f"{request.node.name}. "


def prompt(system: Any, *blocks: Any, **fields: Any) -> dict[str, Any]:
    said = [*blocks] or [text("Hi")]
    return body(max_tokens=2, temperature=0, system=system, messages=[{"role": "user", "content": said}], **fields)


def kept(words: str, marker: Any = EPHEMERAL) -> list[dict[str, Any]]:
    return [text(words, cache_control=marker)]


@dataclass(frozen=True)
class Billed:
    """Tokens as billed."""

    plain: int
    five: int
    hour: int
    read: int

    @property
    def prompt(self) -> int:
        """All of them."""
        return self.plain + self.five + self.hour + self.read


def billed(usage: dict[str, Any]) -> Billed:
    split = usage["cache_creation"]
    five, hour = split["ephemeral_5m_input_tokens"], split["ephemeral_1h_input_tokens"]
    assert usage["cache_creation_input_tokens"] == five + hour
    return Billed(usage["input_tokens"], five, hour, usage["cache_read_input_tokens"])


def ask(model: Asked, value: dict[str, Any], headers: Any = ()) -> Billed:
    """The bill; the parts add up to what is counted."""
    bill = billed(model.message(value, headers=headers)["usage"])
    counted = {key: part for key, part in value.items() if key not in ("max_tokens", "temperature", "diagnostics")}
    assert model.post(counted, "/v1/messages/count_tokens").json() == {"input_tokens": bill.prompt}
    return bill


def test_a_prefix_is_written_once_then_read(model: Asked, fresh: str) -> None:
    value = prompt(kept(fresh + LONG))
    first, second = ask(model, value), ask(model, value)
    assert (first.read, first.hour) == (0, 0)
    assert first.five > len(LONG)
    assert first.plain < 20
    assert second == Billed(first.plain, 0, 0, first.five)


def test_an_hour(model: Asked, fresh: str) -> None:
    first = ask(model, prompt(kept(fresh + LONG, HOUR)))
    assert (first.five, first.hour > len(LONG)) == (0, True)


def test_the_hour_first_then_five_minutes(model: Asked, fresh: str) -> None:
    value = prompt([*kept(fresh + LONG, HOUR), *kept(LONG)])
    first = ask(model, value)
    assert first.hour > len(LONG)
    assert first.five >= len(LONG)
    assert ask(model, value).read == first.hour + first.five


def test_2047_tokens_are_not_kept_and_2048_are(model: Asked, fresh: str) -> None:
    around = ask(model, prompt(kept(fresh + "x" * 3000))).five - len(fresh) - 3000
    for length, written in ((2047, 0), (2048, 2048)):
        words = f"{length} {fresh}{'x' * length}"[: length - around]
        first = ask(model, prompt(kept(words)))
        assert (first.five, first.read) == (written, 0)
        assert ask(model, prompt(kept(words))).read == written


@pytest.mark.parametrize(("more", "hit"), [(19, True), (20, False)])
def test_a_breakpoint_looks_back_over_20_positions_itself_counted(model: Asked, fresh: str, more: int, hit: bool) -> None:
    start = text(f"{fresh}{LONG}")
    written = ask(model, prompt("s", {**start, "cache_control": EPHEMERAL})).five
    blocks = [text(f"block {i}") for i in range(more)]
    blocks[-1]["cache_control"] = EPHEMERAL
    assert ask(model, prompt("s", start, *blocks)).read == (written if hit else 0)


def test_the_next_earlier_breakpoint_looks_on(model: Asked, fresh: str) -> None:
    start = text(f"{fresh}{LONG}")
    written = ask(model, prompt("s", {**start, "cache_control": EPHEMERAL})).five
    blocks = [text(f"block {i}") for i in range(25)]
    blocks[10]["cache_control"] = blocks[-1]["cache_control"] = EPHEMERAL
    assert ask(model, prompt("s", start, *blocks)).read == written


def test_only_marked_places_are_written(model: Asked, fresh: str) -> None:
    """Equal beginnings alone are no entry."""
    ask(model, prompt(f"{fresh}{LONG}"))
    assert ask(model, prompt(kept(fresh + LONG))).read == 0


def test_the_longest_hit_wins(model: Asked, fresh: str) -> None:
    both = [*kept(fresh + LONG), *kept(LONG)]
    first = ask(model, prompt(both))
    assert ask(model, prompt(both[:1])).read > len(LONG)
    assert ask(model, prompt(both)).read == first.five


@pytest.mark.parametrize(("marker", "seconds"), [(EPHEMERAL, 300), (HOUR, 3600)])
def test_an_entry_lives_from_the_start_of_its_request(model: Asked, fresh: str, marker: Any, seconds: int) -> None:
    value = prompt(kept(fresh + LONG, marker))
    ask(model, value)
    CLOCK.now += seconds - 1
    assert ask(model, value).read > 0
    CLOCK.now += seconds - 1  # the read was free and has made it live as long again
    assert ask(model, value).read > 0
    CLOCK.now += seconds + 1
    gone = ask(model, value)
    assert gone.read == 0
    assert gone.five + gone.hour > 0


TOOLS = [{**TOOL, "description": LONG, "cache_control": EPHEMERAL}]


def full(fresh: str, **fields: Any) -> dict[str, Any]:
    """Breakpoints behind tools, system and messages."""
    tools = [{**TOOLS[0], "description": fresh + LONG}]
    return prompt(kept(LONG), text(LONG, cache_control=EPHEMERAL), text("?"), **{"tools": tools, **fields})


def test_another_choice_keeps_tools_and_system(model: Asked, fresh: str) -> None:
    first = ask(model, full(fresh))
    for choice in ({"type": "none"}, {"type": "auto", "disable_parallel_tool_use": True}):
        again = ask(model, full(fresh, tool_choice=choice))
        assert again.read == pytest.approx(2 * first.five / 3, rel=0.1)
        assert again.five > len(LONG) / 2


def test_other_tools_keep_nothing(model: Asked, fresh: str) -> None:
    ask(model, full(fresh))
    assert ask(model, full("Other. " + fresh)).read == 0


def test_another_system_prompt_keeps_the_tools(model: Asked, fresh: str) -> None:
    first = ask(model, full(fresh))
    again = ask(model, {**full(fresh), "system": kept("Other. " + LONG)})
    assert again.read == pytest.approx(first.five / 3, rel=0.2)


def test_the_order_of_keys_in_a_call_counts(model: Asked, fresh: str) -> None:
    def value(call: dict[str, Any]) -> dict[str, Any]:
        use = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": call}
        result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "x", "cache_control": EPHEMERAL}
        history = [
            {"role": "user", "content": fresh + LONG},
            {"role": "assistant", "content": [use]},
            {"role": "user", "content": [result]},
        ]
        return {**prompt("s"), "messages": history}

    ask(model, value({"a": 1, "b": 2}))
    assert ask(model, value({"b": 2, "a": 1})).read == 0
    assert ask(model, value({"a": 1, "b": 2})).read > 0


def test_reading_the_prompt_only(model: Asked, fresh: str) -> None:
    value = {**prompt(kept(fresh + LONG)), "max_tokens": 0}
    message = model.message(value)
    assert (message["content"], message["stop_reason"], message["usage"]["output_tokens"]) == ([], "max_tokens", 0)
    written = billed(message["usage"]).five
    assert written > len(LONG)
    assert ask(model, {**value, "max_tokens": 2}).read == written


def test_automatic_caching_marks_the_last_block(model: Asked, fresh: str) -> None:
    value = prompt("s", text(fresh + LONG), cache_control=EPHEMERAL)
    first = ask(model, value)
    assert first.five > len(LONG)
    assert ask(model, value).read == first.five
    marked = prompt("s", text(fresh + LONG, cache_control=EPHEMERAL), cache_control=EPHEMERAL)
    assert ask(model, marked).read == first.five


def test_automatic_caching_takes_one_of_four_places(model: Asked) -> None:
    four = [text(str(i), cache_control=EPHEMERAL) for i in range(4)]
    assert model.refusal(prompt("s", *four, text("x"), cache_control=EPHEMERAL)) == SAME_TTL
    ask(model, prompt("s", *four, cache_control=EPHEMERAL))
    assert "ttl" in model.refusal(prompt("s", text("x", cache_control=EPHEMERAL), cache_control=HOUR))


def test_every_key_has_a_cache_of_its_own(model: Asked, fresh: str) -> None:
    value = prompt(kept(fresh + LONG))
    for key in ("a", "b"):
        assert ask(model, value, headers=[("x-api-key", key)]).read == 0
    assert ask(model, value, headers=[("x-api-key", "a")]).read > 0


def test_every_model_has_a_cache_of_its_own(model: Asked, fresh: str) -> None:
    value = prompt(kept(fresh + LONG))
    ask(model, value)
    assert ask(model, {**value, "model": "senryu-mini"}).read == 0
    assert ask(model, {**value, "model": "claude-3-5-haiku-latest"}).read > 0
    assert value["model"] == HAIKU


def test_a_nonce_in_the_billing_header_is_no_change(model: Asked, fresh: str) -> None:
    def value(nonce: str) -> dict[str, Any]:
        head = text(f"x-anthropic-billing-header: cc_version=2.1; cch={nonce};")
        return prompt([head, *kept(fresh + LONG)])

    ask(model, value("abc"))
    assert ask(model, value("xyz")).read > len(LONG)


def test_the_bill_is_right_when_a_stream_starts(model: Asked, fresh: str) -> None:
    value = prompt(kept(fresh + LONG))
    for _ in range(2):
        start = model.events(value)[0]["message"]["usage"]
        assert billed(start).prompt == ask(model, value).prompt
    assert billed(model.events(value)[0]["message"]["usage"]) == ask(model, value)
    assert billed(start).read > len(LONG)


def test_caching_changes_no_answer(model: Asked, fresh: str) -> None:
    plain = model.message({**prompt(fresh + LONG), "max_tokens": 40})["content"]
    for _ in range(2):
        assert model.message({**prompt(kept(fresh + LONG)), "max_tokens": 40})["content"] == plain


def diagnosis(model: Asked, value: dict[str, Any], previous: str | None) -> tuple[str, Any]:
    message = model.message({**value, "diagnostics": {"previous_message_id": previous}})
    return message["id"], message["diagnostics"]


def test_diagnostics(model: Asked, fresh: str) -> None:
    first, nothing = diagnosis(model, full(fresh), None)
    assert nothing is None
    assert diagnosis(model, full(fresh), first)[1] is None
    for changed, kind in (
        ({**full(fresh), "model": "senryu-mini"}, "model_changed"),
        (full("Other. " + fresh), "tools_changed"),
        ({**full(fresh), "system": kept("Other. " + LONG)}, "system_changed"),
        (
            {**full(fresh), "messages": [{"role": "user", "content": [text("Other. " + LONG, cache_control=EPHEMERAL)]}]},
            "messages_changed",
        ),
    ):
        reason = diagnosis(model, changed, first)[1]["cache_miss_reason"]
        assert reason["type"] == kind
        assert reason["cache_missed_input_tokens"] > 0
    assert diagnosis(model, full(fresh), "msg_none")[1] == {"cache_miss_reason": {"type": "previous_message_not_found"}}


def test_diagnostics_come_when_a_stream_starts(model: Asked, fresh: str) -> None:
    first, _ = diagnosis(model, full(fresh), None)
    value = {**full("Other. " + fresh), "diagnostics": {"previous_message_id": first}}
    assert model.events(value)[0]["message"]["diagnostics"]["cache_miss_reason"]["type"] == "tools_changed"
