"""The batch that a plan becomes, and the pace of steps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from stepping import Bench, request

from senryu.engine.fake import FakeProgram
from senryu.engine.interface import Sampling, TokenRequest
from senryu.engine.step import Pace, doubling_depth
from senryu.model.spec import LayerSpec


def test_a_batch_holds_what_the_plan_says() -> None:
    bench = Bench(FakeProgram())
    talker = bench.add(TokenRequest((70, 71, 72), 9, Sampling(temperature=0.5, top_p=0.9, top_k=7, seed=-1)))
    bench.step()
    reader = bench.add(request(range(100, 300), 5))
    bench.step(100)
    batch = bench.filler.fill(bench.scheduler.plan(60))
    assert batch.tokens.tolist() == [int(talker.tokens[4]), *range(200, 260)]
    assert batch.positions.tolist() == [4, *range(100, 160)]
    assert batch.row_start.tolist() == [0, 1, 61]
    assert batch.page_table[0, :1].tolist() == talker.pages.tolist()
    assert batch.page_table[1, :3].tolist() == reader.pages[:3].tolist()
    assert batch.sample_rows.tolist() == [0]
    assert (batch.temperature[0], batch.top_p[0], batch.top_k[0]) == (0.5, np.float32(0.9), 7)
    assert batch.seeds[0] == 2**64 - 1
    for field, kind in (("tokens", np.int32), ("page_table", np.int32), ("top_p", np.float32), ("seeds", np.uint64)):
        array = getattr(batch, field)
        assert array.dtype == kind
        assert array.flags.c_contiguous


def test_pace_doubles_up_to_the_largest_batch_and_shrinks_at_once() -> None:
    pace = Pace(0.1, max_rows=512)
    assert pace.rows == 64
    seen = []
    for _ in range(5):
        rows = pace.rows
        seen.append(rows)
        pace.measure(rows, rows / 1e6)
    assert seen == [64, 128, 256, 512, 512]
    pace.measure(512, 1.0)
    assert pace.rows == 51
    pace.measure(51, 10.0)
    assert pace.rows == Pace.LEAST


@pytest.mark.parametrize("max_rows", [1, 20])
def test_pace_never_asks_for_more_than_a_batch_holds(max_rows: int) -> None:
    assert Pace(0.1, max_rows).rows == max_rows


class Machine:
    """Says what a step takes on a CPU where a row at depth d costs `row` * (1 + d / `doubling`) seconds."""

    def __init__(self, row: float, doubling: float) -> None:
        self.row, self.doubling = row, doubling

    def seconds(self, plan) -> float:
        return sum(
            rows * self.row * (1 + (sequence.computed + rows / 2) / self.doubling)
            for sequence, rows in zip(plan.sequences, plan.rows)
        )


@pytest.mark.parametrize("estimate", [0.5, 1.0, 2.0])
def test_steps_keep_their_length_as_a_prompt_gets_deeper(estimate: float) -> None:
    """Also when the estimate of where a row's cost doubles is wrong by a factor of two either way."""
    machine, pace = Machine(1 / 4000, 3000.0), Pace(0.08, 512)
    bench = Bench(FakeProgram(pages=1024), deep=3000.0 * estimate)
    reader = bench.add(request([64 + i % 4000 for i in range(40_000)], 1))
    longest = 0.0
    while bench.scheduler.busy:
        plan = bench.scheduler.plan(pace.rows)
        longest = max(longest, machine.seconds(plan))
        if plan.full:
            pace.measure(plan.work, machine.seconds(plan))
        bench.scheduler.commit(plan, np.zeros(len(plan.sequences), np.int32) + 70)
    assert reader.finish
    assert longest < 0.12


def test_the_first_step_far_inside_a_cached_prompt_is_no_longer_than_others() -> None:
    """Learned at depth 0, asked at depth 30,000, where a row costs eleven times as much."""
    machine, pace = Machine(1 / 4000, 3000.0), Pace(0.08, 512)
    bench = Bench(FakeProgram(pages=2048), deep=3000.0)
    document = [64 + i % 4000 for i in range(30_000)]
    bench.add(request(document, 1))
    bench.finish(512)
    for _ in range(10):
        pace.measure(pace.rows, pace.rows * machine.row)
    assert pace.rows * machine.row > 0.07
    bench.add(request([*document, *range(100, 900)], 1))
    plan = bench.scheduler.plan(pace.rows)
    assert plan.sequences[0].computed > 29_000
    assert machine.seconds(plan) < 0.12


def test_where_a_row_costs_double_follows_the_shape() -> None:
    full = FakeProgram().spec
    windowed = doubling_depth(full)
    assert windowed == np.inf
    deep = doubling_depth(replace(full, layers=(LayerSpec(window=None, rope=True),)))
    half = doubling_depth(replace(full, layers=(LayerSpec(window=None, rope=True), LayerSpec(window=64, rope=True))))
    assert 0 < deep < np.inf
    assert half == 2 * deep
