"""What of a prompt is billed as written to or read from the cache: Claude's rules over positions. Accounting only, no engine.

One entry per breakpoint: the hash of all content up to it, and until when it can be read. The engine has the last word: what it
had to compute is never billed as read.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from senryu.service.positions import Position
from senryu.service.rules import HOUR
from senryu.types import Usage

LOOK_BACK = 20  # positions in which a breakpoint looks for an entry, itself counted
LEAST_TOKENS = 2_048  # of a prefix; a shorter one is not cached
Key = tuple[str, str, bytes]  # tenant, model, digest


@dataclass(frozen=True, slots=True)
class _Entry:
    ttl: int
    expires: float


class Cache:
    """Which prefixes can be read, of all tenants and models of a process."""

    def __init__(self, most: int = 1 << 16) -> None:
        """most: entries; beyond it those longest unused go."""
        self._most = most
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()  # least recently used first

    def settle(self, tenant: str, model: str, positions: Sequence[Position], total: int, cached: int, start: float) -> Usage:
        """The usage of a prompt of `total` tokens whose request came at `start` (seconds, of the caller's clock).

        cached: tokens that the engine need not compute. Reads and writes entries, so call it once, when the answer begins.
        With A the tokens read, B the end of the last breakpoint of an hour, C that of the last one: A are read, B - A
        written for an hour, C - B for five minutes, and the rest is plain input.
        """
        numbers = _countable_ones(positions)
        if not numbers:
            return Usage(input_tokens=total, reused_tokens=cached)
        hit = self._hit(tenant, model, positions, numbers, start)
        read = 0 if hit is None else min(positions[hit].end, cached)
        hour = max((positions[number].end for number in numbers if positions[number].ttl == HOUR), default=0)
        last = positions[numbers[-1]].end
        for number in sorted({*numbers} | ({hit} if hit is not None else set())):
            self._keep((tenant, model, positions[number].digest), positions[number], read, start)
        written = max(read, hour), max(read, last)
        return Usage(
            input_tokens=total - written[1],
            cache_write_5m=written[1] - written[0],
            cache_write_1h=written[0] - read,
            cache_read=read,
            reused_tokens=cached,
        )

    def readable(self, tenant: str, model: str, positions: Sequence[Position], start: float) -> int:
        """Tokens that such a prompt reads, if the engine still has them all; nothing is settled."""
        hit = self._hit(tenant, model, positions, _countable_ones(positions), start)
        return 0 if hit is None else positions[hit].end

    def _hit(self, tenant: str, model: str, positions: Sequence[Position], numbers: list[int], start: float) -> int | None:
        """The last position with an entry, in sight of any breakpoint."""
        seen = {number - back for number in numbers for back in range(min(LOOK_BACK, number + 1))}
        for number in sorted(seen, reverse=True):
            if self._alive((tenant, model, positions[number].digest), start):
                return number
        return None

    def _alive(self, key: Key, start: float) -> _Entry | None:
        entry = self._entries.get(key)
        return entry if entry is not None and entry.expires > start else None

    def _keep(self, key: Key, position: Position, read: int, start: float) -> None:
        """An entry that was read lives as long again as it was paid for; one that is paid for now, as its breakpoint says."""
        entry = self._alive(key, start)
        paid = position.end > read or entry is None
        ttl = max(entry.ttl if entry else 0, position.ttl or 0 if paid else 0)
        self._entries[key] = _Entry(ttl, max(start + ttl, entry.expires if entry else 0.0))
        self._entries.move_to_end(key)
        if len(self._entries) > self._most:
            self._entries.popitem(last=False)


def _countable_ones(positions: Sequence[Position]) -> list[int]:
    return [number for number, position in enumerate(positions) if countable(position)]


def countable(position: Position) -> bool:
    """It has a breakpoint, and before that enough tokens to be kept."""
    return position.ttl is not None and position.end >= LEAST_TOKENS
