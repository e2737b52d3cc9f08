"""Drafts: what is guessed, when a guess is worth its rows, that copies and edits need few steps and all else costs little."""

from __future__ import annotations

import asyncio
import random
import sys
from functools import partial

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from stepping import Bench, request, solo

from senryu.engine import draft
from senryu.engine.draft import Budget, Drafter, RowCost
from senryu.engine.fake import FakeEngine, FakeProgram
from senryu.engine.guess import CERTAIN, FOUND, REST, SWAP, VALUE, Guess
from senryu.engine.ngrams import CATCH_UP, LEAST_MATCH, MOST_MATCH
from senryu.engine.sequence import Sequence


def sequence_of(ids, max_tokens: int = 50, **how) -> Sequence:
    sequence = Sequence(request(ids, max_tokens, **how), 64)
    sequence.computed = sequence.length - 1
    return sequence


def test_a_guess_is_what_followed_and_a_repetition_goes_round() -> None:
    sequence = sequence_of([1, 2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4])
    guess = Guess(sequence)
    guess.look(sequence, None, 6)
    assert guess.tokens == [5, 6, 7, 8, 9, 2]
    assert guess.kinds == [FOUND + n for n in (3, 4, 5, 6, 7, 8)]
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


def test_tenants_are_bounded() -> None:
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
    drafter = Drafter()
    drafter.cost.measure(1, 3e-4)  # steps long enough to look often
    drafted, same, bench = steps(program, wanted, drafter)
    assert same == answer
    cost = drafted + RowCost.PRIOR * bench.scheduler.stats().drafted  # in steps of one row
    assert cost < 1.01 * plain
    assert (
        sum(rate < 0.2 for rate in next(iter(bench.outputs)).guess.rates[FOUND + LEAST_MATCH : FOUND + MOST_MATCH + 1]) >= 2
    )  # there was something to learn


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


def edited(passage: list[int], draw: random.Random, every: int = 16) -> list[int]:
    """`passage` with 0 to 3 tokens replaced by as many others in about so many places."""
    text: list[int] = []
    place = 0
    while place < len(passage):
        stop = place + draw.randint(every // 2, every + every // 2)
        text += [*passage[place:stop], *(draw.randrange(5000, 9000) for _ in range(draw.randint(0, 3)))]
        place = stop + draw.randint(0, 3)
    return text


def test_a_copy_with_edits_takes_few_steps() -> None:
    """About one to an edit for what is new, and one for what lies between."""
    prompt, passage = copying(600)
    reply = edited(passage, random.Random(5))
    program = FakeProgram(tokens=range(64, 9000))
    program.script(prompt, reply)
    drafted, answer, bench = steps(program, request(prompt, len(reply)), Drafter())
    assert answer == reply
    assert drafted < len(reply) / 4
    assert bench.scheduler.stats().accepted > 0.5 * bench.scheduler.stats().drafted


def test_a_name_that_is_replaced_everywhere_is_guessed_from_the_third_time_on() -> None:
    draw = random.Random(6)
    pieces = [draw.sample(range(64, 4000), 12) for _ in range(20)]
    name, other = [4001, 4002, 4003], [4004, 4005]
    prompt = [token for piece in pieces for token in (*piece, *name)]
    reply = [token for piece in pieces for token in (*piece, *other)]
    program = FakeProgram()
    program.script([*prompt, 70, *pieces[0][:4]], reply[4:])
    drafted, answer, bench = steps(program, request([*prompt, 70, *pieces[0][:4]], len(reply) - 4), Drafter())
    assert answer == reply[4:]
    assert drafted < len(reply) / 10  # fewer than one to a piece and its name
    (sequence,) = bench.outputs
    assert sequence.guess.rates[SWAP] > 0.8


pieces_of_prompt = st.lists(st.tuples(st.integers(0, 80), st.integers(1, 30), st.lists(st.integers(64, 70), max_size=4)))


@given(
    prompt=st.lists(st.integers(64, 90), min_size=1, max_size=90),
    pieces=pieces_of_prompt,
    seed=st.one_of(st.none(), st.integers(0, 9)),
    cost=st.floats(0, 1),
    most=st.integers(1, 200),
)
@settings(max_examples=30, deadline=None)
def test_answers_are_the_same_with_drafts(prompt, pieces, seed, cost, most) -> None:
    """Answers that copy, repeat and change parts of their prompts, beside invented ones, whatever rows cost."""
    reply = [token for start, length, between in pieces for token in (*prompt[start : start + length], *between)]
    answers = []
    for drafter in (Drafter(), None):
        program = FakeProgram(tokens=range(64, 91))
        program.script(prompt, reply)
        bench = Bench(program, drafter=drafter)
        sequences = [bench.add(request(prompt, most, seed=seed)), bench.add(request([*prompt, 64], most, seed=seed))]
        while bench.scheduler.busy:
            before = bench.scheduler.stats().drafted
            bench.step()
            if drafter:
                drafter.cost.measure(2, 1 + cost * (bench.scheduler.stats().drafted - before))
        answers.append([bench.outputs[sequence] for sequence in sequences])
    assert answers[0] == answers[1]
    assert answers[0][0][: len(reply)] == reply[:most]


def instructions(action) -> int:
    """Byte codes of Python that `action` runs through: what guessing costs, without a clock."""
    count = 0

    def trace(frame, event, _):
        nonlocal count
        frame.f_trace_opcodes = True
        count += event == "opcode"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        action()
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("length", [200, 20_000])
@pytest.mark.parametrize("alphabet", [2, 30, 4000])
@pytest.mark.parametrize("copies", [False, True])
def test_what_a_guess_costs_is_bounded(length: int, alphabet: int, copies: bool) -> None:
    """Whatever the prompt's length, and where everything fits somewhere as where nothing does."""
    draw = random.Random(7)
    prompt = draw.choices(range(alphabet), k=length)
    reply = edited(prompt, draw)[:120] if copies else draw.choices(range(alphabet), k=120)
    sequence = sequence_of(prompt, len(reply))
    drafter, costs = Drafter(), []
    for _ in range(length // CATCH_UP + 1):  # until the prompt is indexed
        drafter.draft([sequence], 15)
        sequence.propose([], range(1))
    place = 0
    while place < len(reply):
        costs.append(instructions(partial(drafter.draft, [sequence], 15)))
        taken = sequence.accept(reply[place : place + sequence.drafted + 1])
        if not sequence.finish:  # at the end the whole answer is indexed
            costs[-1] += instructions(partial(drafter.learn, sequence, taken))
        place += len(taken)
    assert max(costs) < 6000
    assert sum(costs) < (2000 if alphabet == 2 else 700) * len(reply)


def test_tokens_that_are_certain_are_drafted_at_any_price() -> None:
    """They cost their rows in this step or in the next."""
    guess = Guess(sequence_of([1, 2, 3]))
    guess.tokens, guess.kinds = [5, 6, 7], [CERTAIN, CERTAIN, VALUE]
    assert Budget(1, 1.0).spend(guess, frozenset()) == 2
    assert guess.sampled(2) == [2]
    assert Budget(1, 0.1).spend(guess, frozenset()) == 3
    assert guess.sampled(3) == [2, 3]
    assert Budget(1, 0.1).spend(guess, frozenset({7})) == 2


def test_what_is_certain_behind_a_draft_costs_only_if_that_is_wrong() -> None:
    guess = Guess(sequence_of([1, 2, 3]))
    guess.tokens, guess.kinds = [5, *range(10)], [VALUE] + [CERTAIN] * 10
    for chance, price, worth in ((0.95, 0.3, 11), (0.5, 0.3, 0), (0.5, 0.05, 11)):
        guess.rates[VALUE] = chance
        assert Budget(1, price).spend(guess, frozenset()) == worth
        assert (chance > price * (1 + 10 * (1 - chance))) == bool(worth)
    assert guess.sampled(11) == [0, 11]


def test_certain_drafts_are_taken_without_a_sample() -> None:
    sequence = sequence_of([1, 2, 3], 9)
    drafts = [11, 12, 20, 13, 14]
    for drawn, taken in (([20, 30], [11, 12, 20, 13, 14, 30]), ([21, 30], [11, 12, 21])):
        sequence.length, sequence.computed = 3, 2
        sequence.propose(drafts, [2, 5])
        assert sequence.accept(drawn) == taken
        assert sequence.length == 3 + len(taken)
        assert (sequence.drafted, list(sequence.sampled)) == (0, [0])


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
    for _ in range(100):
        cost.measure(1, 0.001)
    assert cost.price(1) > 0.9
    for _ in range(300):
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
                guess.tokens, guess.kinds = [7], [FOUND + 3]
                count += 1
            if guess.tokens:
                guess.learn(101, [7 if right else 8])
        return count

    assert looks(100, right=False) < 25
    assert looks(3 * (1 + REST), right=False) == 3
    looks(1 + REST, right=True)
    assert looks(20, right=True) == 20  # a guess that came true makes every step worth a look again


@pytest.mark.parametrize(("seconds", "longest"), [(1e-2, 0), (5e-4, 4), (1e-4, 20), (1e-5, REST)])
def test_looks_in_vain_take_a_hundredth_of_the_time(monkeypatch: pytest.MonkeyPatch, seconds: float, longest: int) -> None:
    drafter, sequence, looked = Drafter(), sequence_of(range(100, 200), 400), []
    drafter.cost.measure(1, seconds)
    monkeypatch.setattr(Guess, "look", lambda *_, **how: looked.append(sequence.length))
    for token in range(300, 500):
        drafter.draft([sequence], 10)
        sequence.append(token)
        sequence.computed += 1
    assert max(np.diff(looked)) - 1 == longest
