"""How much a tenant may ask for in a minute: requests, input and output tokens, as buckets that refill all the time.

A bucket holds what its limit gives in a minute, and is full at first. Input is what was not read from the cache. Output
counts as it is written, whatever `max_tokens` says: an answer that has begun is never cut, and the tenant's next requests
wait for what it takes beyond the bucket.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from senryu.config import Settings
from senryu.errors import SenryuError
from senryu.types import Usage

Kind = Literal["requests", "input tokens", "output tokens"]
SECOND = 10**9
MINUTE = 60 * SECOND
KEPT = 1024  # buckets that may be kept though they are full


@dataclass(frozen=True, slots=True)
class Standing:
    """What is left of a limit now; full_in: nanoseconds until nothing of it is missing."""

    limit: int
    remaining: int
    full_in: int


class Rates:
    """The buckets of all tenants. limits: for a minute; 0 is none. clock: nanoseconds, never going back."""

    def __init__(self, limits: Mapping[Kind, int], clock: Callable[[], int] = time.monotonic_ns) -> None:
        self.limits = {kind: limit for kind, limit in limits.items() if limit}
        self._clock = clock
        self._full_at: dict[tuple[str, Kind], int] = {}  # times the limit, so that all sums are exact; none: full
        self._sweep_at = KEPT

    def check(self, tenant: str, needs: Mapping[Kind, int]) -> None:
        """Is all of it there? Raises SenryuError("rate_limited"), with the seconds until it will be, or ("rate_never")."""
        now, longest = self._clock(), 0
        short: Kind | None = None
        for kind, limit in self.limits.items():
            if not (need := needs.get(kind, 0)):
                continue
            if need > limit:
                raise SenryuError("rate_never", what=kind, rate=limit, count=need)
            beyond = self._missing(tenant, kind, now) - (limit - need) * MINUTE
            if (seconds := -(-beyond // (limit * SECOND))) > longest:
                longest, short = seconds, kind
        if short:
            raise SenryuError("rate_limited", what=short, rate=self.limits[short], retry_after=longest)

    def charge(self, tenant: str, kind: Kind, amount: int) -> None:
        """Takes so much, be it there or not; gives back what is negative."""
        if not amount or not (limit := self.limits.get(kind)):
            return
        now = self._clock()
        self._full_at[tenant, kind] = now * limit + self._missing(tenant, kind, now) + amount * MINUTE
        if len(self._full_at) > self._sweep_at:
            self._full_at = {at: full for at, full in self._full_at.items() if full > now * self.limits[at[1]]}
            self._sweep_at = max(KEPT, 2 * len(self._full_at))

    def standing(self, tenant: str) -> dict[str, Standing]:
        """Of every limit there is."""
        now, found = self._clock(), dict[str, Standing]()
        for kind, limit in self.limits.items():
            missing = self._missing(tenant, kind, now)
            found[kind] = Standing(limit, max(0, limit - -(-missing // MINUTE)), -(-missing // limit))
        return found

    def _missing(self, tenant: str, kind: Kind, now: int) -> int:
        """From a full bucket, times MINUTE; more than the limit where answers have written more than there was."""
        return max(0, self._full_at.get((tenant, kind), 0) - now * self.limits[kind])


class Pace:
    """What one turn takes of its tenant's rates."""

    def __init__(self, rates: Rates, tenant: str) -> None:
        self._rates, self._tenant = rates, tenant
        self._read, self._written = 0, 0

    def begin(self, expected: int, max_tokens: int) -> None:
        """A request that will read so many tokens, as far as is known. Raises as `Rates.check`; then nothing is taken."""
        self._rates.check(self._tenant, {"requests": 1, "input tokens": expected, "output tokens": min(max_tokens, 1)})
        self._rates.charge(self._tenant, "requests", 1)
        self._charge_input(expected)

    def settle(self, usage: Usage) -> None:
        """Now it is known."""
        self._charge_input(usage.input_tokens + usage.cache_write_5m + usage.cache_write_1h)

    def wrote(self, total: int) -> None:
        """So many tokens of the answer since it began."""
        self._rates.charge(self._tenant, "output tokens", total - self._written)
        self._written = total

    def _charge_input(self, total: int) -> None:
        self._rates.charge(self._tenant, "input tokens", total - self._read)
        self._read = total


def rates_of(settings: Settings) -> Rates:
    """As they are set."""
    return Rates(
        {
            "requests": settings.requests_per_minute,
            "input tokens": settings.input_tokens_per_minute,
            "output tokens": settings.output_tokens_per_minute,
        }
    )
