"""The page pool: which K/V pages are free, cached or live. Page ids only; the K/V itself is the program's.

free ── take ──> live ── drop ──> free         a page that the prefix tree does not keep
                 live ── drop ──> cached       a page that it keeps
                 live <── hold ── cached ── forget ──> free
"""

from __future__ import annotations


class PagePool:
    """Pages 0..total-1. A page is live while `refs` > 0 (sequences that hold it), cached when only the tree keeps it."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.free = list(range(total - 1, -1, -1))  # a stack: recently used pages are warm
        self.cached: set[int] = set()
        self.refs = [0] * total
        self.kept = bytearray(total)  # 1: the prefix tree has a node for this page

    @property
    def live(self) -> int:
        return self.total - len(self.free) - len(self.cached)

    @property
    def available(self) -> int:
        """Pages that can be handed out now: free, or cached and therefore evictable."""
        return len(self.free) + len(self.cached)

    def take(self) -> int:
        """A free page becomes live with one holder. Raises IndexError when none is free: evict first."""
        page = self.free.pop()
        self.refs[page] = 1
        return page

    def hold(self, page: int) -> None:
        """One more holder of a live or cached page."""
        if self.refs[page] == 0:
            self.cached.remove(page)
        self.refs[page] += 1

    def drop(self, page: int) -> bool:
        """One holder less; the last one leaves it cached when the tree keeps it, else free. True: it is cached now."""
        self.refs[page] -= 1
        if self.refs[page]:
            return False
        if not self.kept[page]:
            self.free.append(page)
            return False
        self.cached.add(page)
        return True

    def keep(self, page: int) -> None:
        """The tree has taken this live page in."""
        self.kept[page] = 1

    def forget(self, page: int) -> None:
        """The tree lets go of a cached page, which becomes free. Raises KeyError when it is not cached."""
        self.cached.remove(page)
        self.kept[page] = 0
        self.free.append(page)

    def check(self, refs: list[int], kept: set[int]) -> None:
        """Every page is exactly one of free, cached and live. Raises AssertionError.

        refs, kept: the holders of each page and the tree's pages, counted anew by the caller.
        """
        assert self.refs == refs, "reference counts differ from the pages that sequences hold"
        assert {page for page, flag in enumerate(self.kept) if flag} == kept, "kept pages differ from the tree's"
        free, live = set(self.free), {page for page, count in enumerate(refs) if count}
        assert len(free) == len(self.free), "a page is free twice"
        assert self.cached == kept - live, "cached is not: kept by the tree and held by nobody"
        assert not free & (kept | live), "a free page is in use"
        assert len(free) + len(self.cached) + len(live) == self.total, "free + cached + live differs from total"
