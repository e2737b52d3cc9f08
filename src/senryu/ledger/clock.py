"""The ledger's time: whole microseconds since 1970, UTC."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

SECOND = 1_000_000
DAY = 86_400 * SECOND
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def now() -> int:
    """Microseconds."""
    return time.time_ns() // 1_000


def as_datetime(time: int) -> datetime:
    """`time` in microseconds as a datetime in UTC, exactly."""
    return EPOCH + timedelta(microseconds=time)
