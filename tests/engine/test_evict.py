"""What goes first: the page that is cheapest to compute again for how long it was not used."""

from __future__ import annotations

from stepping import Bench, request

from senryu.engine.fake import FakeProgram


def fill(bench: Bench, start: int, pages: int) -> list[int]:
    """Compute a prompt of so many full pages, no page in common with another start's."""
    ids = [64 + (start * 577 + i) % 4000 for i in range(pages * 64)]
    bench.add(request(ids, 1))
    bench.finish()
    return ids


def cached_pages(bench: Bench, ids: list[int]) -> int:
    """How much of a prompt is in the tree, without touching it."""
    node, page = bench.scheduler.tree.root, 0
    sequence = bench.add(request(ids, 1))
    while child := node.children.get(sequence.key(page)):
        node, page = child, page + 1
    bench.scheduler.abort(sequence)
    return page


def test_a_long_prompt_outlasts_short_ones_of_the_same_age() -> None:
    bench = Bench(FakeProgram(pages=32), deep=128.0)
    long = fill(bench, 1, 16)
    short = [fill(bench, 2 + i, 2) for i in range(8)]
    for i in range(4):
        fill(bench, 20 + i, 2)
    assert cached_pages(bench, long) == 16
    assert sum(cached_pages(bench, one) for one in short) == 8


def test_it_does_not_outlast_them_for_ever() -> None:
    bench = Bench(FakeProgram(pages=32), deep=128.0)
    long = fill(bench, 1, 16)
    for i in range(200):
        fill(bench, 2 + i, 2)
    assert cached_pages(bench, long) < 16


def test_pages_used_often_outlast_pages_used_once() -> None:
    bench = Bench(FakeProgram(pages=16))
    for _ in range(3):
        often = fill(bench, 1, 2)
    once = fill(bench, 2, 2)
    for i in range(6):
        fill(bench, 10 + i, 2)
    assert (cached_pages(bench, often), cached_pages(bench, once)) == (2, 2)
    fill(bench, 20, 2)
    assert (cached_pages(bench, often), cached_pages(bench, once)) == (2, 0)


def test_a_path_goes_from_its_end() -> None:
    bench = Bench(FakeProgram(pages=8))
    path = fill(bench, 1, 6)
    for left in (6, 5, 4):
        assert cached_pages(bench, path) == left
        bench.scheduler.tree._evict()
        bench.scheduler.check()


def test_the_heap_does_not_grow_with_use() -> None:
    bench = Bench(FakeProgram(pages=16))
    for _ in range(500):
        fill(bench, 1, 2)
    assert len(bench.scheduler.tree._order._heap) <= 2 * 16 + 64
