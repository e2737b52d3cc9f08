"""What callers have used, from the ledger: one answer's row, and the sums of a tenant."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from senryu.ledger import clock
from senryu.ledger.database import Database
from senryu.ledger.rows import UsageRow
from senryu.ledger.usage import find, spent
from senryu.service.usage_writer import UsageWriter


@dataclass(frozen=True, slots=True)
class Spent:
    """Nano-dollars: in all, and since the day, the week (Monday) and the month began (UTC)."""

    total: int
    day: int
    week: int
    month: int


class UsageReader:
    """Rows that still wait are written first: an answer's is there as soon as its caller has the answer."""

    def __init__(self, database: Database, writer: UsageWriter) -> None:
        self._database, self._writer = database, writer

    async def row(self, tenant: str, id: str) -> UsageRow | None:
        """The row of the answer `id`; None where this tenant has no such answer."""
        await self._writer.flush()
        async with self._database.read() as connection:
            return await find(connection, tenant, id)

    async def spent(self, tenant: str, now: int | None = None) -> Spent:
        """What a tenant's turns cost. now: microseconds."""
        await self._writer.flush()
        day = clock.as_datetime(clock.now() if now is None else now).replace(hour=0, minute=0, second=0, microsecond=0)
        since = [0, *map(_microseconds, (day, day - timedelta(days=day.weekday()), day.replace(day=1)))]
        async with self._database.read() as connection:
            return Spent(*await spent(connection, tenant, since))


def _microseconds(time: datetime) -> int:
    return (time - clock.EPOCH) // timedelta(microseconds=1)
