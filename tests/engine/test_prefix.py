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


@pytest.mark.parametrize(("length", "cached"), [(1, 0), (64, 0), (65, 64), (128, 64), (129, 128), (300, 256)])
def test_a_repeated_prompt_takes_its_full_pages_but_computes_its_last_token(length: int, cached: int) -> None:
    bench = Bench(FakeProgram())
    wanted = request(range(100, 100 + length))
    assert run(bench, wanted).cached == 0
    assert run(bench, wanted).cached == cached


def test_an_answer_is_reused_by_the_next_turn() -> None:
    bench = Bench(FakeProgram())
    first = run(bench, request(range(100, 200), 100))
    ids = [*range(100, 200), *bench.outputs[first], 70, 71]
    assert run(bench, request(ids)).cached == 192


def test_only_the_common_pages_are_shared() -> None:
    bench = Bench(FakeProgram())
    run(bench, request([*range(100, 228), *range(1000, 1200)]))
    assert run(bench, request([*range(100, 228), *range(2000, 2200)])).cached == 128
    assert run(bench, request([*range(100, 227), *range(2000, 2200)])).cached == 64
    assert run(bench, request(range(101, 300))).cached == 0


def test_salts_share_nothing() -> None:
    bench = Bench(FakeProgram())
    ids = range(100, 400)
    assert run(bench, request(ids, salt=b"a")).cached == 0
    assert run(bench, request(ids, salt=b"b")).cached == 0
    assert run(bench, request(ids)).cached == 0
    assert run(bench, request(ids, salt=b"b")).cached == 256


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
    assert second.cached == 256
    assert first.pages[:4].tolist() == second.pages[:4].tolist()
    assert bench.scheduler.pool.refs[int(first.pages[0])] == 2
    bench.finish()
    assert bench.outputs[second] == solo(request(range(100, 390), 50))


def test_a_page_computed_twice_is_kept_once() -> None:
    bench = Bench(FakeProgram())
    twins = [bench.add(request(range(100, 164), 70)) for _ in range(2)]  # the last prompt page is always computed
    bench.finish()
    assert bench.outputs[twins[0]] == bench.outputs[twins[1]] == solo(request(range(100, 164), 70))
    assert bench.scheduler.stats().pages_cached == 2


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
