"""Who computes when: decode first, short prompts past long ones, room promised before a request starts."""

from __future__ import annotations

import pytest
from stepping import Bench, request, solo

from senryu.engine.fake import FakeProgram
from senryu.engine.interface import Breakpoint, Sampling, TokenRequest
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
    batch.check(vocab=4096, pages=4096, max_rows=512, max_sequences=64, max_sampled=80)


def test_interactive_starts_and_prefills_before_batch() -> None:
    bench = Bench(FakeProgram(pages=16, max_sequences=2))
    first = bench.add(request(prompt(0, 100), 50))
    batch = [bench.add(request(prompt(1 + i, 300), 5, priority="batch")) for i in range(3)]
    late = bench.add(request(prompt(9, 200), 5))
    bench.step(128)
    assert bench.scheduler.running == [first, late]
    bench.finish()
    for i, sequence in enumerate(batch):
        assert bench.outputs[sequence] == solo(request(prompt(1 + i, 300), 5))


def test_batch_prefill_gets_what_interactive_leaves_and_a_quarter_at_most() -> None:
    bench = Bench(FakeProgram())
    talker = bench.add(request(prompt(1, 10), 50))
    bench.step()
    batch = bench.add(request(prompt(2, 1000), 4, priority="batch"))
    plan = bench.scheduler.plan(100)
    assert dict(zip(plan.sequences, plan.rows)) == {talker: 1, batch: 25}
    bench.scheduler.commit(plan, bench.runner.step(bench.filler.fill(plan)))
    reader = bench.add(request(prompt(3, 90), 4))
    plan = bench.scheduler.plan(100)
    assert dict(zip(plan.sequences, plan.rows)) == {talker: 1, reader: 90, batch: 10}
    bench.scheduler.commit(plan, bench.runner.step(bench.filler.fill(plan)))
    bench.add(request(prompt(4, 900), 4))
    assert batch not in bench.scheduler.plan(100).sequences


def test_batch_alone_gets_whole_steps() -> None:
    bench = Bench(FakeProgram())
    bench.add(request(prompt(1, 1000), 4, priority="batch"))
    assert bench.scheduler.plan(100).rows == [100]


def test_an_interactive_request_never_waits_for_batch_work() -> None:
    bench = Bench(FakeProgram(pages=16, max_sequences=8))
    wanted = [request(prompt(i, 200), 200, priority="batch") for i in range(4)]  # 7 pages each: two run
    batch = [bench.add(one) for one in wanted]
    for _ in range(20):
        bench.step()
    assert bench.scheduler.running == batch[:2]
    urgent = bench.add(request(prompt(9, 300), 20))  # 5 pages
    bench.step()
    assert bench.scheduler.running == [batch[0], urgent]
    assert list(bench.scheduler.queue) == batch[1:]
    whole = bench.add(request(prompt(8, 600), 400))  # all 16, less what nobody can give: waits for the interactive one
    bench.step()
    assert bench.scheduler.running == [batch[0], urgent]
    while not urgent.finish:
        bench.step()
    bench.step()
    assert bench.scheduler.running == [whole]
    bench.finish()
    for sequence, one in zip(batch, wanted):
        assert bench.outputs[sequence] == solo(one)  # paused twice, the same tokens


def test_a_paused_request_takes_its_pages_up_again() -> None:
    bench = Bench(FakeProgram(pages=64, max_sequences=1))
    wanted = request(prompt(1, 600), 30, priority="batch")
    batch = bench.add(wanted)
    for _ in range(15):
        bench.step()
    told = list(bench.outputs[batch])
    assert told
    bench.add(request(prompt(2, 10), 3))
    bench.step()
    assert (batch.held, batch.cached) == (0, 0)
    while batch not in bench.scheduler.running:
        bench.step()
    assert batch.computed >= 576
    bench.finish()
    assert bench.outputs[batch] == solo(wanted)
    assert batch.cached == 0  # its own work is no gift
    assert bench.scheduler.stats().prompt_tokens == 610


def test_slots_are_given_back_too() -> None:
    bench = Bench(FakeProgram(max_sequences=2))
    for i in range(2):
        bench.add(request(prompt(i, 20), 50, priority="batch"))
    bench.step()
    urgent = bench.add(request(prompt(9, 20), 5))
    bench.step()
    assert urgent in bench.scheduler.running
    assert len(bench.scheduler.running) == 2


def test_a_thousand_requests_of_one_tenant_do_not_keep_another_waiting() -> None:
    bench = Bench(FakeProgram(max_sequences=4))
    for i in range(1000):
        bench.add(request(prompt(i, 30), 5, salt=b"many"))
    bench.step()
    one = bench.add(request(prompt(7, 30), 5, salt=b"one"))
    while not one.finish:
        bench.step()
    assert len(bench.scheduler.queue) > 980
    assert [sequence.salt for sequence in bench.scheduler.running].count(one.salt) == 0


def test_tenants_start_in_turns() -> None:
    bench = Bench(FakeProgram(max_sequences=4))
    for salt, count in ((b"a", 20), (b"b", 20)):
        for i in range(count):
            bench.add(request(prompt(i, 30), 5, salt=salt))
    bench.step()
    salts = [sequence.salt for sequence in bench.scheduler.running]
    assert [salts.count(salt) for salt in set(salts)] == [2, 2]


def test_prefill_is_shared_between_tenants() -> None:
    """One with many long prompts and one with one get about the same number of rows."""
    bench = Bench(FakeProgram(max_sequences=16))
    for i in range(10):
        bench.add(request(prompt(i, 2000), 1, salt=b"many"))
    bench.step(100)
    one = bench.add(request(prompt(50, 2000), 1, salt=b"one"))
    steps = 0
    while not one.finish:
        bench.step(100)
        steps += 1
    assert steps <= 2 * 2000 / 100 + 2


def test_tenants_are_forgotten_when_they_have_nothing_here() -> None:
    bench = Bench(FakeProgram())
    for i in range(50):
        bench.add(request(prompt(i, 30), 5, salt=b"%d" % i))
    bench.scheduler.abort(bench.add(request(prompt(99, 30), 5, salt=b"queued")))
    bench.finish()
    assert not bench.scheduler.shares.served
    assert not bench.scheduler.shares.running


def test_coming_back_saves_nothing_up() -> None:
    bench = Bench(FakeProgram())
    bench.add(request(prompt(1, 3000), 1, salt=b"a"))
    for _ in range(10):
        bench.step(100)
    bench.add(request(prompt(2, 3000), 1, salt=b"b"))
    plan = bench.scheduler.plan(100)
    assert plan.rows == [50, 50]


def test_deadlines_end_what_is_queued_and_what_runs() -> None:
    now = 0.0
    bench = Bench(FakeProgram(max_sequences=1), clock=lambda: now)
    runs = bench.add(request(prompt(1, 100), 50, deadline=20.0))
    waits = bench.add(request(prompt(2, 100), 50, deadline=10.0))
    patient = bench.add(request(prompt(3, 100), 5))
    for _ in range(5):
        bench.step()
    assert not bench.expired
    now = 10.0
    bench.step()
    assert bench.expired == [waits]
    now = 20.0
    bench.step()
    assert bench.expired == [waits, runs]
    assert 0 < len(bench.outputs[runs]) < 50
    assert not runs.finish
    bench.finish()
    assert bench.outputs[patient] == solo(request(prompt(3, 100), 5))


def test_a_deadline_that_is_met_is_forgotten() -> None:
    now = 0.0
    bench = Bench(FakeProgram(), clock=lambda: now)
    for i in range(500):
        bench.add(request(prompt(i, 10), 1, deadline=1e9))
        bench.finish()
    assert len(bench.scheduler._deadlines._heap) <= 66
    now = 2e9
    bench.add(request(prompt(1, 10), 5))
    bench.finish()
    assert not bench.expired


def test_a_plan_of_deadlines_alone_is_empty() -> None:
    bench = Bench(FakeProgram(), clock=lambda: 5.0)
    late = bench.add(request(prompt(1, 10), 5, deadline=5.0))
    plan = bench.scheduler.plan(64)
    assert (plan.expired, plan.rows) == ([late], [])
    assert not bench.scheduler.busy


@pytest.mark.parametrize(("field", "value"), [("priority", "urgent"), ("deadline", float("nan"))])
def test_unknown_priorities_and_deadlines_are_refused(field: str, value: object) -> None:
    with pytest.raises(ValueError, match=field):
        Sequence(request(prompt(1, 10), **{field: value}), 64)


def test_the_beginning_is_announced_with_the_first_rows_and_once() -> None:
    bench = Bench(FakeProgram(max_rows=64))
    first = bench.add(request(range(100, 300), 4, breakpoints=(Breakpoint(150, 300.0),)))
    twin = bench.add(request(range(100, 300), 4, breakpoints=(Breakpoint(150, 300.0),)))
    begun = []
    while bench.scheduler.busy:
        plan = bench.scheduler.plan(64)
        begun += plan.started
        bench.scheduler.commit(plan, bench.runner.step(bench.filler.fill(plan)))
        bench.scheduler.check()
    assert begun == [(first, 0), (twin, 192)]  # it waits for the pages that the first one computes
