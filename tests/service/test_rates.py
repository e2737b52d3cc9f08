"""Rates: never more than a bucket and its refill, never a wait that is too short or too long; and what turns take of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from senryu.config import Settings
from senryu.errors import SenryuError
from senryu.ledger.rows import UsageRow
from senryu.service.rates import KEPT, MINUTE, SECOND, Kind, Rates
from senryu.service.registry import LoadedModel, Registry
from senryu.service.turn import Service
from senryu.types import BlockStarted, CacheControl, Event, Finished, Message, Text, Turn
from serving import Clock, says, scripted_model

TURN = Turn("senryu-mini", (Message("user", (Text("Hi"),)),), 64, tenant="t")  # six tokens
HELLO = "Hello"  # five tokens and an end
KINDS: tuple[Kind, ...] = ("requests", "input tokens", "output tokens")
WAITS = st.one_of(st.integers(0, 2 * MINUTE), st.integers(0, 5).map(lambda seconds: seconds * SECOND))


def refused(rates: Rates, needs: dict[Kind, int], tenant: str = "t") -> SenryuError | None:
    try:
        rates.check(tenant, needs)
    except SenryuError as error:
        return error
    return None


@given(st.integers(1, 10_000), st.lists(st.tuples(WAITS, st.integers(1, 10_000)), max_size=30))
def test_no_window_has_more_than_a_bucket_and_its_refill(limit: int, asked: list[tuple[int, int]]) -> None:
    clock = Clock()
    rates = Rates({"requests": limit}, clock)
    taken: list[tuple[int, int]] = []
    for wait, amount in asked:
        clock.now += wait
        left = rates.standing("t")["requests"].remaining
        assert 0 <= left <= limit
        error = refused(rates, {"requests": amount})
        assert (error is None) == (amount <= left), "what is said to remain is what may be taken"
        if error is None:
            rates.charge("t", "requests", amount)
            taken.append((clock.now, amount))
    for first, (begin, _) in enumerate(taken):
        for last, (end, _) in enumerate(taken[first:], first):
            together = sum(amount for _, amount in taken[first : last + 1])
            assert together * MINUTE <= limit * MINUTE + limit * (end - begin)


@given(
    st.dictionaries(st.sampled_from(KINDS), st.integers(1, 5_000), min_size=1),
    st.lists(st.tuples(WAITS, st.sampled_from(KINDS), st.integers(-500, 5_000)), max_size=20),
    st.dictionaries(st.sampled_from(KINDS), st.integers(0, 5_000), min_size=1),
)
def test_the_wait_is_enough_and_no_second_longer(
    limits: dict[Kind, int], charged: list[tuple[int, Kind, int]], needs: dict[Kind, int]
) -> None:
    clock = Clock()
    rates = Rates(limits, clock)
    for wait, kind, amount in charged:
        clock.now += wait
        rates.charge("t", kind, amount)
        for standing in rates.standing("t").values():
            assert 0 <= standing.remaining <= standing.limit
            assert standing.full_in >= 0
    error = refused(rates, needs)
    if error is None:
        return
    if error.code == "rate_never":
        kind = error.values["what"]
        assert needs[kind] > limits[kind]  # type: ignore[index]
        return
    wait = error.values["retry_after"]
    assert isinstance(wait, int)
    assert wait >= 1
    clock.now += (wait - 1) * SECOND
    assert refused(rates, needs)
    clock.now += SECOND
    assert not refused(rates, needs)


@given(st.integers(1, 10_000), st.lists(st.tuples(WAITS, st.integers(-500, 5_000)), min_size=1, max_size=20))
def test_a_bucket_is_full_when_it_says(limit: int, charged: list[tuple[int, int]]) -> None:
    clock = Clock()
    rates = Rates({"output tokens": limit}, clock)
    for wait, amount in charged:
        clock.now += wait
        rates.charge("t", "output tokens", amount)
    full_in = rates.standing("t")["output tokens"].full_in
    clock.now += full_in
    assert rates.standing("t")["output tokens"].remaining == limit
    if full_in:
        clock.now -= 1
        assert rates.standing("t")["output tokens"].remaining < limit


def test_what_is_given_back_fills_no_more_than_the_bucket() -> None:
    rates = Rates({"input tokens": 100}, Clock())
    rates.charge("t", "input tokens", 60)
    rates.charge("t", "input tokens", -30)
    assert rates.standing("t")["input tokens"].remaining == 70
    rates.charge("t", "input tokens", -300)
    rates.charge("t", "input tokens", 1)
    assert rates.standing("t")["input tokens"].remaining == 99


def test_tenants_are_apart_and_a_refusal_names_what_keeps_it_longest() -> None:
    rates = Rates({"requests": 60, "input tokens": 1000}, Clock())
    rates.charge("t", "requests", 60)
    rates.charge("t", "input tokens", 1000)
    error = refused(rates, {"requests": 1, "input tokens": 500})
    assert error is not None
    assert (error.status, error.type) == (429, "rate_limit_error")
    assert (
        error.message
        == "This request would exceed the rate limit for your key of 1,000 input tokens per minute. Try again in 30 s."
    )
    assert not refused(rates, {"requests": 1, "input tokens": 500}, "u")


def test_what_no_wait_admits_says_so() -> None:
    error = refused(Rates({"input tokens": 1000}, Clock()), {"input tokens": 1001})
    assert error is not None
    assert (error.code, error.status, error.type) == ("rate_never", 429, "rate_limit_error")
    assert "retry_after" not in error.values


def test_without_limits_nothing_is_kept_or_told() -> None:
    rates = Rates(dict.fromkeys(KINDS, 0))
    for kind in KINDS:
        rates.charge("t", kind, 10**12)
    assert not refused(rates, dict.fromkeys(KINDS, 10**12))
    assert rates.standing("t") == {}
    assert not rates._full_at


def test_idle_tenants_are_forgotten_and_busy_ones_are_not() -> None:
    clock = Clock()
    rates = Rates({"requests": 60}, clock)  # a request is forgotten after a second
    rates.charge("debtor", "requests", 60 * 60 * 24)
    for number in range(50 * KEPT):
        clock.now += SECOND // 10
        rates.charge(f"tenant {number}", "requests", 1)
        assert len(rates._full_at) <= KEPT + 1
    assert refused(rates, {"requests": 1}, "debtor")


# turns


class Asking:
    """A service whose rates' clock stands still."""

    def __init__(self, model: LoadedModel, limits: dict[Kind, int]) -> None:
        self.model, self.clock, self.rows = model, Clock(), list[UsageRow]()
        self.rates = Rates(limits, self.clock)
        self.service = Service(Registry([model]), Settings(home=Path("unused")), self.rows.append, rates=self.rates)

    async def __call__(self, turn: Turn = TURN, until: type[Event] = Finished) -> Finished | None:
        """The last event; None where the caller leaves earlier."""
        async with aclosing(self.service.run(turn)) as events:
            async for event in events:
                if isinstance(event, until):
                    return event if isinstance(event, Finished) else None
        raise AssertionError("no such event")

    def left(self, kind: Kind) -> int:
        return self.rates.standing("t")[kind].remaining


@asynccontextmanager
async def asking(model: LoadedModel, **limits: int) -> AsyncIterator[Asking]:
    """limits: requests, input, output."""
    named = dict(zip(KINDS, (limits.get(name, 0) for name in ("requests", "input", "output")), strict=True))
    try:
        yield Asking(model, named)
    finally:
        await model.engine.close()


def marked(*texts: str) -> Turn:
    """A prompt whose texts but the last are marked."""
    blocks = [Text(text, CacheControl()) for text in texts[:-1]] + [Text(texts[-1])]
    return replace(TURN, messages=(Message("user", tuple(blocks)),))


def test_a_turn_takes_a_request_its_prompt_and_its_answer() -> None:
    async def main() -> None:
        async with asking(scripted_model(says(HELLO)), requests=2, input=100, output=100) as ask:
            await ask()
            assert [ask.left(kind) for kind in KINDS] == [1, 94, 94]
            await ask(replace(TURN, max_tokens=3))
            assert [ask.left(kind) for kind in KINDS] == [0, 88, 91]
            for _ in range(3):
                with pytest.raises(SenryuError, match=r"key of 2 requests per minute\. Try again in 30 s\."):
                    await ask()
            assert [ask.left(kind) for kind in KINDS] == [0, 88, 91], "what is refused takes nothing"
            assert len(ask.rows) == 2, "and leaves no row"
            ask.clock.now += 30 * SECOND
            await ask()

    asyncio.run(main())


def test_what_breaks_a_rule_is_told_so_and_takes_nothing() -> None:
    async def main() -> None:
        async with asking(scripted_model(says(HELLO)), requests=1) as ask:
            with pytest.raises(SenryuError, match="max_tokens: 8193 > 8192"):
                await ask(replace(TURN, max_tokens=8193))
            await ask.service.count_tokens(TURN)
            await ask()

    asyncio.run(main())


def test_what_is_read_from_the_cache_is_free() -> None:
    async def main() -> None:
        async with asking(scripted_model(says(HELLO)), input=5000) as ask:
            first = await ask(marked("b" * 3000, "?"))
            assert first
            written = first.usage.cache_write_5m
            assert ask.left("input tokens") == 5000 - written - first.usage.input_tokens
            with pytest.raises(SenryuError, match="5,000 input tokens"):
                await ask(marked("c" * 3000, "?"))  # as long, but not in the cache
            second = await ask(marked("b" * 3000, "!"))
            assert second
            assert second.usage.cache_read == written
            assert ask.left("input tokens") == 5000 - written - 2 * first.usage.input_tokens
            longer = await ask(marked("b" * 3000, "d" * 1000, "?"))
            assert longer
            assert longer.usage.cache_write_5m >= 1000

    asyncio.run(main())


def test_what_was_to_be_read_and_is_gone_is_charged_when_that_is_known() -> None:
    async def main() -> None:
        async with asking(scripted_model(says(HELLO)), input=5000) as ask:
            first = await ask(marked("b" * 3000, "?"))
            assert first
            other = scripted_model(says(HELLO))  # whose engine has not computed it
            ask.service.registry = Registry([other])
            left = ask.left("input tokens")
            assert left < 3000
            again = await ask(marked("b" * 3000, "?"))
            assert again
            assert again.usage.cache_read == 0
            assert ask.left("input tokens") == 0
            with pytest.raises(SenryuError) as caught:
                await ask()
            over = again.usage.cache_write_5m + again.usage.input_tokens - left
            assert caught.value.values["retry_after"] == -(-(over + 6) * 60 // 5000)
            await other.engine.close()

    asyncio.run(main())


def test_an_answer_is_not_cut_and_the_next_waits_for_it() -> None:
    async def main() -> None:
        async with asking(scripted_model(), output=10) as ask:
            answer = await ask()
            assert answer
            assert (answer.stop_reason, answer.usage.output_tokens) == ("max_tokens", 64)
            with pytest.raises(SenryuError, match="10 output tokens per minute") as caught:
                await ask()
            assert caught.value.values["retry_after"] == (64 - 10 + 1) * 6
            ask.clock.now += 330 * SECOND
            await ask(replace(TURN, max_tokens=1))

    asyncio.run(main())


def test_only_what_was_written_counts() -> None:
    async def main() -> None:
        async with asking(scripted_model(seconds_per_step=0.01), output=1000) as ask:
            await ask(replace(TURN, max_tokens=500), until=BlockStarted)
            (row,) = ask.rows
            assert 1 <= row.usage.output_tokens < 500
            assert ask.left("output tokens") == 1000 - row.usage.output_tokens

    asyncio.run(main())


def test_reading_into_the_cache_needs_no_output() -> None:
    async def main() -> None:
        async with asking(scripted_model(), output=10) as ask:
            await ask()
            warm = await ask(replace(marked("b" * 3000, "?"), max_tokens=0))
            assert warm
            assert warm.usage.output_tokens == 0

    asyncio.run(main())


def test_batches_are_beside_the_rates() -> None:
    async def main() -> None:
        async with asking(scripted_model(says(HELLO)), requests=1, input=10, output=10) as ask:
            batch = replace(TURN, priority="batch")
            await ask(batch)
            assert [ask.left(kind) for kind in KINDS] == [1, 10, 10]
            await ask()
            await ask(batch)

    asyncio.run(main())


def test_many_at_once_are_exactly_as_many_as_may_be() -> None:
    async def main() -> None:
        async with asking(scripted_model(says(HELLO)), requests=10) as ask:
            ended: list[Any] = await asyncio.gather(*(ask() for _ in range(50)), return_exceptions=True)
            assert sum(isinstance(one, Finished) for one in ended) == 10
            assert {one.code for one in ended if isinstance(one, SenryuError)} == {"rate_limited"}
            assert len(ask.rows) == 10
            assert ask.service.admission.active == 0
            ask.clock.now += 12 * SECOND
            for _ in range(5):
                with suppress(SenryuError):
                    await ask()
            assert len(ask.rows) == 12

    asyncio.run(main())
