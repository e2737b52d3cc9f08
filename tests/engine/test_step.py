"""The batch that a plan becomes, and the pace of steps."""

from __future__ import annotations

import numpy as np
import pytest
from stepping import Bench, request

from senryu.engine.fake import FakeProgram
from senryu.engine.interface import Sampling, TokenRequest
from senryu.engine.step import Pace


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
