"""Drafts: what is guessed, against a naive search; when a guess is worth its rows; that copies need few steps."""

from __future__ import annotations

import asyncio
import random

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from stepping import Bench, request, solo

from senryu.engine import draft
from senryu.engine.draft import LEAST_MATCH, LOOK, MOST_MATCH, Drafter, Guess, NgramIndex, Pool, RowCost
from senryu.engine.fake import FakeEngine, FakeProgram
from senryu.engine.sequence import Sequence


def naive(text: list[int], end: int, context: list[int]) -> tuple[int, int]:
    """What NgramIndex.match promises, by looking everywhere."""
    found = []
    for place in range(end, LEAST_MATCH - 1, -1):
        n = 0
        while n < min(MOST_MATCH, place, len(context)) and text[place - 1 - n] == context[-1 - n]:
            n += 1
        if n >= LEAST_MATCH:
            found.append((n, place))
    return max(found[:LOOK], default=(0, 0), key=lambda match: match[0])


@given(st.lists(st.integers(0, 2), max_size=120), st.lists(st.integers(1, 40), max_size=8))
def test_the_index_finds_what_a_rescan_finds(text: list[int], cuts: list[int]) -> None:
    index = NgramIndex(text)
    end = 0
    for cut in [*cuts, len(text)]:
        end = min(end + cut, len(text))
        assert index.extend(end - 1) or end == 0
        assert index.match(text, end) == naive(text, end - 1, text[:end])


def test_an_index_catches_up_a_stretch_at_a_time() -> None:
    text = random.Random(0).choices(range(9), k=1000)
    index = NgramIndex(text)
    assert [index.extend(999, 400) for _ in range(3)] == [False, False, True]
    assert index.match(text, 1000) == naive(text, 999, text)


def sequence_of(ids, max_tokens: int = 50, **how) -> Sequence:
    sequence = Sequence(request(ids, max_tokens, **how), 64)
    sequence.computed = sequence.length - 1
    return sequence


def test_a_guess_is_what_followed_and_a_repetition_goes_round() -> None:
    sequence = sequence_of([1, 2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4])
    guess = Guess(sequence)
    guess.look(sequence, None, 6)
    assert (guess.match, guess.tokens) == (3, [5, 6, 7, 8, 9, 2])
    sequence = sequence_of([5, 1, 2, 1, 2, 1, 2])
    guess = Guess(sequence)
    guess.look(sequence, None, 7)
    assert guess.tokens == [1, 2, 1, 2, 1, 2, 1]


def test_finished_answers_of_the_same_tenant_are_remembered() -> None:
    drafter = Drafter()
    done = sequence_of([1, 2, 3], 4, salt=b"a")
    for token in (40, 41, 42, 43):
        drafter.learn(done, [token])
        done.append(token)
    drafter.learn(done, [])
    for salt, expected in ((b"a", [43]), (b"b", [])):
        asking = sequence_of([7, 40, 41, 42], salt=salt)
        drafter.draft([asking], 10)
        assert asking.guess is not None
        assert asking.guess.tokens == expected


def test_a_pool_forgets_the_oldest_and_tenants_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draft, "GENERATION", 100)
    pool = Pool()
    for i in range(50):
        pool.add([1000 * i + j for j in range(30)])
    assert len(pool.young.text) + len(pool.old.text) <= 2 * 131
    newest, oldest = [49_000, 49_001, 49_002], [0, 1, 2]
    assert pool.young.match(newest, 3)[0] == 3
    assert pool.young.match(oldest, 3) == pool.old.match(oldest, 3) == (0, 0)
    drafter = Drafter()
    for i in range(3 * draft.TENANTS):
        ended = sequence_of([1, 2, 3], 1, salt=b"%d" % i)
        ended.append(5)
        drafter.learn(ended, [5])
    assert len(drafter._pools) == draft.TENANTS


def copying(length: int = 200) -> tuple[list[int], list[int]]:
    passage = random.Random(1).choices(range(64, 4064), k=length)
    return [70, *passage, 71, *passage[:4]], passage[4:]


def steps(program: FakeProgram, wanted, drafter: Drafter | None) -> tuple[int, list[int], Bench]:
    bench = Bench(program, drafter=drafter)
    sequence = bench.add(wanted)
    bench.finish(512)
    return bench.scheduler.stats().steps, bench.outputs[sequence], bench


@pytest.mark.parametrize("seed", [None, 3])
def test_a_copy_takes_few_steps(seed: int | None) -> None:
    prompt, reply = copying()
    wanted = request(prompt, len(reply), seed=seed)
    program = FakeProgram()
    program.script(prompt, reply)
    plain, answer, _ = steps(program, wanted, None)
    drafted, same, bench = steps(program, wanted, Drafter())
    assert answer == same == reply
    assert plain == len(reply)
    assert drafted < plain / 5
    assert bench.scheduler.stats().accepted > 0.8 * bench.scheduler.stats().drafted


def test_free_text_costs_next_to_nothing() -> None:
    """Invented tokens over few ids: there are matches all the time, and all are wrong."""
    wanted = request(random.Random(1).choices(range(64, 74), k=50), 2400, seed=1)
    program = FakeProgram(tokens=range(64, 74))
    plain, answer, _ = steps(program, wanted, None)
    drafted, same, bench = steps(program, wanted, Drafter())
    assert same == answer
    cost = drafted + RowCost.PRIOR * bench.scheduler.stats().drafted  # in steps of one row
    assert cost < 1.01 * plain
    assert sum(rate < 0.2 for rate in next(iter(bench.outputs)).guess.rates[LEAST_MATCH:]) >= 2  # there was something to learn


def test_a_copy_inside_free_text_is_found_again() -> None:
    """Wrong guesses before it do not keep a long match from being drafted."""
    draw = random.Random(2)
    passage, noise = draw.choices(range(100, 4000), k=100), draw.choices(range(64, 72), k=200)
    prompt, reply = [*noise, *passage], [*draw.choices(range(64, 72), k=200), *passage]
    program = FakeProgram()
    program.script(prompt, reply)
    bench = Bench(program, drafter=Drafter())
    sequence = bench.add(request(prompt, len(reply)))
    while sequence.length < len(prompt) + 200:
        bench.step(512)
    before = bench.scheduler.stats().steps
    bench.finish()
    assert bench.outputs[sequence] == reply
    assert bench.scheduler.stats().steps - before < 30


def test_drafts_end_with_the_answer() -> None:
    """max_tokens and stop ids cut a run of right drafts where single steps would have ended."""
    prompt, reply = copying()
    program = FakeProgram()
    program.script(prompt, reply)
    for most, stop in ((1, ()), (2, ()), (57, ()), (150, (reply[61],))):
        wanted = request(prompt, most, stop=stop)
        _, answer, bench = steps(program, wanted, Drafter())
        assert answer == (reply[:62] if stop else reply[:most])
        assert [s.finish for s in bench.outputs] == ["stop" if stop else "length"]
        assert bench.scheduler.stats().output_tokens == len(answer)


def test_a_full_batch_has_no_room_for_drafts() -> None:
    prompt, reply = copying(40)
    program = FakeProgram(max_rows=8, max_sequences=8)
    program.script(prompt, reply)
    bench = Bench(program, drafter=Drafter())
    sequences = [bench.add(request([*prompt], len(reply))) for _ in range(8)]
    bench.finish(8)
    assert all(bench.outputs[sequence] == reply for sequence in sequences)


def test_rows_that_cost_as_much_as_steps_are_not_spent() -> None:
    prompt, reply = copying()
    program = FakeProgram()
    program.script(prompt, reply)
    drafter = Drafter()
    for rows in [1, 2, 3, 4, 11] * 20:
        drafter.cost.measure(rows, 0.001 * rows)
    _, answer, bench = steps(program, request(prompt, len(reply)), drafter)
    assert answer == reply
    assert bench.scheduler.stats().drafted == 0


@given(
    base=st.floats(1e-4, 0.1),
    slope=st.floats(0, 1),
    rows=st.lists(st.integers(1, 12), min_size=30, max_size=80),
    n=st.integers(1, 20),
)
def test_the_price_of_a_row_is_the_slope_of_the_steps_that_were_measured(base, slope, rows, n) -> None:
    cost = RowCost()
    for count in [*rows, 1, 11]:
        cost.measure(count, base * (1 + slope * (count - 1)))
    at = 1 + slope * (n - 1)
    assert cost.price(n) == pytest.approx(min(slope / at, 1), abs=1e-6)


def test_an_old_price_is_forgotten_and_one_interruption_does_not_set_it() -> None:
    cost = RowCost()
    for rows in [1, 6] * 20:
        cost.measure(rows, 0.001 * rows)
    assert cost.price(1) > 0.9
    for _ in range(400):
        cost.measure(1, 0.001)
    assert cost.price(1) == RowCost.PRIOR
    for rows in [1, 2] * 20:
        cost.measure(rows, 0.001 + 0.0001 * rows)
    before = cost.price(1)
    cost.measure(1, 5.0)
    assert abs(cost.price(1) - before) < 0.15


def test_through_the_engine() -> None:
    prompt, reply = copying()

    async def main() -> None:
        answers, stats = [], []
        for drafts in (True, False):
            # steps far longer than what a busy machine adds to them: their measured price decides
            engine = FakeEngine(lambda _: reply, drafts=drafts, seconds_per_step=0.01, check=True)
            wanted = request(prompt, len(reply))
            answers.append([token async for event in engine.generate(wanted) for token in event.tokens])
            stats.append(engine.stats())
            await engine.close()
        assert answers == [reply, reply]
        assert stats[0].steps < stats[1].steps / 3
        assert 0 < stats[0].accepted <= stats[0].drafted
        assert stats[1].drafted == 0

    asyncio.run(asyncio.wait_for(main(), 60))


def test_drafts_never_reach_beyond_the_promised_pages() -> None:
    """On a pool that the request fills to the last slot."""
    prompt, reply = copying(120)
    wanted = request(prompt, 129 - len(prompt) % 64 + 64 * 1)
    pages = -(-(len(prompt) + wanted.max_tokens - 1) // 64)
    program = FakeProgram(pages=pages)
    program.script(prompt, reply)
    _, answer, bench = steps(program, wanted, Drafter())
    assert answer[: len(reply)] == reply[: len(answer)]
    assert np.asarray(answer).size == wanted.max_tokens
    bench.scheduler.check_idle()


def test_solo_helpers_use_no_drafts() -> None:
    assert solo(request([70, 71, 72] * 9, 5)) == solo(request([70, 71, 72] * 9, 9))[:5]


def test_text_in_which_guesses_fail_is_looked_at_ever_less_often() -> None:
    guess = Guess(Sequence(request(range(100, 200), 400), 64))

    def looks(steps: int, right: bool) -> int:
        count = 0
        for _ in range(steps):
            if not guess.resting():
                guess.tokens = [7]
                count += 1
            guess.learn([7 if right else 8])
        return count

    assert looks(100, right=False) < 40
    assert looks(80, right=False) == 10  # one step in eight
    looks(8, right=True)
    assert looks(20, right=True) == 20  # a guess that came true makes every step worth a look again
