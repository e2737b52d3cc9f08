"""Who computes when: decode first, short prompts past long ones, room promised before a request starts."""

from __future__ import annotations

import pytest
from stepping import Bench, request, solo

from senryu.engine.fake import FakeProgram
from senryu.engine.interface import Sampling, TokenRequest
from senryu.engine.sequence import Sequence


def prompt(start: int, count: int) -> list[int]:
    return [64 + (start * 577 + i) % 4000 for i in range(count)]


def test_decode_rows_are_in_every_step_and_prefill_takes_the_rest() -> None:
    bench = Bench(FakeProgram(max_rows=80))
    talker = bench.add(request(prompt(1, 10), 50))
    bench.step()
    bench.add(request(prompt(2, 1000), 4))
    for _ in range(10):
        plan = bench.scheduler.plan(64)
        assert plan.sequences[0] is talker
        assert plan.rows == [1, 64]
        assert plan.prefill == 64
        bench.scheduler.commit(plan, bench.runner.step(bench.filler.fill(plan)))


def test_short_prompts_overtake_a_long_one_which_still_advances() -> None:
    bench = Bench(FakeProgram(pages=2048))
    long = bench.add(request(prompt(0, 30_000), 8))
    short = [bench.add(request(prompt(i, 60 + i), 8)) for i in range(1, 16)]
    ended: list[Sequence] = []
    while bench.scheduler.busy:
        computed = long.computed
        ended += [sequence for sequence, _ in bench.step(128) if sequence.finish]
        assert long.computed > computed or long.finish
        if not all(sequence.finish for sequence in short):
            assert long.length == 30_000
    assert ended[-1] is long
    assert ended[:15] == short
    assert bench.outputs[long] == solo(request(prompt(0, 30_000), 8))


def test_the_longest_waiting_prompt_gets_half_of_the_rows() -> None:
    bench = Bench(FakeProgram())
    first = bench.add(request(prompt(1, 900), 1))
    shorter = bench.add(request(prompt(2, 500), 1))
    shortest = bench.add(request(prompt(3, 20), 1))
    plan = bench.scheduler.plan(100)
    assert plan.sequences == [first, shortest, shorter]
    assert plan.rows == [50, 20, 30]


def test_rows_that_short_prompts_leave_go_to_the_longest_waiting() -> None:
    bench = Bench(FakeProgram())
    bench.add(request(prompt(1, 900), 1))
    bench.add(request(prompt(2, 10), 1))
    assert bench.scheduler.plan(100).rows == [90, 10]


def test_equal_prompts_in_flight_are_computed_once() -> None:
    bench = Bench(FakeProgram())
    wanted = request(prompt(1, 1000), 3)
    sequences = [bench.add(wanted) for _ in range(10)]
    rows = 0
    while bench.scheduler.busy:
        plan = bench.scheduler.plan(96)
        rows += plan.prefill
        bench.scheduler.commit(plan, bench.runner.step(bench.filler.fill(plan)))
        bench.scheduler.check()
    cached = [sequence.cached for sequence in sequences]
    assert cached[0] == 0
    assert all(960 <= count <= 999 for count in cached[1:])  # every full page, and more or less of the last one's head
    assert rows + sum(cached) == 10 * 1000
    assert rows < 1000 + 9 * 20
    assert bench.scheduler.stats().cached_tokens == sum(cached)


def test_an_aborted_leader_leaves_its_pages_to_the_followers() -> None:
    bench = Bench(FakeProgram())
    wanted = request(prompt(1, 1000), 3)
    leader, follower = bench.add(wanted), bench.add(wanted)
    for _ in range(5):
        bench.step(100)
    bench.scheduler.abort(leader)
    bench.finish(100)
    assert bench.outputs[follower] == solo(wanted)
    assert follower.cached >= 448


def test_requests_wait_for_promised_pages_and_all_finish() -> None:
    bench = Bench(FakeProgram(pages=8, max_sequences=8))
    wanted = [request(prompt(i, 100), 100) for i in range(12)]  # 4 pages each: two at a time
    sequences = [bench.add(one) for one in wanted]
    while bench.scheduler.busy:
        bench.step()
        assert len(bench.scheduler.running) <= 2
    assert [bench.outputs[sequence] for sequence in sequences] == [solo(one) for one in wanted]


def test_a_request_that_fits_exactly_runs_and_takes_every_page() -> None:
    bench = Bench(FakeProgram(pages=4))
    bench.add(request(prompt(1, 200), 50))
    bench.finish()
    wanted = request(prompt(2, 200), 57)  # 256 positions: the last token needs none
    sequence = bench.add(wanted)
    bench.finish()
    assert sequence.need == 4
    assert bench.outputs[sequence] == solo(wanted)


def test_a_big_request_at_the_head_is_not_passed_for_ever() -> None:
    bench = Bench(FakeProgram(pages=8))
    bench.add(request(prompt(1, 60), 60))
    big = bench.add(request(prompt(2, 400), 100))  # all 8 pages
    late = bench.add(request(prompt(3, 10), 5))
    bench.step()
    assert list(bench.scheduler.queue) == [big, late]
    bench.scheduler.abort(big)
    bench.step()
    assert late in bench.scheduler.running or late.finish


def test_no_more_run_than_a_batch_can_carry() -> None:
    bench = Bench(FakeProgram(max_rows=6, max_sequences=3))
    for i in range(7):
        bench.add(request(prompt(i, 30), 5))
    while bench.scheduler.busy:
        bench.step()
        assert len(bench.scheduler.running) <= 3


def test_a_failed_step_ends_its_requests_and_no_page_is_lost() -> None:
    bench = Bench(FakeProgram())
    failed = bench.add(request(prompt(1, 300), 5))
    bench.step(128)
    bench.scheduler.fail(bench.scheduler.plan(64))
    bench.scheduler.check()
    assert not bench.scheduler.busy
    again = bench.add(request(prompt(1, 300), 5))
    bench.finish()
    assert again.cached == 128
    assert bench.outputs[again] == solo(request(prompt(1, 300), 5))
    assert bench.outputs[failed] == []


def test_stop_ids_are_emitted_and_length_counts_tokens() -> None:
    tokens = solo(request(prompt(1, 30), 10))
    bench = Bench(FakeProgram())
    stopped = bench.add(request(prompt(1, 30), 10, stop=[tokens[3]]))
    full = bench.add(request(prompt(1, 30), 4, stop=[tokens[3]]))
    cut = bench.add(request(prompt(1, 30), 3, stop=[tokens[3]]))
    bench.finish()
    assert [bench.outputs[sequence] for sequence in (stopped, full, cut)] == [tokens[:4], tokens[:4], tokens[:3]]
    assert [sequence.finish for sequence in (stopped, full, cut)] == ["stop", "stop", "length"]


def test_seeds_separate_and_repeat() -> None:
    draws = [solo(request(prompt(1, 30), 10, seed=seed)) for seed in (1, 2, 1, -1)]
    assert draws[0] == draws[2]
    assert draws[0] != draws[1]


@pytest.mark.parametrize(
    ("ids", "max_tokens", "sampling", "message"),
    [
        ((), 1, Sampling(), "empty"),
        ((5,), 0, Sampling(), "max_tokens"),
        ((1 << 40,), 1, Sampling(), "32-bit"),
        ((5,), 1, Sampling(temperature=-1.0), "temperature"),
        ((5,), 1, Sampling(temperature=float("nan")), "temperature"),
        ((5,), 1, Sampling(temperature=float("inf")), "temperature"),
        ((5,), 1, Sampling(top_p=1.1), "top_p"),
        ((5,), 1, Sampling(top_k=-1), "top_k"),
    ],
)
def test_impossible_requests_are_refused(ids, max_tokens, sampling, message) -> None:
    with pytest.raises(ValueError, match=message):
        Sequence(TokenRequest(ids, max_tokens, sampling), 64)


def test_extreme_sampling_fits_the_batch() -> None:
    bench = Bench(FakeProgram())
    bench.add(TokenRequest((70,), 1, Sampling(temperature=1e-300, top_p=1e-300, top_k=1 << 80, seed=1 << 80)))
    batch = bench.filler.fill(bench.scheduler.plan(1))
    batch.check(vocab=4096, pages=4096, max_rows=512, max_sequences=64)
