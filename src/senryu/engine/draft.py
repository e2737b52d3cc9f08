"""Drafts: guesses of a sequence's next tokens, computed in the step of its last known token, kept as far as they come true.

Exact: the next token is a pure function of (seed, position, logits), greedy or not, and a row's logits depend on the tokens
before it alone. So a step samples after the last known token and after every draft, and takes samples in order while the one
before equals its draft: token for token what one step each would have drawn. (Speculative sampling of Leviathan et al. 2023
with the one random number shared by draft and target; its acceptance test is then equality.)

Guesses cost no second model: what followed the same few tokens earlier in this request, or in finished answers of the same
tenant, and before that the tokens that a grammar leaves no choice about.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence as Ids
from itertools import cycle, islice

from senryu.engine.sequence import Sequence

MOST = 10  # drafts of one sequence in a step
LEAST_MATCH, MOST_MATCH = 3, 8  # tokens that must, and that are compared to, have stood before a guess
LOOK = 8  # how many earlier places of the last LEAST_MATCH tokens are compared
CATCH_UP = 4096  # tokens of a prompt that are indexed in one step: about a millisecond
TENANTS, GENERATION = 16, 8192  # tenants that are remembered, and tokens in each of a tenant's two generations
RATE = 0.1  # how fast a hit rate follows
PATIENCE, REST = 4, 7  # looks in vain until one is left out, then two, ..; the most that are left out together
PROFIT = 1.25  # a draft must promise so much more than its row costs: what is measured is noisy
END = -1  # between answers of a pool: no token


class NgramIndex:
    """Where in `text` the last few tokens have stood before. A token costs O(1) to add, and to look up."""

    def __init__(self, text: Ids[int]) -> None:
        self.text = text
        self._end = 0  # n-grams that end before here are indexed
        self._latest: dict[int, int] = {}  # hash of LEAST_MATCH tokens -> the place behind their latest occurrence
        self._earlier: list[int] = []  # place -> the same of the occurrence before, or 0

    def extend(self, end: int, most: int = CATCH_UP) -> bool:
        """Index the n-grams of text[:end], `most` new places at most; True when that was all."""
        text, latest, earlier = self.text, self._latest, self._earlier
        stop = min(end, self._end + most)
        for place in range(self._end + 1, stop + 1):
            if place < LEAST_MATCH:
                earlier.append(0)
                continue
            # a hash in place of the tokens saves memory; two that share one cost a wrong guess at worst
            gram = hash((text[place - 3], text[place - 2], text[place - 1]))
            earlier.append(latest.get(gram, 0))
            latest[gram] = place
        self._end = max(self._end, stop)
        return stop == end

    def match(self, context: Ids[int], end: int) -> tuple[int, int]:
        """(n, place): the n tokens before text[place] are the last n of context[:end], LEAST_MATCH <= n <= MOST_MATCH.

        Of the LOOK latest places with LEAST_MATCH such tokens the one with the most, the latest of equals; else (0, 0).
        """
        if end < LEAST_MATCH:
            return 0, 0
        text, best, found = self.text, LEAST_MATCH - 1, 0
        place = self._latest.get(hash((context[end - 3], context[end - 2], context[end - 1])), 0)
        for _ in range(LOOK):
            if not place or best == MOST_MATCH:
                break
            n, most = 0, min(MOST_MATCH, place, end)
            while n < most and text[place - 1 - n] == context[end - 1 - n]:
                n += 1
            if n > best:
                best, found = n, place
            place = self._earlier[place - 1]
        return (best, found) if found else (0, 0)


class Pool:
    """The latest finished answers of one tenant, in two generations: the older is dropped when the younger is full."""

    def __init__(self) -> None:
        self.young, self.old = NgramIndex([]), NgramIndex([])

    def add(self, tokens: list[int]) -> None:
        if len(self.young.text) >= GENERATION:
            self.young, self.old = NgramIndex([]), self.young
        text = self.young.text
        assert isinstance(text, list)
        text += [*tokens[-GENERATION:], END]
        self.young.extend(len(text) - 1, 2 * GENERATION)


class Guess:
    """What one sequence's next tokens may be, and how often such guesses have come true.

    tokens: the guess. forced: how many at its start a grammar leaves no choice about. match: how many tokens before the others
    stood before them elsewhere too.
    """

    __slots__ = ("forced", "match", "own", "rates", "rest", "tokens", "vain")

    def __init__(self, sequence: Sequence) -> None:
        self.own = NgramIndex(memoryview(sequence.tokens))  # type: ignore[arg-type]
        # by the length of the match: long ones are nearly always right, and free text has few
        self.rates = [0.0] * LEAST_MATCH + [0.3 + 0.1 * i for i in range(MOST_MATCH - LEAST_MATCH + 1)]
        self.tokens: list[int] = []
        self.forced = self.match = 0
        self.vain = self.rest = 0  # looks since one was of use, and steps without a look still to come

    def resting(self) -> bool:
        """Whether this step does without a guess: text in which guesses are of no use is looked at ever less often."""
        if not self.rest:
            self.rest = min(self.vain // PATIENCE, REST)
            self.vain += 1
            return False
        self.rest -= 1
        self.tokens = []
        return True

    def look(self, sequence: Sequence, pool: Pool | None, most: int) -> None:
        """Guess up to `most` (>= 1) tokens behind the last known one. There must be room for them in `sequence.tokens`."""
        matcher, length = sequence.matcher, sequence.length
        forced = matcher.forced()[:most] if matcher else []
        end = length + len(forced)
        if forced:
            sequence.tokens[length:end] = forced  # nothing is known there yet
        self.tokens, self.forced = forced, len(forced)
        source, text = self.own, self.own.text
        self.match, place = source.match(text, end) if source.extend(length - 1) else (0, 0)
        for index in (pool.young, pool.old) if pool and self.match < MOST_MATCH else ():
            n, found = index.match(text, end)
            if n > self.match:
                self.match, place, source = n, found, index
        if self.match and end < length + most:
            # a guess that reaches the end of the sequence's own text goes round: that is how a repetition goes on
            known = islice(cycle(text[place:end]), most) if source is self.own else source.text[place : place + most]
            self.tokens = forced + list(known)[: length + most - end]
            if END in self.tokens:
                del self.tokens[self.tokens.index(END) :]
            if matcher:
                del self.tokens[matcher.accepted(self.tokens) :]

    def chance(self, i: int) -> float:
        """That token i of the guess is right when those before it are."""
        return 1.0 if i < self.forced else self.rates[min(self.match + i - self.forced, MOST_MATCH)]

    def learn(self, tokens: list[int]) -> None:
        """The tokens that really came. Guesses that no row was spent on are learned from too, which costs nothing: free text
        needs no drafts to show that drafts fail, a copied passage none to show that they would not."""
        if self.tokens and self.tokens[0] == tokens[0]:
            self.vain = self.rest = 0
        for i, (guessed, token) in enumerate(zip(self.tokens, tokens)):
            if i >= self.forced:
                place = min(self.match + i - self.forced, MOST_MATCH)
                self.rates[place] += RATE * ((guessed == token) - self.rates[place])
            if guessed != token:
                break
        self.tokens = []


class RowCost:
    """What one more row costs, as a share of the step's time: from how steps of late differed from the step before them.

    Differences, since a longer context or a busy neighbour makes all steps slower whatever their rows.
    """

    KEEP = 0.98  # of a difference's weight, a step later
    PRIOR = 0.1  # of a step of one row, when steps of late had equal rows: so a price that was wrong is tried again
    SPREAD = 1.0  # sum of squared differences of rows from which they say something
    LEVEL = 0.1  # how fast the mean step follows

    def __init__(self) -> None:
        self._rows = self._seconds = 0.0  # the mean step
        self._last: tuple[int, float] | None = None
        self._square = self._product = 0.0

    def measure(self, rows: int, seconds: float) -> None:
        """A step of so many rows, none of them prefill, took so long. An interrupted one counts as twice what it should."""
        if self._last is None:
            self._rows, self._seconds = rows, seconds
        else:
            if self._slope is not None:
                seconds = min(seconds, 2 * max(self._at(rows), self._seconds))
            more = rows - self._last[0]
            self._square = self.KEEP * self._square + more * more
            self._product = self.KEEP * self._product + more * (seconds - self._last[1])
            self._rows += self.LEVEL * (rows - self._rows)
            self._seconds += self.LEVEL * (seconds - self._seconds)
        self._last = rows, seconds

    def price(self, rows: int) -> float:
        """The share for a step of `rows` rows, in 0..1."""
        slope, seconds = self._slope, self._at(rows)
        if slope is None or seconds <= 0:
            return self.PRIOR / (1 + self.PRIOR * (rows - 1))
        return min(max(slope / seconds, 0.0), 1.0)

    @property
    def _slope(self) -> float | None:
        return self._product / self._square if self._square >= self.SPREAD else None

    def _at(self, rows: int) -> float:
        return self._seconds + (self._slope or 0.0) * (rows - self._rows)


class Drafter:
    """Spends rows on the guesses that pay. Single-threaded, like the scheduler that owns it."""

    def __init__(self) -> None:
        self.cost = RowCost()
        self._pools: OrderedDict[bytes, Pool] = OrderedDict()  # by salt, least recently used first

    def draft(self, sequences: list[Sequence], room: int) -> None:
        """Set `drafted` of the decoding `sequences`, `room` in all at most, and write the drafts behind their known tokens.

        A row is worth its price when it lowers the time per token of the step as a whole: chance / tokens > cost / time.
        """
        expected, rows = float(len(sequences)), len(sequences)
        for sequence in sequences:
            sequence.drafted = 0
            guess = sequence.guess = sequence.guess or Guess(sequence)
            if guess.resting() and not sequence.matcher:
                continue
            most = min(MOST, room, len(sequence.tokens) - sequence.length - 1)
            price = PROFIT * expected * self.cost.price(rows)
            if most < 1 or price >= 1:
                continue
            guess.look(sequence, self._pools.get(sequence.salt), most)
            chance = 1.0
            for i, token in enumerate(guess.tokens):
                chance *= guess.chance(i)
                # what would follow a stop id is never taken
                if chance <= PROFIT * expected * self.cost.price(rows) or token in sequence.stop_ids:
                    break
                sequence.tokens[sequence.length + i] = token
                sequence.drafted += 1
                expected += chance
                rows += 1
            room -= sequence.drafted

    def learn(self, sequence: Sequence, tokens: list[int]) -> None:
        """`tokens` have come; a finished answer is remembered for its tenant's next ones."""
        if sequence.guess:
            sequence.guess.learn(tokens)
        if sequence.finish:
            pool = self._pools.setdefault(sequence.salt, Pool())
            self._pools.move_to_end(sequence.salt)
            pool.add(sequence.tokens[sequence.prompt : sequence.length].tolist())
            if len(self._pools) > TENANTS:
                self._pools.popitem(last=False)
