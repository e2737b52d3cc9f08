"""Drafts: guesses of a sequence's next tokens, computed in the step of its last known token, kept as far as they come true.

Exact: the next token is a pure function of (seed, position, logits), greedy or not, and a row's logits depend on the tokens
before it alone. So a step samples after the last known token and after every draft, and takes samples in order while the one
before equals its draft: token for token what one step each would have drawn. (Speculative sampling of Leviathan et al. 2023
with the one random number shared by draft and target; its acceptance test is then equality.) Where a grammar leaves one token
there is nothing to sample: such drafts are taken as they are, and the rows before them go through no head.

Guesses (`guess.py`) cost no second model. Here is when they are worth their rows.
"""

from __future__ import annotations

import math
from collections import OrderedDict

from senryu.engine.guess import CERTAIN, REST, Guess, certain
from senryu.engine.ngrams import Pool
from senryu.engine.sequence import Sequence

MOST = 15  # drafts of one sequence in a step
TENANTS = 16  # whose finished answers are remembered
LOOK = 0.002  # seconds of steps for each look in vain, which is 20 us of Python: a hundredth
PROFIT = 1.1  # a draft must promise so much more than its row costs, which is measured from noisy steps


class RowCost:
    """What one more row costs, as a share of the step's time: from how steps of late differed from the step before them.

    Differences, since a longer context or a busy neighbour makes all steps slower whatever their rows.
    """

    KEEP = 0.98  # of a difference's weight, a step later
    PRIOR = 0.1  # of a step of one row, when steps of late had equal rows: so a price that was wrong is tried again
    SPREAD = 1.0  # sum of squared differences of rows from which they say something
    LEVEL = 0.1  # how fast the mean step follows
    ALIKE = 64  # steps of equal rows that are put off, since nobody may ask for a price

    def __init__(self) -> None:
        self._rows = self._seconds = 0.0  # the mean step
        self._square = self._product = 0.0  # of differences of rows; of those and the times'
        self._last = 0  # rows of the last steps
        self._alike: list[float] = []  # their seconds; but the first are in no mean yet

    def measure(self, rows: int, seconds: float) -> None:
        """A step of so many rows, none of them prefill, took so long. An interrupted one counts as twice what it should."""
        if rows == self._last and len(self._alike) < self.ALIKE:
            self._alike.append(seconds)
            return
        slope = self._slope()
        if self._alike:
            seconds = min(seconds, self._most(rows, slope))
            more = rows - self._last
            self._square = self.KEEP * self._square + more * more
            self._product = self.KEEP * self._product + more * (seconds - self._alike[-1])
            self._follow(rows, seconds, self.LEVEL)
        else:
            self._follow(rows, seconds, 1.0)
        self._last, self._alike = rows, [seconds]

    @property
    def seconds(self) -> float:
        """Of the mean step; 0 before the first."""
        return self._seconds

    def price(self, rows: int) -> float:
        """The share for a step of `rows` rows, in 0..1."""
        slope = self._slope()
        if slope is None or (seconds := self._seconds + slope * (rows - self._rows)) <= 0:
            return self.PRIOR / (1 + self.PRIOR * (rows - 1))
        return min(max(slope / seconds, 0.0), 1.0)

    def _slope(self) -> float | None:
        """Seconds of a row, all steps taken in; None when steps of late say nothing about it."""
        count = len(self._alike) - 1
        if count > 0:
            most = self._most(self._last, self._product / self._square if self._square >= self.SPREAD else None)
            seconds = [min(each, most) for each in self._alike[1:]]
            self._follow(self._last, sum(seconds) / count, 1 - (1 - self.LEVEL) ** count)
            self._square *= self.KEEP**count
            self._product *= self.KEEP**count
            self._alike = seconds[-1:]
        return self._product / self._square if self._square >= self.SPREAD else None

    def _most(self, rows: int, slope: float | None) -> float:
        """Seconds beyond which a step of `rows` rows has been interrupted."""
        return math.inf if slope is None else 2 * max(self._seconds + slope * (rows - self._rows), self._seconds)

    def _follow(self, rows: int, seconds: float, weight: float) -> None:
        self._rows += weight * (rows - self._rows)
        self._seconds += weight * (seconds - self._seconds)


class Budget:
    """A step that is being planned, in steps without drafts: the time that it takes, and the tokens to be expected of it.

    Tokens that are certain count as none: they cost their rows in this step or in a later one. So they are always computed, and
    those behind a draft are lost only if that is wrong.
    """

    def __init__(self, sequences: int, price: float) -> None:
        """price: of one more row."""
        self._time, self._tokens, self._price = 1.0, float(sequences), price

    @property
    def least(self) -> float:
        """The chance that a token must have to be worth a row."""
        return self._price * self._tokens / self._time

    def spend(self, guess: Guess, stop_ids: frozenset[int]) -> int:
        """How many tokens of `guess` are worth their rows, which are added to the step."""
        kinds, rates, tokens = guess.kinds, guess.rates, guess.tokens
        forced, chance, count = CERTAIN in kinds, 1.0, certain(kinds, 0)
        while count < len(kinds):
            chance *= rates[kinds[count]]
            behind = certain(kinds, count + 1) if forced else count + 1
            cost = (1 + (behind - count - 1) * (1 - chance)) * self._price
            # what would follow a stop id is never taken
            if chance * self._time <= cost * self._tokens or tokens[count] in stop_ids:
                break
            self._time += cost
            self._tokens += chance
            count = behind
        return count


class Drafter:
    """Spends rows on the guesses that pay. Single-threaded, like the scheduler that owns it."""

    def __init__(self) -> None:
        self.cost = RowCost()
        self._pools: OrderedDict[bytes, Pool] = OrderedDict()  # by salt, least recently used first

    def draft(self, sequences: list[Sequence], room: int) -> None:
        """Write drafts behind the known tokens of the decoding `sequences`, `room` in all at most; see `Sequence.propose`.

        A row is worth its price when it lowers the time per token of the step as a whole: chance / tokens > cost / time.
        """
        budget: Budget | None = None
        seconds = self.cost.seconds
        rest = min(REST, int(LOOK / seconds)) if seconds else REST
        for sequence in sequences:
            guess = sequence.guess
            if guess is None:
                guess = sequence.guess = Guess(sequence)
            if (resting := guess.resting(rest)) and not sequence.matcher:
                continue
            budget = budget or Budget(len(sequences), PROFIT * self.cost.price(len(sequences)))
            most = min(MOST, room, len(sequence.tokens) - sequence.length - 1)
            if most < 1 or not (sequence.matcher or budget.least < 1):
                continue
            pool = self._pools.get(sequence.salt)
            guess.look(sequence, pool, most, least=budget.least, resting=resting)
            count = budget.spend(guess, sequence.stop_ids)
            sequence.propose(guess.tokens[:count], guess.sampled(count))
            room -= count

    def learn(self, sequence: Sequence, tokens: list[int]) -> None:
        """`tokens` have come; a finished answer is remembered for its tenant's next ones."""
        if sequence.guess and sequence.guess.tokens:
            sequence.guess.learn(sequence.length, tokens)
        if sequence.finish:
            pool = self._pools.setdefault(sequence.salt, Pool())
            self._pools.move_to_end(sequence.salt)
            pool.add(sequence.tokens[sequence.prompt : sequence.length].tolist())
            if len(self._pools) > TENANTS:
                self._pools.popitem(last=False)
