"""Any mix of add, abort, time and step keeps every page accounted for, and leaves each request's tokens as they are alone.

With drafts, right and wrong: their rows take and give back pages like any other.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
from stepping import Bench, Oracle, request, solo

from senryu.engine.fake import FakeProgram
from senryu.engine.interface import Breakpoint
from senryu.engine.spill import Spill

PAGES, PAGE = 12, 64


class Mix(RuleBasedStateMachine):
    """Few distinct prompts over a tiny pool: much sharing, much eviction, a queue most of the time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.folder = tempfile.TemporaryDirectory()
        self.drafter = Oracle({}, 4096)
        spill = Spill(Path(self.folder.name), 1 << 16, fingerprint="fake", page_bytes=4 * PAGE)
        runner = FakeProgram(pages=PAGES, max_rows=96, max_sequences=4)
        self.bench = Bench(runner, drafter=self.drafter, spill=spill, deep=200.0, clock=lambda: self.now)
        self.wanted = {}
        self.order = []

    @rule(
        cuts=st.lists(st.tuples(st.integers(0, 1), st.integers(1, 150)), min_size=1, max_size=3),
        max_tokens=st.integers(1, 140),
        seed=st.none() | st.integers(0, 2),
        salt=st.sampled_from([b"", b"a"]),
        priority=st.sampled_from(["interactive", "batch"]),
        points=st.lists(st.tuples(st.floats(0, 1), st.integers(1, 60)), max_size=2),
        patience=st.none() | st.integers(0, 60),
    )
    def add(self, cuts, max_tokens, seed, salt, priority, points, patience) -> None:
        ids = [64 + (kind * 1000 + i) % 4000 for kind, count in cuts for i in range(count)]
        wanted = request(
            ids,
            max_tokens,
            seed=seed,
            salt=salt,
            stop={200, 201, 202},
            priority=priority,
            breakpoints=tuple(Breakpoint(max(1, int(part * len(ids))), ttl) for part, ttl in points),
            deadline=None if patience is None else self.now + patience,
        )
        self.drafter.truth[wanted.ids] = solo(wanted)
        sequence = self.bench.add(wanted)
        self.wanted[sequence] = wanted
        self.order.append(sequence)

    @rule(prefill_rows=st.integers(1, 200), times=st.integers(1, 30))
    def step(self, prefill_rows, times) -> None:
        for _ in range(times):
            self.bench.step(prefill_rows)
            self.started_in_order()

    @rule(seconds=st.integers(1, 30))
    def wait(self, seconds) -> None:
        self.now += seconds

    @rule()
    def write(self) -> None:
        self.bench.scheduler.tree.spill.flush()

    @precondition(lambda self: self.order)
    @rule(data=st.data())
    def abort(self, data) -> None:
        self.bench.scheduler.abort(data.draw(st.sampled_from(self.order)))
        self.bench.scheduler.check()

    def started_in_order(self) -> None:
        """Within a tenant and a priority nobody is passed."""
        for lane in {(one.salt, one.priority) for one in self.order}:
            started = [one for one in self.bench.scheduler.running if (one.salt, one.priority) == lane]
            waiting = [one for one in self.bench.scheduler.queue if (one.salt, one.priority) == lane]
            places = [self.order.index(one) for one in (*started, *waiting)]
            assert places == sorted(places)

    def teardown(self) -> None:
        try:
            self.ends_well()
        finally:
            self.bench.scheduler.close(save=True)
            self.folder.cleanup()

    def ends_well(self) -> None:
        self.bench.finish()
        self.bench.scheduler.check_idle()
        stats = self.bench.scheduler.stats()
        assert stats.pages_live == 0
        assert stats.pages_free + stats.pages_cached == stats.pages_total == PAGES
        assert stats.pages_pinned <= PAGES // 2
        for sequence, wanted in self.wanted.items():
            tokens = self.bench.outputs[sequence]
            expected = solo(wanted)
            assert len(tokens) <= wanted.max_tokens
            assert tokens == (expected if sequence.finish else expected[: len(tokens)])
        assert all(one.deadline <= self.now and not one.finish for one in self.bench.expired)


TestMix = Mix.TestCase
TestMix.settings = settings(max_examples=40, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck))
