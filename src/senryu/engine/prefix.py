"""The prefix tree: finds K/V that is already computed, by token ids, among the pages of live and finished sequences.

One node per full page, named by the page's token ids under its parent, so a path from the root spells a prompt in steps
of a page and a shared prefix is a shared path. (Runs of pages in one node would have to be split and merged; a step of
64 tokens is long enough for a dictionary look-up each.) The first page's name begins with the request's salt, therefore
tenants have disjoint trees under one root. A page enters as soon as its last token is computed, while its sequence runs.
"""

from __future__ import annotations

from senryu.engine.pages import PagePool
from senryu.engine.sequence import Sequence


class Node:
    """A full page in the tree. The root (page -1) stands for the empty prefix."""

    __slots__ = ("children", "key", "page", "parent")

    def __init__(self, page: int, key: bytes, parent: Node | None) -> None:
        self.page = page
        self.key = key
        self.parent = parent
        self.children: dict[bytes, Node] = {}


class PrefixTree:
    """The pages that can be shared, over a pool. Evicts by itself when a page is taken and none is free."""

    def __init__(self, pool: PagePool, page_size: int) -> None:
        self.pool = pool
        self.page_size = page_size
        self.root = Node(-1, b"", None)
        self.nodes: dict[int, Node] = {}  # by page

    def next_page(self, sequence: Sequence) -> bytes | None:
        """The name of the page that `sequence` could take from the tree next.

        None inside a page, and on the page of the last known token: that one is always computed, to be sampled from.
        """
        page, inside = divmod(sequence.computed, self.page_size)
        return None if inside or (page + 1) * self.page_size >= sequence.length else sequence.key(page)

    def adopt(self, sequence: Sequence) -> int:
        """Give `sequence` the computed pages that continue its prefix and hold them; returns how many."""
        node = sequence.node or self.root
        start = sequence.held
        while (key := self.next_page(sequence)) is not None and (child := node.children.get(key)) is not None:
            self.pool.hold(child.page)
            sequence.pages[sequence.held] = child.page
            sequence.held += 1
            sequence.depth += 1
            sequence.computed += self.page_size
            sequence.cached += self.page_size
            sequence.node = node = child
        return sequence.held - start

    def insert(self, sequence: Sequence) -> None:
        """Take in the pages that `sequence` has filled. Where an equal page is there already, the sequence changes over
        to it and its own becomes free: equal prefixes have bit-identical K/V."""
        node = sequence.node or self.root
        for i in range(sequence.depth, sequence.computed // self.page_size):
            page, key = int(sequence.pages[i]), sequence.key(i)
            child = node.children.get(key)
            if child is None:
                child = node.children[key] = self.nodes[page] = Node(page, key, node)
                self.pool.keep(page)
            else:
                self.pool.hold(child.page)
                self.pool.drop(page)
                sequence.pages[i] = child.page
            sequence.node = node = child
            sequence.depth = i + 1

    def take(self, sequence: Sequence) -> None:
        """Give `sequence` one more empty page, evicting the least recently used leaf if need be."""
        if not self.pool.free:
            self._evict()
        sequence.pages[sequence.held] = self.pool.take()
        sequence.held += 1

    def release(self, sequence: Sequence) -> None:
        """Drop all pages of `sequence`, deepest first: those in the tree stay cached, the others become free."""
        for page in sequence.pages[: sequence.held].tolist()[::-1]:
            self.pool.drop(page)
        sequence.held = sequence.depth = 0
        sequence.node = None

    def _evict(self) -> None:
        node = self.nodes.pop(self.pool.forget())
        assert node.parent is not None
        del node.parent.children[node.key]

    def check(self) -> set[int]:
        """The pages found by walking the tree. Raises AssertionError when links or the eviction order are broken."""
        found: set[int] = set()
        order = {page: i for i, page in enumerate(self.pool.cached)}
        stack = [self.root]
        while stack:
            node = stack.pop()
            for key, child in node.children.items():
                assert child.parent is node, "a node's parent is not the node that lists it"
                assert child.key == key, "a node is listed under another name"
                assert self.nodes.get(child.page) is child, "a page has two nodes"
                assert order.get(child.page, -1) < order.get(node.page, len(order)), "a page would go before what is below it"
                found.add(child.page)
                stack.append(child)
        assert found == self.nodes.keys(), "a node cannot be reached"
        return found
