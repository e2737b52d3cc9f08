"""One page in the prefix tree: its name, its place, what is below it. Decides nothing."""

from __future__ import annotations

from bisect import bisect_left, insort
from hashlib import blake2b

import numpy as np

DIGEST_BYTES = 32


class Node:
    """A page under the page before it; the root (page -1) stands for the empty prefix.

    `key` is `Sequence.key` of the page. A full page can have children; a tail, the unfinished last page of a sequence,
    cannot, and is never shared: the tokens at its head can be copied from it.
    """

    __slots__ = (
        "children", "depth", "digest", "expiry", "key", "names", "page", "parent", "pins", "serial", "tokens", "ttl", "uses",
        "value",
    )  # fmt: skip

    def __init__(self, page: int, key: bytes, parent: Node | None, depth: int = 0, tokens: int = 0) -> None:
        """depth: tokens before this page. tokens: tokens in it."""
        self.page = page
        self.key = key
        self.parent = parent
        self.depth = depth
        self.tokens = tokens
        self.children: dict[bytes, Node] = {}
        self.names: list[bytes] = []  # the children's keys, sorted: the nearest names stand beside each other
        self.digest = blake2b(key, digest_size=DIGEST_BYTES).digest() if parent is None else parent.digest_below(key)
        self.pins = 0  # pinned prefixes that this page is part of
        self.ttl = self.expiry = 0.0  # of the pinned prefix that ends here
        self.uses = 1
        self.value = 0.0  # among the cached leaves the least one is evicted
        self.serial = 0  # grows with every falling out of use

    def digest_below(self, key: bytes) -> bytes:
        """The name of a whole path, for places where the path itself is not known or not to be told: a chain of hashes."""
        return blake2b(self.digest + key, digest_size=DIGEST_BYTES).digest()

    def add(self, child: Node) -> None:
        self.children[child.key] = child
        insort(self.names, child.key)

    def remove(self, child: Node) -> None:
        del self.children[child.key]
        del self.names[bisect_left(self.names, child.key)]

    def neighbours(self, key: bytes) -> list[Node]:
        """The children before and after (or at) the place of `key` in order: none shares a longer head with it."""
        i = bisect_left(self.names, key)
        return [self.children[name] for name in self.names[max(i - 1, 0) : i + 1]]


def common_bytes(a: bytes, b: bytes) -> int:
    """How many bytes two names have in common at their head."""
    n = min(len(a), len(b))
    if a[:n] == b[:n]:
        return n
    return int((np.frombuffer(a, np.uint8, n) != np.frombuffer(b, np.uint8, n)).argmax())
