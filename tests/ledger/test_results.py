"""Results that come together, singly and twice: each is kept once, with its usage, and its bearer is told."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from senryu.config import Settings
from senryu.ledger.batches import Batch, BatchStore, NewRequest
from senryu.ledger.database import Database
from senryu.ledger.rows import UsageRow
from senryu.ledger.tables import requests
from senryu.types import Usage

COUNT = 50
ROW = UsageRow("", 0, "t", "m", "batch", "finished", "end_turn", Usage(1), 400, 400, 1, 2, batch_id="b")
BATCH = Batch("b", "t", "", 0, 1, COUNT)


def test_results_that_come_together_are_kept_once(ledger_settings: Settings) -> None:
    async def main() -> None:
        async with Database(ledger_settings) as database:
            store = BatchStore(database)
            await store.create(BATCH, [NewRequest(f"c{number}", b"{}", b"") for number in range(COUNT)])

            async def finish(number: int, attempt: int) -> bool:
                row = replace(ROW, id=f"{number} {attempt}")
                return await store.finish("b", number, "succeeded", str(attempt).encode(), [row])

            first = await asyncio.gather(*(finish(number, attempt) for number in range(COUNT) for attempt in (1, 2)))
            assert first == [True, False] * COUNT
            assert not any(await asyncio.gather(*(finish(number, 3) for number in range(COUNT))))
            assert {one.result for one in await store.results("b", -1, 1000)} == {b"1"}
            async with database.read() as connection:
                ids = set((await connection.execute(select(requests.c.id))).scalars())
            assert ids == {f"{number} 1" for number in range(COUNT)}
            assert await store.end("b", 5, None)
            assert (await store.get("t", "b")) == replace(BATCH, ended_at=5, succeeded=COUNT)

    asyncio.run(main())


def test_a_result_without_its_usage_is_not_kept(ledger_settings: Settings) -> None:
    async def main() -> None:
        async with Database(ledger_settings) as database:
            store = BatchStore(database)
            await store.create(replace(BATCH, total=1), [NewRequest("c", b"{}", b"")])
            broken = replace(ROW, id="1", outcome=None)  # type: ignore[arg-type]
            with pytest.raises(IntegrityError):
                await store.finish("b", 0, "succeeded", b"", [broken])
            assert await store.end("b", 5, None) is False
            assert await store.finish("b", 0, "succeeded", b"", [replace(ROW, id="2")])

    asyncio.run(main())
