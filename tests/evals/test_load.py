"""Figures under load: time between tokens beside a long prompt, and prefixes that are computed once."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from senryu.engine.fake import FakeEngine
from senryu.evals import load
from senryu.evals.speed import EngineSubject


@pytest.fixture
def fake() -> Iterator[EngineSubject]:
    engine = FakeEngine(pages=512, seconds_per_step=1e-3, seconds_per_row=2e-5, step_seconds=5e-3)
    subject = EngineSubject("senryu fake", engine, vocab=4096)
    yield subject
    subject.close()


def test_a_repeat_is_cached_and_a_next_turn_mostly(fake: EngineSubject, monkeypatch: pytest.MonkeyPatch) -> None:
    cached: list[int] = []
    first = fake.first

    def spy(ids: tuple[int, ...]) -> float:
        before = fake.engine.stats().cached_tokens
        seconds = first(ids)
        cached.append(fake.engine.stats().cached_tokens - before)
        return seconds

    monkeypatch.setattr(fake, "first", spy)
    figures = load.ttft(fake, 640, rounds=2)
    assert [f.measure for f in figures] == ["ttft_cold", "ttft_warm", "ttft_cached"]
    assert all(f.unit == "ms" and len(f.rounds) == 2 and min(f.rounds) > 0 for f in figures)
    assert cached == [0, 560, 639] * 3  # 560 of 640 are old; of a repeat the last token is computed


def test_latency_is_that_of_a_stream_beside_a_prompt(fake: EngineSubject) -> None:
    median, worst = load.latency(fake, 2000, rounds=2)
    assert (median.measure, worst.measure, median.at) == ("latency_p50", "latency_p99", 2000)
    assert 1 <= median.median <= worst.median  # a step takes 1 ms at least
    for _ in range(500):  # a stream that was left is dropped between two steps
        stats = fake.engine.stats()
        if stats.running == stats.queued == 0:
            break
        time.sleep(0.01)
    assert stats.running == stats.queued == 0


def test_a_stream_that_ends_too_early_is_no_figure(fake: EngineSubject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "lead", lambda beside: 10)
    with pytest.raises(RuntimeError, match="ended before"):
        load.latency(fake, 5000, rounds=1)


def test_shared_counts_what_was_computed(fake: EngineSubject) -> None:
    (figure,) = load.shared(fake, 1024)
    assert (figure.measure, figure.unit) == ("shared_computed", "tokens")
    assert 1024 + 128 <= figure.median <= 2 * 1024 + 128
