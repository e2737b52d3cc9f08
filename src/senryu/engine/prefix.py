"""The prefix tree: finds K/V that is already computed, by token ids, among the pages of live and finished sequences.

One node per page, named by the page's token ids under its parent, so a path from the root spells a prompt in steps of a
page and a shared prefix is a shared path. (Runs of pages in one node would have to be split and merged; a step of 64
tokens is long enough for a dictionary look-up each.) The first page's name begins with a hash of the request's salt,
therefore tenants have disjoint trees under one root. A full page enters as soon as its last token is computed, while its
sequence runs; the unfinished last page of a sequence when the sequence ends.

A sequence gets what others have computed in three ways, in this order: it shares full pages (`adopt`), it takes full pages
back from disk (`restore`), and it copies the head of a page that begins as its own next one (`borrow`).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Protocol

from senryu.engine.evict import EvictionOrder
from senryu.engine.node import Node, common_bytes
from senryu.engine.pages import PagePool
from senryu.engine.pins import Pins
from senryu.engine.sequence import SALT_BYTES, Sequence
from senryu.engine.spill import Spill

ID_BYTES = 4
SHUTDOWN_SECONDS = 10.0  # how long `save` may hold up a stop


class PageStore(Protocol):
    """The part of `Runner` that moves K/V."""

    def copy_page(self, source: int, target: int) -> None: ...

    def read_page(self, page: int) -> bytes: ...

    def write_page(self, page: int, content: bytes | memoryview) -> None: ...


class PrefixTree:
    """The pages that can be shared, over a pool. Evicts by itself when a page is taken and none is free."""

    def __init__(
        self,
        pool: PagePool,
        page_size: int,
        store: PageStore,
        *,
        spill: Spill | None = None,
        deep: float = math.inf,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """deep: the depth in tokens at which computing a token costs double. clock: seconds, for the time of pins."""
        self.pool = pool
        self.page_size = page_size
        self.root = Node(-1, b"", None)
        self.nodes: dict[int, Node] = {}  # by page
        self.pins = Pins(pool.total // 2)
        self.spill = spill
        self._unsaved: deque[Node] = deque()  # pinned pages that are to go to disk at once
        self._store = store
        self._clock = clock
        self._order = EvictionOrder(pool, self.nodes, deep)

    def next_page(self, sequence: Sequence) -> bytes | None:
        """The name of the page that `sequence` could take from the tree next.

        None inside a page, and on the page of the last known token: that one is always computed, to be sampled from.
        """
        page, inside = divmod(sequence.computed, self.page_size)
        return None if inside or (page + 1) * self.page_size >= sequence.length else sequence.key(page)

    def adopt(self, sequence: Sequence, *, trial: bool = False) -> None:
        """Give `sequence` the computed pages that continue its prefix, and hold them.

        trial: it may have to give them back at once, so they do not count as used until `confirm`.
        """
        node = sequence.node or self.root
        while (key := self.next_page(sequence)) is not None and (child := node.children.get(key)) is not None:
            self.pool.hold(child.page)
            sequence.pages[sequence.held] = child.page
            sequence.held += 1
            sequence.depth += 1
            sequence.node = node = child
            self._gain(sequence, self.page_size)
            if not trial:
                child.uses += 1
                self._arrive(sequence, child, sequence.depth)

    def confirm(self, sequence: Sequence) -> None:
        """What `sequence` adopted on trial it keeps: its whole path is used, and pins on it begin anew."""
        path: list[Node] = []
        node = sequence.node
        while node is not None and node is not self.root:
            path.append(node)
            node = node.parent
        for depth, node in enumerate(reversed(path), 1):
            node.uses += 1
            self._arrive(sequence, node, depth)

    def restore(self, sequence: Sequence, most: int) -> tuple[int, bool]:
        """Read the pages that continue `sequence`'s prefix back from disk, `most` at most, into pages that it takes.

        Returns how many, and whether there are more.
        """
        count = 0
        while self.spill is not None and (key := self.next_page(sequence)) is not None:
            parent = sequence.node or self.root
            digest = parent.digest_below(key)
            if not self.spill.known(digest):
                break
            if count == most:
                return count, True
            if (content := self.spill.read(digest)) is None:
                break
            self.take(sequence)
            page = int(sequence.pages[sequence.held - 1])
            self._store.write_page(page, content)
            count += 1
            self._gain(sequence, self.page_size)
            self._descend(sequence, self._add(page, key, parent, self.page_size))
        return count, False

    def borrow(self, sequence: Sequence, running: Iterable[Sequence]) -> None:
        """Start `sequence`'s next page as a copy, where a page in the tree or of a `running` sequence begins alike.

        Nothing happens inside a page. The last known token is never copied. One token is worth a copy: it takes less time than
        computing the token's row does, and a breakpoint is then exact to the token.
        """
        index, inside = divmod(sequence.computed, self.page_size)
        wanted = min(self.page_size, sequence.length - 1 - sequence.computed)
        if inside or wanted < 1:
            return
        parent = sequence.node or self.root
        name = sequence.key(index, wanted)
        salt = len(name) - wanted * ID_BYTES
        heads = [(common_bytes(name, child.key), child.page) for child in parent.neighbours(name)]
        for other in running:
            if other.held > index == other.depth and other.node is sequence.node and other is not sequence:
                own = other.key(index, min(other.computed - sequence.computed, self.page_size))
                heads.append((common_bytes(name, own), int(other.pages[index])))
        head, source = max(heads, default=(0, -1))
        tokens = (head - salt) // ID_BYTES
        if tokens < 1:
            return
        self.pool.hold(source)  # it might be evicted for the copy
        if self.pool.available:
            self.take(sequence)
            self._store.copy_page(source, int(sequence.pages[sequence.held - 1]))
            self._gain(sequence, tokens)
            if source in self.nodes:
                self.nodes[source].uses += 1
        self._drop(source)

    def insert(self, sequence: Sequence) -> None:
        """Take in the pages that `sequence` has filled. Where an equal page is there already, the sequence changes over
        to it and its own becomes free: equal prefixes have bit-identical K/V."""
        node = sequence.node or self.root
        for i in range(sequence.depth, sequence.computed // self.page_size):
            page, key = int(sequence.pages[i]), sequence.key(i)
            child = node.children.get(key)
            if child is None:
                child = self._add(page, key, node, self.page_size)
            else:
                self.pool.hold(child.page)
                self.pool.drop(page)
                sequence.pages[i] = child.page
            self._descend(sequence, child)
            node = child

    def take(self, sequence: Sequence) -> None:
        """Give `sequence` one more empty page, evicting a leaf if need be."""
        if not self.pool.free:
            self._evict()
        sequence.pages[sequence.held] = self.pool.take()
        sequence.held += 1

    def release(self, sequence: Sequence) -> None:
        """Drop all pages of `sequence`, deepest first: those in the tree stay cached, and so does a last page with tokens to be
        copied from; the others become free."""
        self._keep_tail(sequence)
        for page in sequence.pages[: sequence.held].tolist()[::-1]:
            self._drop(page)
        sequence.held = sequence.depth = 0
        sequence.node = None

    def expire(self) -> None:
        """Undo the pins whose time is over."""
        self._unpinned(self.pins.expire(self._clock()))

    def save_pinned(self, most: int, patience: float = 0.0) -> bool:
        """Write pinned pages to disk, `most` at most, so that they are there whatever happens to this process.

        patience: seconds to wait for the disk to take a page. True: there is more to write, and it can be tried again.
        """
        while self._unsaved and self.spill is not None:
            node = self._unsaved[0]
            if self.nodes.get(node.page) is node and not self.spill.known(node.digest):
                if not most:
                    return True
                if not self.spill.wait(patience):
                    if not self.spill.writing:
                        self._unsaved.clear()
                    return bool(self._unsaved)
                self._write(node)
                most -= 1
            self._unsaved.popleft()
        return False

    def save(self) -> None:
        """Write to disk what is cached, pinned pages first, then the last used; as much as fits and time allows."""
        if self.spill is None:
            return
        until = self._clock() + SHUTDOWN_SECONDS
        full = [node for node in self.nodes.values() if node.tokens == self.page_size and node.page in self.pool.cached]
        full.sort(key=lambda node: (node.pins == 0, -node.serial))  # a page comes before what is below it
        for node in full[: self.spill.most_pages]:
            if not self.spill.wait(until - self._clock()):
                break
            self._write(node)

    def _descend(self, sequence: Sequence, child: Node) -> None:
        """`sequence` has come to `child`, its next page."""
        sequence.node = child
        sequence.depth += 1
        self._arrive(sequence, child, sequence.depth)

    def _arrive(self, sequence: Sequence, child: Node, depth: int) -> None:
        """The pins that end at `child`, page `depth` of `sequence`, begin anew."""
        if child.ttl:
            self.pins.refresh(child, self._clock())
        if ttl := sequence.breakpoints.get(depth):
            self._unpinned(self.pins.pin(child, ttl, self._clock()))
            self._save_later(child)

    def _save_later(self, node: Node) -> None:
        """The pages down to `node`, the first ones first: what is on disk without the page before it cannot be found."""
        missing = []
        while self.spill is not None and node.parent is not None:
            if not self.spill.known(node.digest):
                missing.append(node)
            node = node.parent
        self._unsaved.extend(reversed(missing))

    def _gain(self, sequence: Sequence, tokens: int) -> None:
        sequence.computed += tokens
        if not sequence.paused:
            sequence.cached += tokens

    def _add(self, page: int, key: bytes, parent: Node, tokens: int) -> Node:
        """A node for a page that is in use; a tail that is the head of the new page is of no use any more."""
        for near in parent.neighbours(key):
            if near.page in self.pool.cached and len(near.key) < len(key) and key.startswith(near.key):
                self._forget(near)
        node = self.nodes[page] = Node(page, key, parent, parent.depth + parent.tokens, tokens)
        parent.add(node)
        self.pool.keep(page)
        return node

    def _keep_tail(self, sequence: Sequence) -> None:
        """Put the unfinished page of a sequence that ends into the tree, unless a page there begins with all of it."""
        tokens = sequence.computed - sequence.depth * self.page_size
        if not 0 < tokens < self.page_size:
            return
        parent, key = sequence.node or self.root, sequence.key(sequence.depth, tokens)
        if not any(near.key.startswith(key) for near in parent.neighbours(key)):
            self._add(int(sequence.pages[sequence.depth]), key, parent, tokens)

    def _drop(self, page: int) -> None:
        if self.pool.drop(page):
            self._order.retire(self.nodes[page])

    def _evict(self) -> None:
        """Free the cached page that is worth least; pins give way only when there is nothing else."""
        while (node := self._order.pop()) is None:
            if not self.pins:
                raise IndexError("no page can be evicted")
            self._unpinned(self.pins.unpin_oldest())
        if node.tokens == self.page_size:
            self._write(node)
        self._forget(node)

    def _forget(self, node: Node) -> None:
        parent = node.parent
        assert parent is not None
        del self.nodes[node.page]
        self.pool.forget(node.page)
        parent.remove(node)
        self._order.offer(parent)

    def _unpinned(self, nodes: list[Node]) -> None:
        for node in nodes:
            self._order.offer(node)

    def _write(self, node: Node) -> None:
        if self.spill is not None and self.spill.wants(node.digest):
            self.spill.put(node.digest, self._store.read_page(node.page))

    def check(self) -> set[int]:
        """The pages found by walking the tree. Raises AssertionError when links, pins or the eviction order are broken."""
        found: dict[int, Node] = {}
        stack = [self.root]
        while stack:
            node = stack.pop()
            assert node.names == sorted(node.children), "a node's names are not those of its children"
            assert not node.children or node is self.root or node.tokens == self.page_size, "something is below a tail"
            for key, child in node.children.items():
                assert child.parent is node, "a node's parent is not the node that lists it"
                assert child.key == key, "a node is listed under another name"
                assert len(key) - ID_BYTES * child.tokens == (SALT_BYTES if node is self.root else 0), (
                    "a name has a wrong length"
                )
                assert self.nodes.get(child.page) is child, "a page has two nodes"
                assert child.page not in self.pool.cached or not self.pool.refs[child.page], "a page is cached and in use"
                if self.pool.refs[child.page] and node is not self.root:
                    assert self.pool.refs[node.page], "a page is in use, but not the page before it"
                found[child.page] = child
                stack.append(child)
        assert found.keys() == self.nodes.keys(), "a node cannot be reached"
        self._order.check()
        self.pins.check(list(found.values()))
        return set(found)
