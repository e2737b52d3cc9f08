"""The life of a batch with a clock of the test's own: expiry, archive, room that comes and goes, stops and starts, tenants."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest
from sqlalchemy import select

from senryu.config import Settings
from senryu.engine.interface import TokenRequest
from senryu.errors import SenryuError
from senryu.ledger.batches import BatchStore
from senryu.ledger.database import Database
from senryu.ledger.tables import requests
from senryu.service import batch_runner
from senryu.service.batch_runner import BatchRunner, Shape
from senryu.service.batches import LIFE, RESULTS_KEPT, Batch, Batches, NewRequest
from senryu.service.registry import LoadedModel, Registry
from senryu.service.turn import Service
from senryu.types import BlockStopped, Message, Text, Turn
from serving import TOKENIZER, idle, says, scripted_model

START = 1_700_000_000_000_000


async def to_turn(params: bytes, dialect: str, tenant: str) -> Turn:
    if params == b"wrong":
        raise SenryuError("extra", path="foo")
    return Turn("senryu-mini", (Message("user", (Text(params.decode()),)),), int(dialect), tenant=tenant)


async def to_message(turn: Turn, events: Any) -> bytes:
    async with asyncio.timeout(60):
        texts = [event.block.text async for event in events if isinstance(event, BlockStopped)]
    return "".join(texts).encode()


SHAPE = Shape(to_turn, to_message, lambda error: error.message.encode())


@dataclass
class Server:
    """The parts of one, and what a test may turn."""

    batches: Batches
    model: LoadedModel
    database: Database
    service: Service
    time: int = START
    draining: bool = False

    async def end(self, id: str, tenant: str = "t") -> Batch:
        return await until(self.batches.get, tenant, id)

    async def results(self, id: str, tenant: str = "t") -> list[tuple[str, str, bytes | None]]:
        pieces = (await self.batches.results(tenant, id))[1]
        return [(one.custom_id, one.state, one.result) async for piece in pieces for one in piece]


async def until(get: Callable[..., Coroutine[Any, Any, Batch]], *arguments: str) -> Batch:
    async with asyncio.timeout(60):
        while (batch := await get(*arguments)).ended_at is None:
            await asyncio.sleep(0.01)
    return batch


@asynccontextmanager
async def server(
    settings: Settings, model: LoadedModel | None = None, time: int = START, draining: bool = False, **options: Any
) -> AsyncIterator[Server]:
    """A server's parts over an open database; closed like a server. draining: batches are kept, none is run."""
    model = model or scripted_model(says("Hello"))
    settings = replace(settings, **options)
    async with Database(settings) as database:
        registry, store = Registry([model]), BatchStore(database)
        service = Service(registry, settings)
        how: dict[str, Any] = {"concurrency": settings.batch_concurrency, "kept": RESULTS_KEPT}
        how |= {"stopping": lambda: it.draining, "now": lambda: it.time}
        runner = BatchRunner(service, store, SHAPE, **how)
        it = Server(Batches(store, runner, lambda: it.time), model, database, service, time, draining)
        try:
            async with runner.running():
                yield it
        finally:
            await registry.close()


def of(*texts: bytes) -> list[NewRequest]:
    return [NewRequest(f"c{index}", text, text) for index, text in enumerate(texts)]


def slow() -> LoadedModel:
    """Answers of max_tokens take a while."""
    return scripted_model(lambda request: TOKENIZER.encode("x") * request.max_tokens, seconds_per_step=0.005)


async def running(it: Server, count: int) -> None:
    async with asyncio.timeout(60):
        while it.model.engine.stats().running < count:
            await asyncio.sleep(0.005)


def test_results_and_usage_of_a_batch(ledger_settings: Settings) -> None:
    async def main() -> None:
        async with server(ledger_settings) as it:
            batch = await it.batches.create("t", "9", of(b"a", b"wrong", b"b"))
            done = await it.end(batch.id)
            assert (done.succeeded, done.errored, done.total) == (2, 1, 3)
            assert await it.results(batch.id) == [
                ("c0", "succeeded", b"Hello"),
                ("c1", "errored", b"foo: Extra inputs are not permitted"),
                ("c2", "succeeded", b"Hello"),
            ]
            async with it.database.read() as connection:
                rows = (await connection.execute(select(requests))).all()
            assert {(row.tenant, row.tier, row.batch_id, row.outcome, row.stop_reason) for row in rows} == {
                ("t", "batch", batch.id, "finished", "end_turn")
            }
            assert all(2 * row.cost_nano == row.input_tokens * 800 + row.output_tokens * 4000 for row in rows)
            assert len(rows) == 2

    asyncio.run(main())


def test_a_tenant_does_not_see_anothers_batches(ledger_settings: Settings) -> None:
    async def main() -> None:
        async with server(ledger_settings) as it:
            id = (await it.batches.create("t", "9", of(b"a"))).id
            await it.end(id)
            for refused in (it.batches.get, it.batches.cancel, it.batches.delete, it.batches.results):
                with pytest.raises(SenryuError, match="not found"):
                    await refused("other", id)  # type: ignore[operator]
            with pytest.raises(SenryuError, match="no batch"):
                await it.batches.page("other", 5, id, None)
            assert await it.batches.page("other", 5, None, None) == ([], False)
            assert (await it.end(id)).succeeded == 1

    asyncio.run(main())


def test_what_has_not_run_after_a_day_expires_and_costs_nothing(ledger_settings: Settings) -> None:
    async def main() -> None:
        async with server(ledger_settings, slow(), batch_concurrency=2) as it:
            it.time = START + 2 * LIFE
            before = await it.batches.create("t", "5", of(b"a"))
            await it.end(before.id)
            it.time = START
            batch = await it.batches.create("t", "400", of(*[b"a"] * 6))
            assert batch.expires_at == START + LIFE
            await running(it, 2)
            it.time = START + LIFE
            done = await it.end(batch.id)
            assert done.expired == 4  # two were running, and nothing cuts them short of their real time
            assert done.succeeded == 2
            assert [state for _, state, result in await it.results(batch.id) if result is None] == ["expired"] * 4
            async with it.database.read() as connection:
                rows = (await connection.execute(select(requests.c.batch_id))).all()
            assert [row.batch_id for row in rows].count(batch.id) == 2

    asyncio.run(main())


def test_a_request_that_runs_when_its_batch_expires_is_cut(ledger_settings: Settings) -> None:
    async def main() -> None:
        async with server(ledger_settings, draining=True) as it:
            batch = await it.batches.create("t", "8000", of(b"a"))
        async with server(ledger_settings, slow(), time=START + LIFE - 300_000) as it:  # 0.3 s before its end
            await running(it, 1)
            async with asyncio.timeout(60):
                while it.model.engine.stats().running:
                    await asyncio.sleep(0.01)
            done = await it.end(batch.id)
            assert (done.expired, done.succeeded) == (1, 0)
            async with it.database.read() as connection:
                row = (await connection.execute(select(requests))).one()
            assert (row.outcome, row.cost_nano) == ("failed", 0)
            assert row.output_tokens > 0

    asyncio.run(main())


def test_results_are_kept_for_29_days(ledger_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_runner, "SWEEP_SECONDS", 0.02)

    async def main() -> None:
        async with server(ledger_settings) as it:
            old = await it.batches.create("t", "9", of(b"a"))
            await it.end(old.id)
            it.time = START + 60
            new = await it.batches.create("t", "9", of(b"a"))
            await it.end(new.id)
            it.time = START + RESULTS_KEPT + 1
            async with asyncio.timeout(60):
                while (await it.batches.get("t", old.id)).archived_at is None:
                    await asyncio.sleep(0.01)
            archived = await it.batches.get("t", old.id)
            assert (archived.archived_at, archived.succeeded) == (it.time, 1)
            with pytest.raises(SenryuError, match="29 days"):
                await it.results(old.id)
            assert len(await it.results(new.id)) == 1
            assert [batch.id for batch in (await it.batches.page("t", 9, None, None))[0]] == [new.id, old.id]

    asyncio.run(main())


def test_overload_is_waited_out(ledger_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_runner, "FIRST_PAUSE", 0.01)

    async def main() -> None:
        async with server(ledger_settings, max_requests=1) as it:
            with it.service.admission.admit():
                batch = await it.batches.create("t", "9", of(b"a", b"b", b"c"))
                await asyncio.sleep(0.1)
                assert (await it.batches.get("t", batch.id)).ended_at is None
            assert (await it.end(batch.id)).succeeded == 3

    asyncio.run(main())


def test_a_canceled_batch_that_waits_for_room_ends(ledger_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_runner, "FIRST_PAUSE", 0.01)

    async def main() -> None:
        async with server(ledger_settings, max_requests=1) as it:
            with it.service.admission.admit():
                batch = await it.batches.create("t", "9", of(b"a", b"b", b"c"))
                await it.batches.cancel("t", batch.id)
                done = await it.end(batch.id)
            assert (done.canceled, done.succeeded) == (3, 0)
            assert await it.results(batch.id) == [(f"c{number}", "canceled", None) for number in range(3)]

    asyncio.run(main())


def test_a_failed_engine_is_no_result(ledger_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its requests wait for a server whose engine runs."""
    monkeypatch.setattr(batch_runner, "FIRST_PAUSE", 0.01)

    async def main() -> None:
        async with server(ledger_settings) as it:
            await it.model.engine.close()
            id = (await it.batches.create("t", "9", of(b"a"))).id
            await asyncio.sleep(0.1)
            assert (await it.batches.get("t", id)).ended_at is None
        async with server(ledger_settings) as it:
            assert (await it.end(id)).succeeded == 1

    asyncio.run(main())


def test_a_stop_leaves_what_is_not_done_to_the_next_start(ledger_settings: Settings) -> None:
    async def main() -> None:
        async with server(ledger_settings, slow(), batch_concurrency=2) as it:
            batch = await it.batches.create("t", "100", of(*[b"a"] * 8))
            await running(it, 2)
            it.draining = True
            async with asyncio.timeout(60):
                while not idle(it.model):  # what runs is finished, nothing is begun
                    await asyncio.sleep(0.01)
            assert (await it.batches.get("t", batch.id)).ended_at is None
        async with server(ledger_settings, slow(), batch_concurrency=2) as it:
            await running(it, 2)
        assert idle(it.model)
        async with server(ledger_settings) as it:
            done = await it.end(batch.id)
            assert done.succeeded == 8
            results = [result for _, _, result in await it.results(batch.id)]
            assert 2 <= results.count(b"x" * 100) < 8
            assert results.count(b"x" * 100) + results.count(b"Hello") == 8
            async with it.database.read() as connection:
                assert len((await connection.execute(select(requests))).all()) == 8

    asyncio.run(main())


def test_a_batch_that_was_being_canceled_ends_at_the_next_start(ledger_settings: Settings) -> None:
    async def main() -> None:
        async with server(ledger_settings, slow()) as it:
            batch = await it.batches.create("t", "8000", of(*[b"a"] * 3))
            await running(it, 3)
            await it.batches.cancel("t", batch.id)
        async with server(ledger_settings) as it:
            assert (await it.end(batch.id)).canceled == 3

    asyncio.run(main())


def test_batches_take_turns(ledger_settings: Settings) -> None:
    """A small batch does not wait for the end of a large one."""

    async def main() -> None:
        model = scripted_model(says("Hello"), seconds_per_step=0.002)
        async with server(ledger_settings, model, batch_concurrency=1) as it:
            large = await it.batches.create("t", "9", of(*[b"a"] * 200))
            small = await it.batches.create("u", "9", of(b"b", b"c"))
            await it.end(small.id, "u")
            assert (await it.batches.get("t", large.id)).ended_at is None

    asyncio.run(main())


def test_a_result_that_comes_twice_is_kept_and_billed_once(ledger_settings: Settings) -> None:
    """As when two servers share a database and both run a batch."""

    async def main() -> None:
        async with server(ledger_settings, draining=True) as it:
            batch = await it.batches.create("t", "9", of(*[b"a"] * 20))
        slowly = scripted_model(says("Hello"), seconds_per_step=0.02)  # one has not ended the batch before two begins
        async with server(ledger_settings, slowly, batch_concurrency=1) as one, server(ledger_settings) as two:
            assert (await one.end(batch.id)).succeeded == 20
            assert one.model.engine.stats().output_tokens
            assert two.model.engine.stats().output_tokens
            assert len(await one.results(batch.id)) == 20
            async with one.database.read() as connection:
                assert len((await connection.execute(select(requests))).all()) == 20

    asyncio.run(main())


def test_the_tenant_and_the_priority_reach_the_engine(ledger_settings: Settings) -> None:
    seen: list[tuple[bytes, str]] = []

    def reply(request: TokenRequest) -> list[int]:
        seen.append((request.salt, request.priority))
        return TOKENIZER.encode("x")

    async def main() -> None:
        async with server(ledger_settings, scripted_model(reply)) as it:
            await it.end((await it.batches.create("t", "1", of(b"a"))).id)

    asyncio.run(main())
    assert seen == [(b"t", "batch")]


def test_an_answer_that_cannot_be_written_down_is_free(ledger_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(turn: Turn, events: Any) -> bytes:
        await to_message(turn, events)
        raise ValueError("no such letter")

    monkeypatch.setitem(globals(), "SHAPE", replace(SHAPE, message=broken))

    async def main() -> None:
        async with server(ledger_settings) as it:
            batch = await it.batches.create("t", "5", of(b"a"))
            assert (await it.end(batch.id)).errored == 1
            async with it.database.read() as connection:
                rows = (await connection.execute(select(requests.c.outcome, requests.c.cost_nano))).all()
            assert [tuple(row) for row in rows] == [("failed", 0)]

    asyncio.run(main())
