"""How fast a model runs here, alone or beside peers: prefill, decode at any depth, many streams; medians and ratios.

A measurement takes its subjects in turns (A B A B ...), so that a drifting machine is unfair to nobody.
"""

from __future__ import annotations

import asyncio
import re
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import numpy as np

from senryu.engine.interface import Engine, Sampling, TokenRequest

LONG_S = 60.0  # who takes longer than this for one try is measured by that try: its warm-up is lost in it
PREFILL = 512  # the prompt length that "prefill" means without a number


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured quantity of one subject: every round's value, `at` some length, depth or count."""

    measure: str
    at: int | None
    subject: str
    unit: str
    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)

    def facts(self) -> dict[str, Any]:
        """As JSON holds it."""
        return {
            "measure": self.measure,
            "at": self.at,
            "subject": self.subject,
            "unit": self.unit,
            "median": _short(self.median),
            "rounds": [_short(value) for value in self.rounds],
        }


class Decoder(Protocol):
    """Something whose decoding can be measured."""

    @property
    def name(self) -> str:
        """Who it is, in which number format."""

    def decode(self, depth: int, tokens: int) -> float:
        """Rate of `tokens` greedy tokens, one by one, with `depth` tokens in the K/V cache before them."""


class Subject(Decoder, Protocol):
    """Something that can be measured. All rates are tokens per second."""

    def prefill(self, length: int) -> float:
        """Rate over a fresh random prompt of `length` tokens, up to its first output token."""

    def batch(self, streams: int, tokens: int) -> float:
        """Rate of all `streams` together while each decodes `tokens` behind a short prompt of its own."""

    def close(self) -> None: ...


class EngineSubject:
    """Our engine, measured where a request enters it: queueing, scheduling and sampling are in the figures."""

    PAGE = 64  # tokens; what the engine shares of a prefix is whole pages

    def __init__(self, name: str, engine: Engine, vocab: int) -> None:
        self.name, self.engine, self.vocab = name, engine, vocab
        self.rng = np.random.default_rng(0)
        self.runner = asyncio.Runner()
        self._deep: dict[int, tuple[int, ...]] = {}

    def prompt(self, length: int) -> tuple[int, ...]:
        """Random ids, above the special tokens: no prompt shares a prefix with another."""
        return tuple(int(i) for i in self.rng.integers(64, self.vocab, length))

    def first(self, ids: tuple[int, ...]) -> float:
        """Seconds to the first token behind the prompt `ids`."""
        times = self.runner.run(self.stream(ids, 1))
        return times[0][0] - times.start

    def prefill(self, length: int) -> float:
        return length / self.first(self.prompt(length))

    def decode(self, depth: int, tokens: int) -> float:
        """The prompt of a depth stays in the prefix cache from one call to the next: only the first one computes it."""
        return self.rate(greedy(self._deep.setdefault(depth, self.prompt(max(depth, 1))), tokens + 1))

    def rate(self, request: TokenRequest) -> float:
        """Rate of an answer's tokens, from its first event to its last."""
        times = self.runner.run(self.follow(request))
        if len(times) == 1:  # they came together, since this thread was kept from running: more of them show the rate
            return self.rate(replace(request, max_tokens=2 * request.max_tokens))
        return (times.tokens - times[0][1]) / (times[-1][0] - times[0][0])

    def batch(self, streams: int, tokens: int) -> float:
        """Counted from the moment when all streams have begun until the first of them ends.

        All but the last token of each prompt is in the cache already, so that they begin together.
        """
        prompts = [self.prompt(self.PAGE + 1) for _ in range(streams)]

        async def together(tokens: int) -> list[Arrivals]:
            return await asyncio.gather(*(self.stream(ids, tokens) for ids in prompts))

        self.runner.run(together(1))
        runs = self.runner.run(together(tokens + 1))
        begin, end = max(run[0][0] for run in runs), min(run[-1][0] for run in runs)
        if end <= begin:  # one ended before the last one began: more tokens make them meet
            return self.batch(streams, 2 * tokens)
        return sum(count for run in runs for at, count in run if begin < at <= end) / (end - begin)

    async def stream(self, ids: tuple[int, ...], tokens: int) -> Arrivals:
        """Generate `tokens` greedily behind `ids`; when each event came."""
        return await self.follow(greedy(ids, tokens))

    async def follow(self, request: TokenRequest) -> Arrivals:
        """When each event of the answer came."""
        times = Arrivals(time.perf_counter())
        async for event in self.engine.generate(request):
            times.append((time.perf_counter(), len(event.tokens)))
        return times

    def close(self) -> None:
        self.runner.run(self.engine.close())
        self.runner.close()


def greedy(ids: tuple[int, ...], tokens: int) -> TokenRequest:
    """The most probable `tokens` behind `ids`."""
    return TokenRequest(ids=ids, max_tokens=tokens, sampling=Sampling(temperature=0.0))


class Arrivals(list[tuple[float, int]]):
    """(moment, tokens) of every event of a stream that was asked for at `start`."""

    def __init__(self, start: float) -> None:
        super().__init__()
        self.start = start

    @property
    def tokens(self) -> int:
        return sum(count for _, count in self)


S = TypeVar("S", bound=Decoder)


def in_turns(subjects: Sequence[S], action: Callable[[S], float], rounds: int) -> list[tuple[float, ...]]:
    """`rounds` values of each subject in turns, after one unmeasured try each; a first try beyond LONG_S is all."""
    values: list[list[float]] = [[] for _ in subjects]
    done = [False] * len(subjects)
    for turn in range(rounds + 1):
        for i, subject in enumerate(subjects):
            if done[i]:
                continue
            start = time.perf_counter()
            value = action(subject)
            done[i] = turn == 0 and time.perf_counter() - start > LONG_S
            if turn or done[i]:
                values[i].append(value)
    return [tuple(v) for v in values]


def _rates(measure: str, at: int, subjects: Sequence[S], action: Callable[[S], float], rounds: int) -> list[Figure]:
    values = in_turns(subjects, action, rounds)
    return [Figure(measure, at, subject.name, "tok/s", v) for subject, v in zip(subjects, values)]


def prefill(subjects: Sequence[Subject], length: int, rounds: int) -> list[Figure]:
    """Reading a prompt of `length` tokens."""
    return _rates("prefill", length, subjects, lambda subject: subject.prefill(length), rounds)


def decode(subjects: Sequence[Decoder], at: int, tokens: int, rounds: int) -> list[Figure]:
    """Writing `tokens` tokens behind a prompt of `at` tokens."""
    return _rates("decode", at, subjects, lambda subject: subject.decode(at, tokens), rounds)


def depth(subjects: Sequence[Decoder], at: int, tokens: int, rounds: int) -> list[Figure]:
    """As `decode`, for the row of depths: its subjects may be peers with other formats of K/V."""
    return _rates("depth", at, subjects, lambda subject: subject.decode(at, tokens), rounds)


def batch(subjects: Sequence[Subject], streams: int, tokens: int, rounds: int) -> list[Figure]:
    """`streams` sequences that decode `tokens` tokens each, together."""
    return _rates("batch", streams, subjects, lambda subject: subject.batch(streams, tokens), rounds)


def ratios(figures: Sequence[Figure], ours: str, number_format: str) -> dict[str, float]:
    """Our median over each rival's, by measure and format: prefill_int8, prefill_4096_int8, decode_int4 ...

    The first rival of a measurement has the plain key, every further one has `_vs_` and its name behind it.
    """
    result: dict[str, float] = {}
    own = {(f.measure, f.at): f.median for f in figures if f.subject == ours}
    for figure in figures:
        if figure.subject == ours or figure.unit != "tok/s" or (figure.measure, figure.at) not in own:
            continue
        plain = figure.measure in ("decode", "batch") or (figure.measure, figure.at) == ("prefill", PREFILL)
        key = f"{figure.measure}{'' if plain else f'_{figure.at}'}_{number_format}"
        if key in result:
            key += "_vs_" + re.sub(r"[^a-z0-9]+", "_", figure.subject.lower())
        result[key] = round(own[figure.measure, figure.at] / figure.median, 2)
    return result


def _short(value: float) -> float:
    """Four significant digits: more is noise."""
    return float(f"{value:.4g}")
