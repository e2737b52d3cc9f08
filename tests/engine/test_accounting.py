"""Any mix of add, abort and step keeps every page accounted for, and leaves each request's tokens as they are alone.

With drafts, right and wrong: their rows take and give back pages like any other.
"""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
from stepping import Bench, Oracle, request, solo

from senryu.engine.fake import FakeProgram

PAGES, PAGE = 12, 64


class Mix(RuleBasedStateMachine):
    """Few distinct prompts over a tiny pool: much sharing, much eviction, a queue most of the time."""

    def __init__(self) -> None:
        super().__init__()
        self.drafter = Oracle({}, 4096)
        self.bench = Bench(FakeProgram(pages=PAGES, max_rows=96, max_sequences=4), drafter=self.drafter)
        self.wanted = {}
        self.order = []

    @rule(
        cuts=st.lists(st.tuples(st.integers(0, 1), st.integers(1, 150)), min_size=1, max_size=3),
        max_tokens=st.integers(1, 140),
        seed=st.none() | st.integers(0, 2),
        salt=st.sampled_from([b"", b"a"]),
    )
    def add(self, cuts, max_tokens, seed, salt) -> None:
        ids = [64 + (kind * 1000 + i) % 4000 for kind, count in cuts for i in range(count)]
        wanted = request(ids, max_tokens, seed=seed, salt=salt, stop={200, 201, 202})
        self.drafter.truth[wanted.ids] = solo(wanted)
        sequence = self.bench.add(wanted)
        self.wanted[sequence] = wanted
        self.order.append(sequence)

    @rule(prefill_rows=st.integers(1, 200), times=st.integers(1, 30))
    def step(self, prefill_rows, times) -> None:
        for _ in range(times):
            self.bench.step(prefill_rows)
            self.arrived_in_order()

    @precondition(lambda self: self.order)
    @rule(data=st.data())
    def abort(self, data) -> None:
        self.bench.scheduler.abort(data.draw(st.sampled_from(self.order)))
        self.bench.scheduler.check()

    def arrived_in_order(self) -> None:
        for held in (self.bench.scheduler.running, list(self.bench.scheduler.queue)):
            places = [self.order.index(sequence) for sequence in held]
            assert places == sorted(places)

    def teardown(self) -> None:
        self.bench.finish()
        self.bench.scheduler.check_idle()
        stats = self.bench.scheduler.stats()
        assert stats.pages_live == 0
        assert stats.pages_free + stats.pages_cached == stats.pages_total == PAGES
        for sequence, wanted in self.wanted.items():
            tokens = self.bench.outputs[sequence]
            expected = solo(wanted)
            assert len(tokens) <= wanted.max_tokens
            assert tokens == (expected if sequence.finish else expected[: len(tokens)])


TestMix = Mix.TestCase
TestMix.settings = settings(max_examples=40, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck))
