"""One row for every turn that was started, however it ends; and the writer that loses none of them."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from senryu.config import Settings
from senryu.errors import SenryuError
from senryu.ledger import clock
from senryu.ledger.database import Database
from senryu.ledger.rows import UsageRow
from senryu.ledger.tables import requests
from senryu.service import usage_writer
from senryu.service.registry import LoadedModel, Registry
from senryu.service.turn import Service
from senryu.service.usage_writer import UsageWriter
from senryu.types import BlockStarted, CacheControl, Finished, Message, Started, Text, TextDelta, Turn, Usage
from serving import TOKENIZER, says, scripted_model

TURN = Turn("claude-3-5-haiku-latest", (Message("user", (Text("Hi"),)),), 64, tenant="t")
ROW = UsageRow("", 0, "t", "m", "standard", "finished", "end_turn", Usage(1), 800, 800, 1, 2)


def followed(model: LoadedModel, turn: Turn = TURN, until: type | None = None, breaks: bool = False) -> UsageRow:
    """The one row that a turn leaves. until: the kind of event at which its caller leaves; breaks: the engine stops midway."""
    rows: list[UsageRow] = []

    async def main() -> None:
        service = Service(Registry([model]), Settings(home=Path("unused")), rows.append)
        try:
            async with aclosing(service.run(turn)) as events:
                async for event in events:
                    if isinstance(event, Finished):
                        assert event.cost_nano == service.prices["standard"].cost(event.usage)
                    if until and isinstance(event, until):
                        break
                    if breaks and isinstance(event, TextDelta):
                        await model.engine.close()
        except SenryuError:
            assert breaks or turn.deadline
        finally:
            await model.engine.close()

    before = clock.now()
    asyncio.run(main())
    (row,) = rows
    assert before <= row.at <= clock.now()
    assert (row.tenant, row.model, row.tier, row.batch_id) == ("t", "claude-3-5-haiku-20241022", "standard", None)
    assert row.id.startswith("msg_")
    return row


def slow() -> LoadedModel:
    """Noise: what repeats would be drafted, and done in a few steps."""
    noise = "".join(random.Random(0).choices("abcdefghijklmnopqrstuvwxyz", k=10_000))
    return scripted_model(lambda request: TOKENIZER.encode(noise[: request.max_tokens]), seconds_per_step=0.01)


def test_a_turn_that_finishes() -> None:
    row = followed(scripted_model(says("Hello")))
    assert (row.outcome, row.stop_reason) == ("finished", "end_turn")
    assert row.usage.output_tokens == len("Hello") + 1
    assert row.input_cost_nano == row.usage.input_tokens * 800
    assert row.cost_nano == row.input_cost_nano + row.usage.output_tokens * 4000
    assert row.first_token_ms is not None
    assert 0 <= row.first_token_ms <= row.total_ms


def test_a_caller_who_leaves_after_the_end_has_had_all() -> None:
    row = followed(scripted_model(says("Hello")), until=Finished)
    assert (row.outcome, row.stop_reason, row.usage.output_tokens) == ("finished", "end_turn", 6)


def test_a_caller_who_leaves_before_the_first_token_pays_nothing() -> None:
    row = followed(slow(), until=Started)
    assert (row.outcome, row.stop_reason, row.first_token_ms) == ("aborted", None, None)
    assert row.cost_nano == row.input_cost_nano == 0
    assert row.usage.output_tokens == 0
    assert row.usage.input_tokens > 0


def test_a_caller_who_leaves_early_pays_for_a_prefix_that_others_will_read() -> None:
    marked = Message("user", (Text("x" * 3000, CacheControl()), Text("?")))
    row = followed(slow(), replace(TURN, messages=(marked,)), until=Started)
    assert (row.outcome, row.usage.output_tokens) == ("aborted", 0)
    assert row.usage.cache_write_5m > 2048
    assert row.cost_nano == row.input_cost_nano == row.usage.cache_write_5m * 1000 + row.usage.input_tokens * 800


def test_a_caller_who_leaves_later_pays_for_what_was_made() -> None:
    row = followed(slow(), until=BlockStarted)
    assert (row.outcome, row.stop_reason) == ("aborted", None)
    assert 1 <= row.usage.output_tokens < 64
    assert row.cost_nano == row.usage.input_tokens * 800 + row.usage.output_tokens * 4000


def test_a_turn_that_fails_costs_nothing() -> None:
    row = followed(slow(), breaks=True)
    assert (row.outcome, row.cost_nano, row.input_cost_nano) == ("failed", 0, 0)
    assert row.usage.output_tokens >= 1


def test_a_deadline_is_a_failure() -> None:
    row = followed(slow(), replace(TURN, deadline=time.monotonic() + 0.1))
    assert (row.outcome, row.cost_nano) == ("failed", 0)


def test_a_turn_that_is_refused_leaves_no_row() -> None:
    rows: list[UsageRow] = []

    async def main() -> None:
        registry = Registry([scripted_model()])
        service = Service(registry, Settings(home=Path("unused")), rows.append)
        for refused in (replace(TURN, model="x"), replace(TURN, max_tokens=9000)):
            with pytest.raises(SenryuError):
                await anext(service.run(refused))
        await registry.close()

    asyncio.run(main())
    assert rows == []


async def written(database: Database) -> list[str]:
    async with database.read() as connection:
        return sorted((await connection.execute(select(requests.c.id))).scalars())


def test_rows_are_written_while_it_runs_and_all_at_the_end(ledger_settings: Settings) -> None:
    async def main() -> None:
        async with Database(ledger_settings) as database:
            writer = UsageWriter(database)
            async with writer.writing():
                writer.add(replace(ROW, id="first"))
                async with asyncio.timeout(60):
                    while await written(database) != ["first"]:
                        await asyncio.sleep(0.005)
                for number in range(500):
                    writer.add(replace(ROW, id=f"{number:03d}"))
            assert await written(database) == [*(f"{number:03d}" for number in range(500)), "first"]

    asyncio.run(main())


class Failing:
    """A database that refuses a number of writes, and counts them and their rows."""

    def __init__(self, database: Database, refusals: int) -> None:
        self.database, self.refusals = database, refusals
        self.writes: list[int] = []

    async def write_apart(self, work: Callable[[Any, list[UsageRow]], None], rows: list[UsageRow]) -> None:
        self.writes.append(len(rows))
        if len(self.writes) <= self.refusals:
            raise OSError("disk full")
        await self.database.write_apart(work, rows)


def test_rows_that_cannot_be_written_wait(ledger_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage_writer, "RETRY_SECONDS", 0.01)

    async def main() -> None:
        async with Database(ledger_settings) as database:
            failing = Failing(database, 2)
            writer = UsageWriter(failing)  # type: ignore[arg-type]
            async with writer.writing():
                for number in range(5):
                    writer.add(replace(ROW, id=str(number)))
            assert await written(database) == list("01234")
            assert failing.writes == [5, 5, 5]

    asyncio.run(main())


def test_neighbours_share_a_commit_and_a_stop_waits_for_no_more(
    ledger_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(usage_writer, "GROUP_SECONDS", 3600.0)
    monkeypatch.setattr(usage_writer, "GROUP_ROWS", 10)

    async def main() -> None:
        async with Database(ledger_settings) as database:
            counting = Failing(database, 0)
            writer = UsageWriter(counting)  # type: ignore[arg-type]
            async with writer.writing():
                for number in range(9):
                    writer.add(replace(ROW, id=f"{number:02d}"))
                    await asyncio.sleep(0)
                assert counting.writes == []
                writer.add(replace(ROW, id="09"))  # so many wait no longer
                async with asyncio.timeout(60):
                    while len(await written(database)) < 10:
                        await asyncio.sleep(0.005)
                for number in range(10, 13):
                    writer.add(replace(ROW, id=f"{number:02d}"))
                    await asyncio.sleep(0)
            assert counting.writes == [10, 3]
            assert await written(database) == [f"{number:02d}" for number in range(13)]

    asyncio.run(main())


def test_a_stop_does_not_wait_for_a_database_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    monkeypatch.setattr(usage_writer, "RETRY_SECONDS", 0.01)

    async def main() -> None:
        async with Database(Settings(home=tmp_path)) as database:
            writer = UsageWriter(Failing(database, 1000))  # type: ignore[arg-type]
            async with writer.writing():
                writer.add(ROW)

    asyncio.run(main())
    assert "usage of 1 requests is lost" in caplog.text
