"""A measurement takes its subjects in turns, leaves the warm-up out and reports medians."""

from __future__ import annotations

from senryu.engine.fake import FakeEngine
from senryu.evals.speed import EngineSubject, measure


class Scripted:
    """A subject with a fixed list of times."""

    def __init__(self, name: str, times: list[tuple[float, float]], log: list[str]) -> None:
        self.name, self.times, self.log = name, iter(times), log

    def run(self, prompt: int, tokens: int) -> tuple[float, float]:
        self.log.append(self.name)
        return next(self.times)

    def close(self) -> None: ...


def test_subjects_take_turns_and_medians_win() -> None:
    log: list[str] = []
    a = Scripted("a", [(9.0, 9.0), (1.0, 2.0), (2.0, 2.0), (4.0, 1.0)], log)
    b = Scripted("b", [(9.0, 9.0), (2.0, 2.0), (2.0, 2.0), (2.0, 2.0)], log)
    fast, slow = measure([a, b], prompt=100, tokens=10, rounds=3)
    assert log == ["a", "b"] * 4
    assert (fast.prefill, fast.decode) == (50.0, 5.0)
    assert (slow.prefill, slow.decode) == (50.0, 5.0)
    assert len(fast.rounds) == 3


def test_our_engine_is_measured_through_its_contract() -> None:
    subject = EngineSubject("fake", FakeEngine(pages=64, seconds_per_row=1e-5), vocab=4096)
    try:
        prefill, decode = subject.run(200, 4)
        assert prefill > 0
        assert decode > 0
        before = subject.engine.stats().cached_tokens
        subject.cached(200)
        assert subject.engine.stats().cached_tokens == before + 192  # the second time, three whole pages
    finally:
        subject.close()
