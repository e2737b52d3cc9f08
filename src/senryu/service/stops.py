"""Stop strings in a stream of text: matched across any piece borders, never leaking the beginning of a match.

An Aho-Corasick automaton: its depth after a character is the length of the longest suffix that could still become a stop
string, which is exactly the text that must be held back. Cost is constant per character, however many stop strings.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence


class StopWatcher:
    """Feed text, get back what is safe to show. The match that completes first wins; of several, the longest."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._next: list[dict[str, int]] = [{}]
        self._fail = [0]
        self._depth = [0]
        self._match: list[str | None] = [None]
        for stop in stops:
            self._add(stop)
        self._link()
        self._node = 0
        self._held = ""

    def _add(self, stop: str) -> None:
        node = 0
        for char in stop:
            child = self._next[node].get(char)
            if child is None:
                child = len(self._next)
                self._next.append({})
                self._fail.append(0)
                self._depth.append(self._depth[node] + 1)
                self._match.append(None)
                self._next[node][char] = child
            node = child
        self._match[node] = stop

    def _link(self) -> None:
        queue = deque(self._next[0].values())
        while queue:
            node = queue.popleft()
            for char, child in self._next[node].items():
                self._fail[child] = self._step(self._fail[node], char)
                queue.append(child)
            if self._match[node] is None:
                self._match[node] = self._match[self._fail[node]]

    def _step(self, node: int, char: str) -> int:
        while char not in self._next[node]:
            if node == 0:
                return 0
            node = self._fail[node]
        return self._next[node][char]

    def push(self, text: str) -> tuple[str, str | None]:
        """(text that can be shown now, the stop string that was completed or None). After a match push no more."""
        if not self._next[0]:
            return text, None
        held = self._held + text
        for index, char in enumerate(text, start=len(self._held) + 1):
            self._node = self._step(self._node, char)
            stop = self._match[self._node]
            if stop is not None:
                self._held = ""
                return held[: index - len(stop)], stop
        safe = len(held) - self._depth[self._node]
        self._held = held[safe:]
        return held[:safe], None

    def flush(self) -> str:
        """The text held back, when no more will come."""
        held, self._held, self._node = self._held, "", 0
        return held
