"""Indexes of token ids, for drafts: where the last few tokens of a text have stood before, in it or in finished answers."""

from __future__ import annotations

from collections.abc import Sequence as Ids

LEAST_MATCH, MOST_MATCH = 3, 8  # tokens that must, and that are compared to, have stood before a guess
LOOK = 8  # how many earlier places of the last LEAST_MATCH tokens are compared
CATCH_UP = 4096  # tokens of a prompt that are indexed in one step: about a millisecond
GENERATION = 8192  # tokens in each of a tenant's two generations
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
        latest, earlier = self._latest, self._earlier
        stop = min(end, self._end + most)
        start = max(self._end, LEAST_MATCH - 1)
        earlier += [0] * (min(start, stop) - self._end)
        known = list(self.text[start - 2 : stop])
        for place, gram in enumerate(zip(known, known[1:], known[2:]), start + 1):
            # a hash in place of the tokens saves memory; two that share one cost a wrong guess at worst
            key = hash(gram)
            earlier.append(latest.get(key, 0))
            latest[key] = place
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
