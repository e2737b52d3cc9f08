"""Which cached page goes when a page is needed: the one that is cheapest to compute again for how long it was not used.

GreedyDual (Young 1994; with sizes and frequencies: Cherkasova 1998). A page that falls out of use gets the value
`floor + cost * uses`; the leaf of least value is evicted, and the floor rises to that value, so that what is not used
grows old against what is. With equal costs and uses this is LRU. A page's cost grows with its depth, since later tokens
have more to attend to. LAB.md has the comparison with LRU.
"""

from __future__ import annotations

import heapq
from itertools import count

from senryu.engine.node import Node
from senryu.engine.pages import PagePool

MOST_USES = 4  # counted uses; without a bound a page that was popular once would stay for ever


class EvictionOrder:
    """A heap of the pages that may go now: cached, not pinned, and nothing below them, so that a page never goes before
    what is below it. Entries that have become wrong stay in the heap until they come up; half of it at most are such."""

    def __init__(self, pool: PagePool, nodes: dict[int, Node], deep: float) -> None:
        """nodes: the tree's nodes by page. deep: the depth in tokens at which computing a token costs double."""
        self._pool = pool
        self._nodes = nodes
        self._deep = deep
        self._floor = 0.0
        self._serials = count(1)
        self._heap: list[tuple[float, int, int]] = []  # value, serial, page

    def retire(self, node: Node) -> None:
        """A page has fallen out of use. Deepest first along a path."""
        cost = node.tokens * (1 + node.depth / self._deep)
        node.value = self._floor + cost * min(node.uses, MOST_USES)
        node.serial = next(self._serials)
        self.offer(node)

    def offer(self, node: Node) -> None:
        """Something has changed about this page: perhaps it may go now."""
        if not self._may_go(node):
            return
        heapq.heappush(self._heap, (node.value, node.serial, node.page))
        if len(self._heap) > 2 * len(self._pool.cached) + 64:
            self._heap = [entry for entry in set(self._heap) if self._valid(entry)]
            heapq.heapify(self._heap)

    def pop(self) -> Node | None:
        """The page that goes next; None when there is no cached page that is not pinned."""
        while self._heap:
            entry = heapq.heappop(self._heap)
            if self._valid(entry):
                self._floor = max(self._floor, entry[0])
                return self._nodes[entry[2]]
        return None

    def _may_go(self, node: Node) -> bool:
        return not node.children and not node.pins and node.page in self._pool.cached and self._nodes.get(node.page) is node

    def _valid(self, entry: tuple[float, int, int]) -> bool:
        node = self._nodes.get(entry[2])
        return node is not None and node.serial == entry[1] and self._may_go(node)

    def check(self) -> None:
        """Raises AssertionError when a page that may go would not be found."""
        listed = {entry[2] for entry in self._heap if self._valid(entry)}
        assert listed == {page for page, node in self._nodes.items() if self._may_go(node)}, "a page cannot be evicted"
