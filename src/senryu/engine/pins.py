"""Prefixes that are kept for a time: which, until when, and which of them give way when they hold too much."""

from __future__ import annotations

import heapq
from collections import OrderedDict
from itertools import count

from senryu.engine.node import Node


class Pins:
    """Pinned prefixes by their last page. Every page on the path from the root to it is pinned."""

    def __init__(self, most_pages: int) -> None:
        self.pages = 0  # pages with at least one pin
        self._most = most_pages
        self._ends: OrderedDict[Node, None] = OrderedDict()  # least recently used first
        self._expiries: list[tuple[float, int, Node]] = []  # a heap; entries of an older expiry are skipped
        self._numbers = count()  # so that no two entries are equal

    def __len__(self) -> int:
        return len(self._ends)

    def pin(self, node: Node, ttl: float, now: float) -> list[Node]:
        """Keep the path down to `node` until now + ttl at least; returns the pages that lost their last pin for it.

        No more than `most_pages` in all: of a longer path the head is pinned, and other pins give way, oldest first.
        """
        while node.depth // node.tokens >= self._most and node.parent is not None:
            node = node.parent
            if node.parent is None:
                return []  # no page may be pinned at all
        if node not in self._ends:
            self._ends[node] = None
            node.ttl = node.expiry = 0.0
            for page in _path(node):
                page.pins += 1
                self.pages += page.pins == 1
        node.ttl = max(node.ttl, ttl)
        self.refresh(node, now)
        lost = []
        while self.pages > self._most:
            lost += self.unpin_oldest()
        return lost

    def refresh(self, node: Node, now: float) -> None:
        """The prefix that ends at `node` is used: where it is pinned, its time starts anew."""
        if node in self._ends:
            self._ends.move_to_end(node)
            if now + node.ttl > node.expiry:
                node.expiry = now + node.ttl
                heapq.heappush(self._expiries, (node.expiry, next(self._numbers), node))
                if len(self._expiries) > 2 * len(self._ends) + 64:
                    self._expiries = [(end.expiry, next(self._numbers), end) for end in self._ends if end.expiry]
                    heapq.heapify(self._expiries)

    def expire(self, now: float) -> list[Node]:
        """Undo the pins whose time is over; returns the pages that lost their last pin, deepest first along a path."""
        lost = []
        while self._expiries and self._expiries[0][0] <= now:
            expiry, _, node = heapq.heappop(self._expiries)
            if node in self._ends and node.expiry == expiry:
                lost += self._unpin(node)
        return lost

    def unpin_oldest(self) -> list[Node]:
        """Undo the pin that was not used for longest; returns the pages that lost their last pin."""
        return self._unpin(next(iter(self._ends)))

    def _unpin(self, node: Node) -> list[Node]:
        del self._ends[node]
        lost = []
        for page in _path(node):
            page.pins -= 1
            if not page.pins:
                self.pages -= 1
                lost.append(page)
        return lost

    def check(self, nodes: list[Node]) -> None:
        """Raises AssertionError unless exactly the paths of the pinned prefixes, among `nodes`, are pinned."""
        pins = dict.fromkeys(nodes, 0)
        for end in self._ends:
            for page in _path(end):
                assert page in pins, "a page outside the tree is pinned"
                pins[page] += 1
        assert all(node.pins == count for node, count in pins.items()), "pins differ from the pinned prefixes"
        assert self.pages == sum(1 for count in pins.values() if count) <= self._most, "pinned pages are miscounted"


def _path(node: Node) -> list[Node]:
    """From `node` up to the first page."""
    path = []
    while node.parent is not None:
        path.append(node)
        node = node.parent
    return path
