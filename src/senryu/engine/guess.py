"""What a sequence's next tokens may be, and how sure that is: guesses by what follows in an earlier text and by a grammar."""

from __future__ import annotations

from collections.abc import Sequence as Ids
from typing import TYPE_CHECKING

from senryu.engine.alignment import Alignment, Swaps
from senryu.engine.ngrams import MOST_MATCH, NgramIndex, Pool
from senryu.engine.sequence import Sequence

if TYPE_CHECKING:
    from senryu.engine.grammar import Matcher

RATE = 0.1  # how fast a hit rate follows
REST = 31  # the most steps in a row that are ever left out, when looks were in vain: none, none, 1, 4, 9, ..
HOPE = 0.45  # how often a copy must go on behind an edit for none to be left out there

# Kinds of guessed tokens, each with a hit rate of its own. FOUND + n and RESUMED + n: n tokens before it agree, in what was
# looked up and behind an edit. Long matches are nearly always right, and free text has few.
CERTAIN = 0  # a grammar leaves no choice
VALUE, VALUES = 1, 4  # VALUE + n: n tokens behind such ones, which agree wherever they stand and say little about a value
FOUND = VALUE + VALUES
RESUMED = FOUND + MOST_MATCH + 1
SWAP = RESUMED + MOST_MATCH + 1  # the first token of what has replaced the same before
RATES = (  # before any has been seen
    *(1.0, 0.4, 0.5, 0.6, 0.7),  # CERTAIN, VALUE
    *(0.0, 0.0, 0.0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8),  # FOUND
    *(0.4, 0.5, 0.7, 0.85, 0.85, 0.85, 0.85, 0.85, 0.85),  # RESUMED
    0.5,
)


def certain(kinds: list[int], start: int) -> int:
    """Where the certain ones end that begin at `start`, if any do."""
    while start < len(kinds) and kinds[start] == CERTAIN:
        start += 1
    return start


class Guess:
    """What one sequence's next tokens may be, and how often such guesses have come true.

    tokens: the guess. kinds: of each token of it. rates: how often a guess of each kind is right when those before it are.
    """

    __slots__ = ("_alignment", "_chosen", "_own", "_rest", "_swaps", "_vain", "kinds", "rates", "tokens")

    def __init__(self, sequence: Sequence) -> None:
        self.rates = list(RATES)
        self.tokens: list[int] = []
        self.kinds: list[int] = []
        self._own = NgramIndex(memoryview(sequence.tokens))  # type: ignore[arg-type]
        self._alignment: Alignment | None = None
        self._swaps: Swaps = {}
        self._chosen = sequence.prompt  # where the tokens of which there was no choice ended the last time
        self._vain = self._rest = 0  # looks since one was of use, and steps without a look still to come

    def resting(self, most: int = REST) -> bool:
        """Whether this step does without a look: text in which guesses are of no use is looked at ever less often, until `most`
        steps in a row are left out."""
        if self._alignment and self._alignment.resumed and self.rates[RESUMED + 1] > HOPE:
            return False
        if not self._rest:
            self._rest = min(max(self._vain - 1, 0) ** 2, most)
            self._vain += 1
            return False
        self._rest -= 1
        return True

    def look(self, sequence: Sequence, pool: Pool | None, most: int, *, least: float = 0.0, resting: bool = False) -> None:
        """Guess up to `most` (>= 1) tokens behind the last known one. There must be room for them in `sequence.tokens`.

        least: the chance below which none is worth its row. resting: only those that are certain.
        """
        matcher, length = sequence.matcher, sequence.length
        forced = matcher.forced()[:most] if matcher else []
        end = length + len(forced)
        self.tokens, self.kinds = forced, [CERTAIN] * len(forced)
        if resting:
            return
        if forced:
            sequence.tokens[length:end] = forced  # nothing is known there yet
        found = self._align(length, end, pool)
        if not found or len(forced) == most:
            return
        tokens, swapped = found.tokens(most - len(forced))
        first = RESUMED if found.resumed else FOUND
        longest = first + MOST_MATCH
        kinds = [*range(first + min(found.run, MOST_MATCH), longest), *[longest] * len(tokens)][: len(tokens)]
        for i in swapped:
            kinds[i] = SWAP
        if matcher:
            self._keep_to(matcher, length, tokens, kinds, least)
        self.tokens += tokens
        self.kinds += kinds

    def _keep_to(self, matcher: Matcher, length: int, guess: list[int], kinds: list[int], least: float) -> None:
        """Cut `guess`, which is to come behind the forced tokens, where the grammar refuses it or its chance is too small.

        Where it runs into tokens that leave no choice these take its place, and it ends where it said something else.
        """
        forced = self.tokens
        right = matcher.accepted([*forced, *guess]) - len(forced)
        since = 0 if forced else length - self._chosen
        known, chance, i = forced, 1.0, 0
        while i < right and guess[i] not in matcher.stop_ids:
            if since < VALUES:
                kinds[i] = VALUE + since
            chance *= self.rates[kinds[i]]
            since += 1
            i += 1
            if chance <= least or i == len(guess):
                break
            matcher.suppose([*known, guess[i - 1]])
            known = matcher.forced()[: len(guess) - i]
            if known:
                said = guess[i : i + len(known)]
                guess[i : i + len(known)] = known
                kinds[i : i + len(known)] = [CERTAIN] * len(known)
                since = 0
                i += len(known)
                if known != said:
                    break
        matcher.back()
        del guess[i:], kinds[i:]

    def _align(self, known: int, end: int, pool: Pool | None) -> Alignment | None:
        """The alignment up to text[:end], of which text[:known] have come: the present one, or one that promises more."""
        text = self._own.text
        assert isinstance(text, memoryview)
        present = self._alignment
        if present and not present.follow(text, end):
            present = None
        complete = self._own.extend(known - 1)
        if not complete:
            self._vain = 0  # there is more to look at
        if present is None or present.run < MOST_MATCH:
            indexes = [self._own] if complete else []
            if pool:
                indexes += [pool.young, pool.old]
            for index in indexes:
                n, place = index.match(text, end)
                if n and (present is None or self.rates[FOUND + n] > self._rate(present)):
                    present = Alignment(index, place, end, n, self._swaps)
        self._alignment = present
        return present

    def _rate(self, one: Alignment) -> float:
        return self.rates[(RESUMED if one.resumed else FOUND) + min(one.run, MOST_MATCH)]

    def sampled(self, count: int) -> Ids[int]:
        """Behind how many of the first `count` tokens a sample has to tell whether the next one is right, or what comes."""
        if CERTAIN not in self.kinds:
            return range(count + 1)
        return [i for i in range(count + 1) if i == count or self.kinds[i] != CERTAIN]

    def learn(self, length: int, tokens: list[int]) -> None:
        """The guessed tokens were to be `tokens`, the last ones of text[:length].

        Guesses that no row was spent on are learned from too, which costs nothing: free text needs no drafts to show that
        drafts fail, a copied passage none to show that they would not.
        """
        if self.tokens[0] == tokens[0]:
            self._vain = self._rest = 0
        for i, (guessed, kind, token) in enumerate(zip(self.tokens, self.kinds, tokens), 1):
            if kind == CERTAIN:
                self._chosen = length - len(tokens) + i
            else:
                self.rates[kind] += RATE * ((guessed == token) - self.rates[kind])
            if guessed != token:
                if kind == SWAP:
                    self._swaps.pop(token, None)
                break
        self.tokens, self.kinds = [], []
