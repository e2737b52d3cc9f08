"""The engine as asyncio sees it: events, aborts, failures, close. Over the fake program, with pages checked every step."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, asynccontextmanager

import pytest
from stepping import request, solo

from senryu.engine.fake import FakeEngine, FakeProgram
from senryu.engine.interface import Breakpoint, EngineClosed, TokenEvent
from senryu.engine.local import LocalEngine


@asynccontextmanager
async def engine(reply=None, **options):
    made = FakeEngine(reply, check=True, **{"pages": 256, **options})
    try:
        yield made
    finally:
        await made.close()
        stats = made.stats()
        assert stats.pages_free + stats.pages_cached == stats.pages_total
        assert stats.running == stats.queued == stats.pages_live == 0


async def collect(made, wanted) -> tuple[list[int], list[TokenEvent]]:
    events = [event async for event in made.generate(wanted)]
    return [token for event in events for token in event.tokens], events


async def settled(made, *, running: int = 0, queued: int = 0) -> None:
    """Wait until the engine has taken in what was asked of it."""
    while (made.stats().running, made.stats().queued) != (running, queued):
        await asyncio.sleep(0.001)


def run(main):
    """Run an async test with a limit: a hang is a failure."""

    def test() -> None:
        asyncio.run(asyncio.wait_for(main(), 30))

    test.__name__ = main.__name__
    return test


@run
async def test_one_request() -> None:
    async with engine() as made:
        wanted = request(range(100, 300), 20)
        tokens, events = await collect(made, wanted)
        assert tokens == solo(wanted)
        assert [event.finish for event in events] == [None] * (len(events) - 1) + ["length"]
        assert all(event.tokens for event in events)
        _, events = await collect(made, wanted)
        assert {event.cached for event in events} == {199}
        stats = made.stats()
        assert (stats.prompt_tokens, stats.cached_tokens, stats.output_tokens) == (400, 199, 40)


@run
async def test_a_request_with_a_breakpoint_first_hears_what_was_cached() -> None:
    async with engine(max_rows=64, step_seconds=0.001, seconds_per_row=0.0001) as made:
        plain, marked = (request(range(100, 900), 20, breakpoints=points) for points in ((), (Breakpoint(700, 300.0),)))
        for cached in (0, 799):
            tokens, events = await collect(made, marked)
            assert tokens == solo(plain)
            assert events[0] == TokenEvent((), cached)
            assert all(event.tokens for event in events[1:])
            assert [event.finish for event in events] == [None] * (len(events) - 1) + ["length"]
        other = request([*range(100, 801), *range(2000, 2500)], 4, breakpoints=(Breakpoint(701, 300.0),))
        stream = made.generate(other)
        assert await anext(stream) == TokenEvent((), 701)  # 10 full pages and 61 tokens
        await asyncio.sleep(0.2)  # whatever comes while nobody listens does not change it
        assert [token async for event in stream for token in event.tokens] == solo(other)


@run
async def test_an_engine_that_fails_after_the_beginning_says_both() -> None:
    async with engine(seconds_per_step=0.05) as made:
        stream = made.generate(request(range(100, 200), 500, breakpoints=(Breakpoint(64, 300.0),)))
        assert await anext(stream) == TokenEvent((), 0)
        await made.close()
        with pytest.raises(EngineClosed):
            async for _ in stream:
                pass


@run
async def test_scripted_replies() -> None:
    async with engine(lambda wanted: [200 + wanted.ids[0], 201, 2]) as made:
        tokens, events = await collect(made, request([70, 71], 100, stop=[2]))
        assert tokens == [270, 201, 2]
        assert events[-1].finish == "stop"
        tokens, _ = await collect(made, request([72], 100, stop=[2], seed=5))
        assert tokens == [272, 201, 2]


@run
async def test_two_hundred_streams() -> None:
    async with engine(pages=512) as made:
        wanted = [request(range(100 + i % 7, 200 + i), 20, seed=i) for i in range(200)]
        answers = await asyncio.gather(*(collect(made, one) for one in wanted))
        assert [tokens for tokens, _ in answers] == [solo(one) for one in wanted]
        assert made.stats().output_tokens == 200 * 20


@run
async def test_the_pool_is_smaller_than_what_is_asked() -> None:
    async with engine(pages=6) as made:
        wanted = [request(range(100 + i, 300 + i), 60) for i in range(10)]
        answers = await asyncio.gather(*(collect(made, one) for one in wanted))
        assert [tokens for tokens, _ in answers] == [solo(one) for one in wanted]


@run
async def test_closing_the_iterator_aborts() -> None:
    async with engine(seconds_per_step=0.002) as made:
        async with aclosing(made.generate(request(range(100, 200), 5000))) as events:
            async for _ in events:
                break
        await settled(made)
        assert made.stats().pages_live == 0
        assert made.stats().output_tokens < 5000


@run
async def test_cancelling_the_consumer_aborts_whether_queued_prefilling_or_decoding() -> None:
    async with engine(pages=64, max_sequences=2, max_rows=64, seconds_per_step=0.002, step_seconds=0.01) as made:
        decoding = asyncio.create_task(collect(made, request(range(100, 200), 1500)))
        prefilling = asyncio.create_task(collect(made, request(range(64, 2064), 10)))
        queued = asyncio.create_task(collect(made, request(range(100, 200), 10)))
        survivor = asyncio.create_task(collect(made, request(range(300, 400), 10)))
        await settled(made, running=2, queued=2)
        for task in (queued, prefilling, decoding):
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        tokens, _ = await survivor
        assert tokens == solo(request(range(300, 400), 10))
        await settled(made)


@run
async def test_neighbours_do_not_notice_aborts() -> None:
    async with engine(pages=128, seconds_per_step=0.001) as made:
        wanted = [request(range(100, 200 + i), 40) for i in range(10)]
        keep = [asyncio.create_task(collect(made, one)) for one in wanted]
        drop = [asyncio.create_task(collect(made, request(range(100, 210 + i), 400))) for i in range(10)]
        for task in drop:
            await asyncio.sleep(0.003)
            task.cancel()
        answers = await asyncio.gather(*keep)
        assert [tokens for tokens, _ in answers] == [solo(one) for one in wanted]


@run
async def test_an_iterator_that_is_never_asked_costs_nothing() -> None:
    async with engine() as made:
        made.generate(request([70]))
        await collect(made, request([70]))
        assert made.stats().prompt_tokens == 1


@run
async def test_requests_that_can_never_run() -> None:
    async with engine(max_context=100) as made:
        assert made.max_context == 100
        foreign = [request([token]) for token in (4096, -1, 1 << 40)]
        for bad in (*foreign, request(range(70, 140), 31), request([], 1), request([70], 0)):
            with pytest.raises(ValueError, match=r"tokens|id"):
                made.generate(bad)
        tokens, _ = await collect(made, request(range(70, 140), 30))
        assert len(tokens) == 30


@run
async def test_max_context_follows_the_pool_and_the_model() -> None:
    for options, expected in (({"pages": 4}, 256), ({"max_position": 200}, 200), ({"max_context": 1 << 30, "pages": 4}, 256)):
        async with engine(**options) as made:
            assert made.max_context == expected


@run
async def test_close_while_running_and_after() -> None:
    made = FakeEngine(check=True, seconds_per_step=0.002, max_sequences=2)
    tasks = [asyncio.create_task(collect(made, request(range(100, 200), 5000))) for _ in range(4)]
    await settled(made, running=2, queued=2)
    await made.close()
    for task in tasks:
        with pytest.raises(EngineClosed):
            await task
    with pytest.raises(EngineClosed):
        await collect(made, request([70]))
    assert made.program.closed
    assert made.closed is not None
    assert made.closed.__cause__ is None
    assert made.stats().pages_live == 0
    await made.close()


class Faulty(FakeProgram):
    """Fails when it sees the token 666, and once more in a way of the caller's choosing."""

    result = None

    def step(self, batch):
        if 666 in batch.tokens:
            raise FloatingPointError("no such number")
        return super().step(batch) if self.result is None else self.result


@run
async def test_a_step_that_raises_fails_its_requests_only() -> None:
    made = LocalEngine(Faulty(pages=64), check=True)
    with pytest.raises(RuntimeError, match="no such number"):
        await collect(made, request([100, 666]))
    wanted = request(range(100, 200))
    assert (await collect(made, wanted))[0] == solo(wanted)
    await made.close()


@run
async def test_a_defect_of_the_engine_closes_it_loudly() -> None:
    program = Faulty(pages=64)
    program.result = []  # not an array
    made = LocalEngine(program, check=True)
    assert made.closed is None
    with pytest.raises(EngineClosed, match="has failed"):
        await collect(made, request([100]))
    assert made.closed is not None
    assert made.closed.__cause__ is not None
    with pytest.raises(EngineClosed, match="has failed"):
        await collect(made, request([100]))
    await made.close()


def test_consumers_on_another_loop_that_has_gone_are_forgotten() -> None:
    made = FakeEngine(check=True, seconds_per_step=0.001)

    async def leave() -> None:
        iterator = made.generate(request(range(100, 200), 5000))
        await anext(iterator)
        kept.append(iterator)

    kept: list[object] = []
    loop = asyncio.new_event_loop()
    loop.run_until_complete(leave())
    loop.close()

    async def stay() -> None:
        await settled(made)
        wanted = request(range(300, 400))
        assert (await collect(made, wanted))[0] == solo(wanted)
        await made.close()

    asyncio.run(asyncio.wait_for(stay(), 30))
