"""What a caller has used: written before it is read, by day, week and month, and nobody else's."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path

from senryu.config import Settings
from senryu.ledger.clock import DAY, SECOND
from senryu.ledger.database import Database
from senryu.ledger.rows import ToolErrors, UsageRow
from senryu.service.usage_reader import Spent, UsageReader
from senryu.service.usage_writer import UsageWriter
from senryu.types import Usage

THURSDAY = int(datetime(2026, 1, 15, 12, tzinfo=UTC).timestamp()) * SECOND


def row(id: str, at: int, tenant: str = "t", cost: int = 1) -> UsageRow:
    return UsageRow(
        id=id,
        at=at,
        tenant=tenant,
        model="m",
        tier="batch",
        outcome="finished",
        stop_reason="tool_use",
        usage=Usage(1, 2, 3, 4, 5, 6),
        cost_nano=cost,
        input_cost_nano=1,
        first_token_ms=None,
        total_ms=7,
        tool_errors=ToolErrors(1, 2, 3),
        batch_id="b",
    )


def test_sums_begin_with_the_day_the_week_and_the_month(tmp_path: Path) -> None:
    midnight = DAY // 2  # so long before
    ages = {
        "now": 0,
        "today": midnight,
        "yesterday": midnight + 1,
        "monday": midnight + 3 * DAY,
        "sunday": midnight + 3 * DAY + 1,
        "first": midnight + 14 * DAY,
        "last year": midnight + 14 * DAY + 1,
    }

    async def read() -> tuple[Spent, Spent]:
        async with Database(Settings(home=tmp_path)) as database:
            writer = UsageWriter(database)  # nobody writes in the background: the reader has it done
            reader = UsageReader(database, writer)
            for number, (name, age) in enumerate(ages.items()):
                writer.add(row(name, THURSDAY - age, cost=10**number))
            writer.add(row("another's", THURSDAY, "u", 5))
            return await reader.spent("t", THURSDAY), await reader.spent("nobody", THURSDAY)

    mine, nobody = asyncio.run(read())
    assert mine == Spent(total=1_111_111, day=11, week=1_111, month=111_111)
    assert nobody == Spent(0, 0, 0, 0)


def test_a_row_is_found_whole_and_by_its_tenant_alone(tmp_path: Path) -> None:
    async def read() -> None:
        async with Database(Settings(home=tmp_path)) as database:
            writer = UsageWriter(database)
            reader = UsageReader(database, writer)
            async with writer.writing():
                writer.add(row("a", THURSDAY))
                assert await reader.row("t", "a") == row("a", THURSDAY)
                assert await reader.row("u", "a") is None
                assert await reader.row("t", "b") is None
                for number in range(50):  # while the writer writes, too
                    writer.add(row(f"r{number}", THURSDAY))
                    found = await asyncio.gather(*(reader.row("t", f"r{number}") for _ in range(3)))
                    assert all(found)
            assert (await reader.spent("t", THURSDAY)).total == 51

    asyncio.run(read())
