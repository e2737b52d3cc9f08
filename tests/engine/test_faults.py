"""What a bad day does to the engine: a storm of aborts, a pool that is too small. It lives, and no page is lost."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest
from stepping import request, solo

from senryu.engine.fake import FakeEngine
from senryu.engine.interface import Breakpoint, DeadlineExceeded


async def storm(folder: Path, seconds: float, per_second: int) -> tuple[int, int]:
    """Requests that hang up at a random moment, `per_second` of them, beside some that are to be answered in full.

    Returns how many hung up and how many were answered, all of these rightly.
    """
    draw = random.Random(5)
    made = FakeEngine(
        check=True,
        pages=48,
        max_sequences=8,
        step_seconds=0.01,
        seconds_per_step=0.001,
        spill_directory=folder,
        spill_bytes=1 << 20,
    )
    hung_up = answered = 0

    def some(count: int, max_tokens: int):
        ids = [64 + (draw.randrange(4) * 1000 + i) % 4000 for i in range(count)]
        return request(
            ids,
            max_tokens,
            salt=draw.choice([b"", b"a", b"b"]),
            priority=draw.choice(["interactive", "batch"]),
            breakpoints=(Breakpoint(count, 0.05),) if draw.random() < 0.3 else (),
        )

    async def hang_up() -> None:
        nonlocal hung_up
        least = draw.randint(0, 20)
        task = asyncio.ensure_future(read(some(draw.randint(1, 600), 400), least))
        if not least:
            await asyncio.sleep(draw.random() * 0.02)
            task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        hung_up += 1

    async def read(wanted, least: int) -> None:
        async with aclosing(made.generate(wanted)) as events:
            async for _ in events:
                least -= 1
                if least <= 0:
                    return

    async def stay() -> None:
        nonlocal answered
        while time.monotonic() < end:
            wanted = replace(some(draw.randint(1, 300), 20), priority="interactive")  # batch work has no room here
            tokens = [token async for event in made.generate(wanted) for token in event.tokens]
            assert tokens == solo(wanted)
            answered += 1

    due = time.monotonic()
    end = due + seconds
    stayers = [asyncio.ensure_future(stay()) for _ in range(2)]
    callers = []
    while time.monotonic() < end:
        callers += [asyncio.ensure_future(hang_up()) for _ in range(per_second // 50)]
        due += 1 / 50  # by the clock: what starting them takes is no pause
        await asyncio.sleep(due - time.monotonic())
    await asyncio.gather(*callers, *stayers)
    while made.stats().running or made.stats().queued:
        await asyncio.sleep(0.005)
    stats = made.stats()
    assert stats.pages_live == 0
    assert stats.pages_free + stats.pages_cached == stats.pages_total
    await made.close()
    return hung_up, answered


def test_a_storm_of_aborts(tmp_path: Path) -> None:
    hung_up, answered = asyncio.run(asyncio.wait_for(storm(tmp_path, 1.0, 200), 60))
    assert hung_up >= 100
    assert answered > 0


@pytest.mark.slow
def test_two_hundred_aborts_a_second_for_thirty_seconds(tmp_path: Path) -> None:
    hung_up, answered = asyncio.run(asyncio.wait_for(storm(tmp_path, 30.0, 200), 120))
    print(f"{hung_up} hung up, {answered} answered")
    assert hung_up >= 3000
    assert answered > 0


def test_more_is_asked_than_there_are_pages(tmp_path: Path) -> None:
    """Every request alone needs nearly the whole pool, everything is pinned, and the disk has a page's room."""

    async def main() -> None:
        made = FakeEngine(check=True, pages=5, max_sequences=8, spill_directory=tmp_path, spill_bytes=20_000)
        wanted = [
            request(range(100 + i, 300 + i), 60, breakpoints=(Breakpoint(200, 1e6),), priority=("batch", "interactive")[i % 2])
            for i in range(12)
        ]

        async def answer(one) -> list[int]:
            return [token async for event in made.generate(one) for token in event.tokens]

        assert await asyncio.gather(*map(answer, wanted)) == [solo(one) for one in wanted]
        await made.close()

    asyncio.run(asyncio.wait_for(main(), 60))


def test_a_deadline_is_an_error_and_what_came_before_is_valid() -> None:
    async def main() -> None:
        made = FakeEngine(check=True, pages=64, max_sequences=1, seconds_per_step=0.005)
        told: list[int] = []
        wanted = request(range(100, 200), 3000, deadline=time.monotonic() + 0.3)

        async def read() -> None:
            async for event in made.generate(wanted):
                told.extend(event.tokens)

        reading = asyncio.ensure_future(read())
        await asyncio.sleep(0.05)
        with pytest.raises(DeadlineExceeded, match="deadline"):
            _ = [event async for event in made.generate(request([70], 5, deadline=time.monotonic() + 0.05))]  # in the queue
        with pytest.raises(DeadlineExceeded):
            await reading
        assert told == solo(wanted)[: len(told)]
        assert 0 < len(told) < 3000
        assert made.stats().pages_live == 0
        patient = request(range(100, 200), 5, deadline=time.monotonic() + 60)
        assert [token async for event in made.generate(patient) for token in event.tokens] == solo(patient)
        await made.close()

    asyncio.run(asyncio.wait_for(main(), 30))
