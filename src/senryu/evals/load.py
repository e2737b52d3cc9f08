"""Our engine under load: what a stream feels while a long prompt is read beside it, and what a prefix computed before saves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import numpy as np

from senryu.engine.interface import Sampling, TokenRequest
from senryu.evals.speed import Arrivals, EngineSubject, Figure

NEW_SHARE = 8  # a warm prompt's new part: one token in so many, as the next turn of a conversation


def ttft(subject: EngineSubject, length: int, rounds: int) -> list[Figure]:
    """Time to first token of a prompt of `length` tokens: cold (new), warm (its last eighth is new), cached (a repeat)."""
    new = max(length // NEW_SHARE, 1)
    last: list[tuple[int, ...]] = [()]

    def cold(subject: EngineSubject) -> float:
        last[0] = subject.prompt(length)
        return subject.first(last[0])

    def warm(subject: EngineSubject) -> float:
        last[0] = last[0][: length - new] + subject.prompt(new)
        return subject.first(last[0])

    def cached(subject: EngineSubject) -> float:
        return subject.first(last[0])

    rows: list[list[float]] = [[], [], []]
    for _ in range(rounds + 1):
        for row, action in zip(rows, (cold, warm, cached)):
            row.append(action(subject) * 1e3)
    names = ("ttft_cold", "ttft_warm", "ttft_cached")
    return [Figure(name, length, subject.name, "ms", tuple(row[1:])) for name, row in zip(names, rows)]


def latency(subject: EngineSubject, beside: int, rounds: int) -> list[Figure]:
    """Time between tokens of one stream while a prompt of `beside` tokens is read: median and 99th percentile."""
    gaps = [np.array(subject.runner.run(_gaps(subject, beside))) * 1e3 for _ in range(rounds + 1)][1:]
    return [
        Figure(f"latency_p{share}", beside, subject.name, "ms", tuple(float(np.percentile(g, share)) for g in gaps))
        for share in (50, 99)
    ]


def lead(beside: int) -> int:
    """Tokens that a stream may write while `beside` others are read: a step takes many of those and one of these."""
    return beside // 4 + 512


async def _gaps(subject: EngineSubject, beside: int) -> list[float]:
    """Seconds between the stream's events, from the last one before the long prompt to the first one after its first token."""
    request = TokenRequest(ids=subject.prompt(64), max_tokens=lead(beside), sampling=Sampling(temperature=0.0))
    moments: list[float] = []
    running = asyncio.Event()

    async def stream() -> None:
        async for _ in subject.engine.generate(request):
            moments.append(time.perf_counter())
            if len(moments) == 8:
                running.set()

    task = asyncio.create_task(stream())
    await asyncio.wait_for(running.wait(), 600)
    begin = time.perf_counter()
    await subject.stream(subject.prompt(beside), 1)
    end = time.perf_counter()
    while moments[-1] < end:
        if task.done():
            raise RuntimeError(f"the stream ended before {beside} tokens beside it were read")
        await asyncio.sleep(0.001)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    first = sum(moment <= begin for moment in moments) - 1
    last = sum(moment < end for moment in moments)
    return np.diff(moments[first : last + 1]).tolist()


def shared(subject: EngineSubject, prefix: int) -> list[Figure]:
    """Prompt tokens computed, not found in the cache, for two live requests with one prefix and 64 tokens each behind it."""
    common = subject.prompt(prefix)
    before = subject.engine.stats()

    async def both() -> Sequence[Arrivals]:
        return await asyncio.gather(*(subject.stream(common + subject.prompt(64), 16) for _ in range(2)))

    subject.runner.run(both())
    after = subject.engine.stats()
    computed = (after.prompt_tokens - before.prompt_tokens) - (after.cached_tokens - before.cached_tokens)
    return [Figure("shared_computed", prefix, subject.name, "tokens", (float(computed),))]
