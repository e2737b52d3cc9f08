"""A text that runs alongside an earlier one, as a copy does with its source, and where it goes on behind an edit.

A copy is followed from token to token, not looked up at each. Where it differs from its source it may have replaced, left
out or put in a few tokens: it is expected to go on right behind, and is found again by one token that fits near there, where
elsewhere three are asked for. What replaced what is remembered: a name that is replaced once often is wherever it stands.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import cycle, islice

from senryu.engine.ngrams import END, LEAST_MATCH, MOST_MATCH, NgramIndex

GAP = 24  # tokens that an edit may put in or leave out; behind longer ones a copy is looked up like any other
LONGEST = 8  # tokens of a replacement that is remembered, on either side
OFTEN = 2  # times that a replacement has been seen before it is expected


@dataclass(slots=True)
class Swap:
    """Tokens of a source, and those that stood for them in its copy `seen` times."""

    old: list[int]
    new: list[int]
    seen: int = 1


Swaps = dict[int, Swap]  # by the first of the old tokens: the latest replacement of each


@dataclass(slots=True)
class Edit:
    """text[start:end] stands for source[place:behind]; whether it ends there is sure when the next few tokens agree."""

    start: int
    place: int
    end: int = 0
    behind: int = 0


class Alignment:
    """text[at] is expected to be source[place], as the `run` tokens before it were, back to the latest edit or farther.

    resumed: so few since an edit that they may agree by chance. blind: not even one does, and there is nothing to expect.
    """

    __slots__ = ("_due", "_edit", "_own", "_sound", "_source", "_swaps", "at", "blind", "place", "resumed", "run")

    def __init__(self, index: NgramIndex, place: int, at: int, run: int, swaps: Swaps) -> None:
        """swaps: of the text's alignments, whichever; they are used and added to."""
        self.place, self.at, self.run = place, at, run
        self.resumed = self.blind = False
        self._source = index.text
        self._own = isinstance(index.text, memoryview)  # the source is the text itself, farther up
        self._swaps = swaps
        self._sound = False  # it has been so long that it is a copy
        self._edit: Edit | None = None  # while it is not sure where that ends
        self._due: list[int] = []  # the rest of a replacement, expected before source[place]

    def follow(self, text: memoryview, end: int) -> bool:
        """Carry on to text[:end]. False when that does not run alongside any more."""
        while self.at < end:
            new = text[self.at : end].tolist()
            old = [*self._due, *self._source[self.place : self.place + len(new)]][: len(new)]
            same = len(new)
            if new != old:
                same = next((i for i, (one, other) in enumerate(zip(new, old)) if one != other), len(old))
            self._advance(text, same)
            if self.at < end and not self._replaced(text[self.at]):
                return self._sound and self._resume(text, end)
        return True

    def tokens(self, most: int) -> tuple[list[int], list[int]]:
        """What comes next, `most` at most, and which of that is the first of a replacement.

        At the end of the text itself it goes round: that is how a repetition goes on.
        """
        if self.blind:
            return [], []
        size = most + LONGEST if self._swaps else most
        ahead = list(self._source[self.place : self.place + size])
        if self._own and self.place + size > self.at:
            ahead = list(islice(cycle(self._source[self.place : self.at]), size))
        if END in ahead:
            del ahead[ahead.index(END) :]
        if self._swaps.keys().isdisjoint(ahead):
            return (self._due + ahead)[:most], []
        tokens, swapped, i = self._due[:], list[int](), 0
        while i < len(ahead) and len(tokens) < most:
            swap = self._swaps.get(ahead[i])
            if swap and swap.seen >= OFTEN and ahead[i : i + len(swap.old)] == swap.old:
                swapped.append(len(tokens))
                tokens += swap.new
                i += len(swap.old)
            else:
                tokens.append(ahead[i])
                i += 1
        return tokens[:most], swapped

    def _advance(self, text: memoryview, same: int) -> None:
        """The next `same` tokens are as expected."""
        due = min(same, len(self._due))
        del self._due[:due]
        self.at += same
        self.place += same - due
        self.run += same
        if same:
            self.blind = False
        if self.run >= MOST_MATCH:
            self._sound, self.resumed = True, False
        if self._edit and self.run >= LEAST_MATCH:
            self._remember(self._edit, text)
            self._edit = None

    def _remember(self, edit: Edit, text: memoryview) -> None:
        old, new = list(self._source[edit.place : edit.behind]), text[edit.start : edit.end].tolist()
        if 0 < len(old) <= LONGEST and 0 < len(new) <= LONGEST:
            swap = self._swaps.setdefault(old[0], Swap(old, new, 0))
            if (swap.old, swap.new) != (old, new):
                swap = self._swaps[old[0]] = Swap(old, new, 0)
            swap.seen += 1

    def _replaced(self, token: int) -> bool:
        """Whether `token`, which is not the expected one, begins what has replaced that before. Then the rest of it is due."""
        if self._due or self.place >= len(self._source):
            self._due = []
            return False
        swap = self._swaps.get(self._source[self.place])
        if not swap or swap.new[0] != token:
            return False
        behind = self.place + len(swap.old)
        if list(self._source[self.place : behind]) != swap.old or (self._own and behind >= self.at):
            return False
        swap.seen += 1
        self.place = behind
        self._due = swap.new[:]
        return True

    def _resume(self, text: memoryview, end: int) -> bool:
        """Go on behind an edit: where most of its last tokens stand again, or else as if it had replaced one token by one."""
        edit = self._edit = self._edit or Edit(self.at, self.place)  # the same one where this was tried and proved wrong
        new = text[edit.start : end].tolist()
        size = len(new)
        if size > GAP:
            return False
        stop = edit.place + size + GAP
        old = list(self._source[edit.place : min(stop, edit.start) if self._own else stop])
        run, off, behind = 0, 0, size
        last = new[-1]
        for i in [i for i, token in enumerate(old, 1) if token == last] if last in old else ():
            n, most = 1, min(size, i, MOST_MATCH)
            while n < most and old[i - 1 - n] == new[-1 - n]:
                n += 1
            if n > run or (n == run and abs(i - size) < off):
                run, off, behind = n, abs(i - size), i
        self.resumed, self.blind, self.run = True, run == 0 and size > 1, run
        self.place, self.at = edit.place + behind, end
        edit.end, edit.behind = end - run, self.place - run
        return True
