"""Who waits, in which order they start, and how much prefill each tenant has had. Knows no pages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

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
