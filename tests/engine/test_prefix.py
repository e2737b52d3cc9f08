"""What is shared, what is not, and what goes first when pages are needed."""

from __future__ import annotations

import pytest
from stepping import Bench, request, solo

from senryu.engine.fake import FakeProgram
from senryu.engine.pages import PagePool


def run(bench: Bench, wanted):
    sequence = bench.add(wanted)
    bench.finish()
    assert bench.outputs[sequence] == solo(wanted)
    return sequence


@pytest.mark.parametrize("length", [1, 2, 8, 9, 64, 65, 66, 72, 73, 128, 129, 300])
def test_a_repeated_prompt_computes_its_last_token_and_no_other(length: int) -> None:
    bench = Bench(FakeProgram())
    wanted = request(range(100, 100 + length))
    assert run(bench, wanted).cached == 0
    assert run(bench, wanted).cached == length - 1


def test_an_answer_is_reused_by_the_next_turn() -> None:
    bench = Bench(FakeProgram())
    first = run(bench, request(range(100, 200), 100))
    ids = [*range(100, 200), *bench.outputs[first], 70, 71]
    assert run(bench, request(ids)).cached == 199  # the last one was sampled, and never read


def test_only_the_common_pages_are_shared() -> None:
    bench = Bench(FakeProgram())
    run(bench, request([*range(100, 228), *range(1000, 1200)]))
    assert run(bench, request([*range(100, 228), *range(2000, 2200)])).cached == 128
    assert run(bench, request([*range(100, 227), *range(2000, 2200)])).cached == 127
    assert run(bench, request(range(101, 300))).cached == 0


def test_salts_share_nothing() -> None:
    bench = Bench(FakeProgram())
    ids = range(100, 400)
    assert run(bench, request(ids, salt=b"a")).cached == 0
    assert run(bench, request(ids, salt=b"b")).cached == 0
    assert run(bench, request(ids)).cached == 0
    assert run(bench, request(ids, salt=b"b")).cached == 299


def test_a_salt_that_looks_like_tokens_shares_nothing() -> None:
    bench = Bench(FakeProgram())
    run(bench, request(range(100, 400)))
    first = b"".join(i.to_bytes(4, "little") for i in range(100, 164))
    assert run(bench, request(range(164, 400), salt=first)).cached == 0


def test_pages_are_shared_while_both_run() -> None:
    bench = Bench(FakeProgram())
    first = bench.add(request(range(100, 400), 50))
    for _ in range(8):
        bench.step()
    second = bench.add(request(range(100, 390), 50))
    bench.step()
    assert second.cached == 289
    assert first.pages[:4].tolist() == second.pages[:4].tolist()
    assert bench.scheduler.pool.refs[int(first.pages[0])] == 2
    bench.finish()
    assert bench.outputs[second] == solo(request(range(100, 390), 50))


def test_a_page_computed_twice_is_kept_once() -> None:
    bench = Bench(FakeProgram())
    twins = [bench.add(request(range(100, 164), 70)) for _ in range(2)]  # the last prompt page is always computed
    bench.finish()
    assert bench.outputs[twins[0]] == bench.outputs[twins[1]] == solo(request(range(100, 164), 70))
    assert bench.scheduler.stats().pages_cached == 3  # two full ones, and the five tokens behind them


def test_least_recently_used_leaves_go_first() -> None:
    bench = Bench(FakeProgram(pages=12))
    old, new = range(100, 357), range(1000, 1257)  # 4 full pages each
    run(bench, request(old, 1))
    run(bench, request(new, 1))
    run(bench, request(old, 1))  # used again
    run(bench, request(range(2000, 2330), 1))  # 6 pages: 4 are free, 2 are taken from the end of `new`
    for ids, cached in ((new, 128), (old, 256)):
        sequence = bench.add(request(ids, 1))
        bench.scheduler.plan(1)
        assert sequence.cached == cached
        bench.scheduler.abort(sequence)


def test_pages_in_use_are_never_evicted() -> None:
    bench = Bench(FakeProgram(pages=8))
    holder = bench.add(request(range(100, 300), 56))
    for _ in range(5):
        bench.step()
    for i in range(20):
        bench.add(request(range(1000 + 10 * i, 1200 + 10 * i), 20))
    bench.finish()
    assert bench.outputs[holder] == solo(request(range(100, 300), 56))


def test_the_pool_tells_when_its_books_are_wrong() -> None:
    pool = PagePool(3)
    page = pool.take()
    with pytest.raises(AssertionError, match="reference counts"):
        pool.check([0, 0, 0], set())
    pool.free.append(page)
    with pytest.raises(AssertionError, match="in use"):
        pool.check([int(i == page) for i in range(3)], set())


def test_the_head_of_a_running_sequence_s_last_page_is_copied() -> None:
    bench = Bench(FakeProgram())
    first = bench.add(request(range(100, 150), 100))
    for _ in range(5):
        bench.step()
    second = bench.add(request([*range(100, 130), *range(1000, 1100)], 50))
    bench.finish()
    assert second.cached == 30
    assert bench.outputs[first] == solo(request(range(100, 150), 100))
    assert bench.outputs[second] == solo(request([*range(100, 130), *range(1000, 1100)], 50))


def test_the_head_of_a_full_page_is_copied_and_the_page_left_alone() -> None:
    bench = Bench(FakeProgram())
    run(bench, request(range(100, 400)))
    assert run(bench, request([*range(100, 200), *range(1000, 1200)])).cached == 100
    assert run(bench, request(range(100, 400))).cached == 299


def test_the_longest_of_many_heads_is_copied() -> None:
    bench = Bench(FakeProgram())
    for i in range(10, 60, 7):
        run(bench, request([*range(100, 100 + i), *range(1000 + i, 1060)], 1))
    assert run(bench, request([*range(100, 138), 1038, 1039, 77, 78], 1)).cached == 40  # as the one that left at 38
    assert run(bench, request([*range(100, 141), 77, 78, 79], 1)).cached == 41


def test_heads_are_never_copied_from_another_tenant() -> None:
    bench = Bench(FakeProgram())
    run(bench, request(range(100, 150), salt=b"a"))
    live = bench.add(request(range(100, 150), 50, salt=b"b"))
    bench.step()
    assert run(bench, request(range(100, 150), salt=b"c")).cached == 0
    assert live.finish
    assert run(bench, request(range(100, 150), salt=b"a")).cached == 49


def test_an_unfinished_page_gives_way_to_one_that_begins_with_it() -> None:
    bench = Bench(FakeProgram())
    first = run(bench, request(range(100, 120)))
    assert bench.scheduler.stats().pages_cached == 1
    ids = [*range(100, 120), *bench.outputs[first]]
    second = run(bench, request(ids))
    assert second.cached == len(ids) - 1
    assert bench.scheduler.stats().pages_cached == 1
    run(bench, request([*ids, *bench.outputs[second], *range(2000, 2100)]))
    assert bench.scheduler.stats().pages_cached == 3  # two full pages and a new tail
    assert run(bench, request(range(100, 120))).cached == 19


def test_a_sequence_of_the_whole_pool_copies_nothing_and_runs() -> None:
    bench = Bench(FakeProgram(pages=1))
    run(bench, request(range(100, 130), 20))
    assert run(bench, request(range(100, 130), 20)).cached == 0  # the one page is where the copy would have to go


def test_two_live_requests_with_a_long_common_prefix_compute_it_once() -> None:
    bench = Bench(FakeProgram())
    prefix = [64 + i * 7 % 4000 for i in range(8192)]
    wanted = [request([*prefix, *range(100 + 200 * i, 200 + 200 * i)], 4) for i in range(2)]
    sequences = [bench.add(one) for one in wanted]
    rows = 0
    while bench.scheduler.busy:
        plan = bench.scheduler.plan(512)
        rows += plan.prefill
        bench.scheduler.commit(plan, bench.runner.step(bench.filler.fill(plan)))
        bench.scheduler.check()
    assert rows == 8192 + 100 + 100
    assert sequences[1].cached == 8192
