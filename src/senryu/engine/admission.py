"""Who waits, in which order they start, until when, and how much prefill each tenant has had. Knows no pages."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterator

from senryu.engine.interface import Priority
from senryu.engine.sequence import Sequence

Lane = tuple[Priority, bytes]


class Shares:
    """What each tenant (salt) that has requests here has running, and the prefill rows that it has been given.

    A tenant that comes begins level with the one that has had least: being away saves nothing up. (The virtual token
    counter of Sheng et al., Fairness in Serving Large Language Models, 2024, over prefill rows.)
    """

    def __init__(self) -> None:
        self.running: Counter[bytes] = Counter()
        self.served: dict[bytes, float] = {}
        self._requests: Counter[bytes] = Counter()

    def enter(self, tenant: bytes) -> None:
        """A request has come."""
        if not self._requests[tenant]:
            self.served[tenant] = min(self.served.values(), default=0.0)
        self._requests[tenant] += 1

    def leave(self, tenant: bytes) -> None:
        """A request has ended, started or not."""
        self._requests[tenant] -= 1
        if not self._requests[tenant]:
            del self._requests[tenant], self.served[tenant], self.running[tenant]


class Queue:
    """Requests that have not started, in a lane for each priority and tenant."""

    def __init__(self, shares: Shares) -> None:
        self._shares = shares
        self._lanes: dict[Lane, dict[Sequence, None]] = {}
        self._arrivals = 0

    def __len__(self) -> int:
        return sum(len(lane) for lane in self._lanes.values())

    def __bool__(self) -> bool:
        return bool(self._lanes)

    def __contains__(self, sequence: Sequence) -> bool:
        return sequence in self._lanes.get((sequence.priority, sequence.salt), {})

    def __iter__(self) -> Iterator[Sequence]:
        """In order of arrival."""
        return iter(sorted((one for lane in self._lanes.values() for one in lane), key=lambda one: one.arrival))

    def add(self, sequence: Sequence) -> None:
        """A new request, to the end of its lane."""
        sequence.arrival = self._arrivals
        self._arrivals += 1
        self._lanes.setdefault((sequence.priority, sequence.salt), {})[sequence] = None

    def put_back(self, sequence: Sequence) -> None:
        """One that had started, to the front of its lane."""
        lane = (sequence.priority, sequence.salt)
        self._lanes[lane] = {sequence: None, **self._lanes.get(lane, {})}

    def remove(self, sequence: Sequence) -> None:
        """Raises KeyError when it is not queued."""
        key = (sequence.priority, sequence.salt)
        lane = self._lanes[key]
        del lane[sequence]
        if not lane:
            del self._lanes[key]

    def head(self, priority: Priority) -> Sequence | None:
        """Who starts next: of the tenant with least running, then with least prefill, then who came first."""
        heads = (next(iter(lane)) for (kind, _), lane in self._lanes.items() if kind == priority)
        shares = self._shares
        return min(heads, key=lambda one: (shares.running[one.salt], shares.served[one.salt], one.arrival), default=None)


class Deadlines:
    """Until when requests are wanted."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Sequence]] = []
        self._wanted: set[Sequence] = set()  # entries of others are skipped

    def add(self, sequence: Sequence) -> None:
        if sequence.deadline is not None:
            self._wanted.add(sequence)
            heapq.heappush(self._heap, (sequence.deadline, sequence.arrival, sequence))

    def discard(self, sequence: Sequence) -> None:
        """It has ended."""
        self._wanted.discard(sequence)
        if len(self._heap) > 2 * len(self._wanted) + 64:
            self._heap = [entry for entry in self._heap if entry[2] in self._wanted]
            heapq.heapify(self._heap)

    def due(self, clock: Callable[[], float]) -> list[Sequence]:
        """Those whose deadline has passed, earliest first. The clock is not read when there is none."""
        found: list[Sequence] = []
        now = clock() if self._wanted else 0.0
        while self._wanted and self._heap[0][0] <= now:
            sequence = heapq.heappop(self._heap)[2]
            if sequence in self._wanted:
                self._wanted.remove(sequence)
                found.append(sequence)
        return found
