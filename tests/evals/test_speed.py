"""A measurement takes its subjects in turns, leaves the warm-up out and reports medians; ratios are ours over theirs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from senryu.engine.fake import FakeEngine
from senryu.evals import speed
from senryu.evals.speed import EngineSubject, Figure


class Scripted:
    """A subject with a fixed list of rates."""

    def __init__(self, name: str, rates: list[float], log: list[str]) -> None:
        self.name, self.rates, self.log = name, iter(rates), log

    def _next(self, what: str) -> float:
        self.log.append(f"{self.name} {what}")
        return next(self.rates)

    def prefill(self, length: int) -> float:
        return self._next(f"prefill {length}")

    def decode(self, depth: int, tokens: int) -> float:
        return self._next(f"decode {depth} {tokens}")

    def batch(self, streams: int, tokens: int) -> float:
        return self._next(f"batch {streams} {tokens}")

    def close(self) -> None: ...


@pytest.fixture
def fake() -> Iterator[EngineSubject]:
    subject = EngineSubject("senryu fake", FakeEngine(pages=256, seconds_per_row=1e-5, seconds_per_step=1e-4), vocab=4096)
    yield subject
    subject.close()


def test_subjects_take_turns_and_medians_win() -> None:
    log: list[str] = []
    a, b = Scripted("a", [9.0, 1.0, 2.0, 4.0], log), Scripted("b", [9.0, 3.0, 3.0, 5.0], log)
    fast, slow = speed.prefill([a, b], 100, rounds=3)
    assert log == ["a prefill 100", "b prefill 100"] * 4
    assert (fast.rounds, fast.median) == ((1.0, 2.0, 4.0), 2.0)
    assert (slow.rounds, slow.median) == ((3.0, 3.0, 5.0), 3.0)
    assert fast.facts() == {
        "measure": "prefill", "at": 100, "subject": "a", "unit": "tok/s", "median": 2.0, "rounds": [1.0, 2.0, 4.0],
    }  # fmt: skip


def test_each_measure_asks_for_what_it_names() -> None:
    log: list[str] = []
    a = Scripted("a", [1.0] * 6, log)
    names = [f.measure for f in (*speed.decode([a], 9, 3, 1), *speed.depth([a], 7, 3, 1), *speed.batch([a], 8, 3, 1))]
    assert names == ["decode", "depth", "batch"]
    assert log == ["a decode 9 3"] * 2 + ["a decode 7 3"] * 2 + ["a batch 8 3"] * 2


def test_a_subject_that_takes_long_is_measured_once(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[str] = []
    slow, quick = Scripted("slow", [5.0], log), Scripted("quick", [9.0, 1.0, 2.0], log)
    clock = iter([0.0, speed.LONG_S + 1, *range(100, 200)])
    monkeypatch.setattr("senryu.evals.speed.time.perf_counter", lambda: float(next(clock)))
    first, second = speed.prefill([slow, quick], 100, rounds=2)
    assert first.rounds == (5.0,)
    assert second.rounds == (1.0, 2.0)


def test_our_engine_is_measured_through_its_contract(fake: EngineSubject) -> None:
    assert fake.prefill(200) > 0
    assert fake.decode(0, 4) > 0
    assert fake.batch(8, 16) > 0
    assert fake.engine.stats().running == 0


def test_a_depth_is_computed_once(fake: EngineSubject) -> None:
    fake.decode(1000, 64)
    before = fake.engine.stats()
    fake.decode(1000, 64)
    after = fake.engine.stats()
    assert after.prompt_tokens - before.prompt_tokens == 1000
    assert after.cached_tokens - before.cached_tokens == 999  # the last one's logits are wanted


def test_prompts_share_no_prefix(fake: EngineSubject) -> None:
    before = fake.engine.stats().cached_tokens
    for _ in range(3):
        fake.prefill(200)
    assert fake.engine.stats().cached_tokens == before


def test_ratios_are_named_by_measure_and_format() -> None:
    def rate(measure: str, at: int, subject: str, value: float) -> Figure:
        return Figure(measure, at, subject, "tok/s", (value,))

    figures = [
        rate("prefill", 512, "senryu int4", 300.0),
        rate("prefill", 512, "llama.cpp q4_0", 100.0),
        rate("prefill", 512, "llama.cpp q4_k_m", 200.0),
        rate("prefill", 4096, "senryu int4", 10.0),
        rate("prefill", 4096, "llama.cpp q4_0", 3.0),
        rate("decode", 512, "senryu int4", 5.0),
        rate("decode", 512, "llama.cpp q4_0", 10.0),
        rate("batch", 8, "senryu int4", 8.0),
        rate("batch", 8, "llama.cpp q4_0", 2.0),
        rate("depth", 0, "llama.cpp q4_0, f16 K/V", 2.0),  # we were not measured there
        Figure("ttft_cold", 512, "senryu int4", "ms", (1.0,)),
    ]
    assert speed.ratios(figures, "senryu int4", "int4") == {
        "prefill_int4": 3.0,
        "prefill_int4_vs_llama_cpp_q4_k_m": 1.5,
        "prefill_4096_int4": 3.33,
        "decode_int4": 0.5,
        "batch_int4": 4.0,
    }
