"""Breakpoints: how long a prefix is kept, and what gives way to what."""

from __future__ import annotations

import pytest
from stepping import Bench, request, solo

from senryu.engine.fake import FakeProgram
from senryu.engine.interface import Breakpoint


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def run(bench: Bench, ids, *points: tuple[int, float], salt: bytes = b""):
    wanted = request(ids, 1, breakpoints=tuple(Breakpoint(*point) for point in points), salt=salt)
    sequence = bench.add(wanted)
    bench.finish()
    assert bench.outputs[sequence] == solo(wanted)
    return sequence


def press(bench: Bench, times: int = 20) -> None:
    """Ordinary traffic that turns the unpinned part of the pool over."""
    for i in range(times):
        run(bench, [64 + (5000 + i * 211 + j) % 4000 for j in range(200)])


def test_a_pinned_prefix_stays_and_what_follows_it_goes(clock: Clock) -> None:
    bench = Bench(FakeProgram(pages=16), clock=clock)
    run(bench, range(100, 420), (200, 300.0))  # 3 full pages of 5
    assert bench.scheduler.stats().pages_pinned == 3
    press(bench)
    assert run(bench, range(100, 420)).cached == 192


def test_a_pin_ends_and_its_pages_are_ordinary_then(clock: Clock) -> None:
    bench = Bench(FakeProgram(pages=16), clock=clock)
    run(bench, range(100, 420), (320, 300.0))
    clock.now += 299
    press(bench, 1)
    assert bench.scheduler.stats().pages_pinned == 5
    clock.now += 1
    press(bench, 1)
    assert bench.scheduler.stats().pages_pinned == 0
    assert run(bench, range(100, 420)).cached == 319  # a late hit is still a hit
    press(bench)
    assert run(bench, range(100, 420)).cached == 0


def test_a_hit_starts_the_time_anew(clock: Clock) -> None:
    bench = Bench(FakeProgram(pages=16), clock=clock)
    run(bench, range(100, 400), (256, 300.0))
    for _ in range(5):
        clock.now += 200
        press(bench, 5)
        assert run(bench, [*range(100, 360), *range(900, 950)]).cached >= 256  # no breakpoint of its own
    clock.now += 301
    press(bench)
    assert bench.scheduler.stats().pages_pinned == 0


def test_a_hit_on_less_does_not(clock: Clock) -> None:
    bench = Bench(FakeProgram(pages=16), clock=clock)
    run(bench, range(100, 400), (256, 300.0))
    clock.now += 200
    run(bench, [*range(100, 300), 70])
    clock.now += 101
    press(bench, 1)
    assert bench.scheduler.stats().pages_pinned == 0


def test_the_longer_of_two_times_counts(clock: Clock) -> None:
    bench = Bench(FakeProgram(pages=16), clock=clock)
    run(bench, range(100, 400), (256, 3600.0))
    run(bench, range(100, 400), (256, 300.0))
    clock.now += 3599
    press(bench)
    assert bench.scheduler.stats().pages_pinned == 4


def test_each_breakpoint_has_its_own_time(clock: Clock) -> None:
    bench = Bench(FakeProgram(pages=16), clock=clock)
    run(bench, range(100, 400), (128, 3600.0), (256, 300.0))
    assert bench.scheduler.stats().pages_pinned == 4
    clock.now += 400
    press(bench)
    assert bench.scheduler.stats().pages_pinned == 2
    assert 128 <= run(bench, range(100, 400)).cached < 192


def test_less_than_a_page_pins_nothing(clock: Clock) -> None:
    bench = Bench(FakeProgram(pages=16), clock=clock)
    run(bench, range(100, 400), (63, 300.0))
    assert bench.scheduler.stats().pages_pinned == 0


def test_pins_hold_half_of_the_pool_and_the_longest_unused_gives_way(clock: Clock) -> None:
    bench = Bench(FakeProgram(pages=16), clock=clock)
    prompts = [[64 + (i * 577 + j) % 4000 for j in range(200)] for i in range(3)]  # 3 full pages each, 8 may be pinned
    run(bench, prompts[0], (200, 3600.0))
    run(bench, prompts[1], (200, 60.0))
    run(bench, prompts[0])
    run(bench, prompts[2], (200, 60.0))
    assert bench.scheduler.stats().pages_pinned == 6
    press(bench)
    assert [run(bench, ids).cached >= 192 for ids in prompts] == [True, False, True]


def test_of_a_long_prefix_the_head_is_pinned(clock: Clock) -> None:
    bench = Bench(FakeProgram(pages=16), clock=clock)
    run(bench, range(100, 900), (800, 60.0))  # 12 full pages
    assert bench.scheduler.stats().pages_pinned == 8
    press(bench)
    assert run(bench, range(100, 900)).cached == 512


@pytest.mark.parametrize("pages", [1, 2, 3])
def test_pins_on_a_pool_that_is_hardly_there(clock: Clock, pages: int) -> None:
    bench = Bench(FakeProgram(pages=pages), clock=clock)
    run(bench, range(100, 100 + 64 * pages), (64, 60.0))
    assert bench.scheduler.stats().pages_pinned == (0 if pages == 1 else 1)


def test_pins_never_keep_a_request_from_starting(clock: Clock) -> None:
    bench = Bench(FakeProgram(pages=16), clock=clock)
    run(bench, range(100, 612), (512, 1e6))
    assert bench.scheduler.stats().pages_pinned == 8
    whole = [64 + (9000 + j) % 4000 for j in range(1000)]
    sequence = bench.add(request(whole, 24))
    bench.step()
    assert sequence in bench.scheduler.running
    bench.finish()
    assert bench.outputs[sequence] == solo(request(whole, 24))


def test_tenants_pin_apart(clock: Clock) -> None:
    bench = Bench(FakeProgram(pages=32), clock=clock)
    run(bench, range(100, 300), (192, 60.0), salt=b"a")
    run(bench, range(100, 300), (192, 60.0), salt=b"b")
    assert bench.scheduler.stats().pages_pinned == 6


@pytest.mark.parametrize(
    "point", [(0, 60.0), (-1, 60.0), (51, 60.0), (10, 0.0), (10, -1.0), (10, float("nan")), (10, float("inf"))]
)
def test_breakpoints_out_of_range_are_refused(point) -> None:
    bench = Bench(FakeProgram(pages=4))
    with pytest.raises(ValueError, match="out of range"):
        bench.add(request(range(100, 150), breakpoints=(Breakpoint(*point),)))


def test_who_waits_for_room_neither_uses_nor_pins_what_it_found(clock: Clock) -> None:
    """Each retry finds the prefix again; only a request that starts counts."""
    bench = Bench(FakeProgram(pages=12), clock=clock)
    run(bench, range(100, 300))  # 3 full pages, cached
    nodes = [node for node in bench.scheduler.tree.nodes.values() if node.tokens == 64]
    before = [node.uses for node in nodes]
    running = [bench.add(request(range(1000 * i, 1000 * i + 100), 150)) for i in (1, 2)]  # 4 pages each
    bench.step()
    late = request([*range(100, 300)], 300, breakpoints=(Breakpoint(192, 300.0),))  # 8 pages, of which 3 are there
    waiting = bench.add(late)
    for i in range(4):
        small = bench.add(request([5 + i], 1))  # its end gives a page back, and so the queue is tried again
        bench.scheduler.queue.remove(waiting)
        bench.scheduler.add(waiting)
        bench.step()
        assert small.finish
        assert waiting not in bench.scheduler.running
    assert [node.uses for node in nodes] == before
    assert bench.scheduler.stats().pages_pinned == 0
    bench.scheduler.abort(running[0])
    bench.step()
    assert waiting in bench.scheduler.running
    assert [node.uses for node in nodes] == [uses + 1 for uses in before]
    assert bench.scheduler.stats().pages_pinned == 3
