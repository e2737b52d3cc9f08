"""Batches and their requests in the database. Every step is one transaction: whenever the process dies, a request has
either its one result and its one row of usage, or neither."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Literal

from sqlalchemy import and_, bindparam, delete, func, insert, select, tuple_, update
from sqlalchemy.engine import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from senryu.ledger.database import Database
from senryu.ledger.rows import UsageRow
from senryu.ledger.tables import batch_requests, batches
from senryu.ledger.usage import record

State = Literal["succeeded", "errored", "canceled", "expired"]
CHUNK = 1000  # rows that go to the database in one statement
NO_BYTES = b""

# built once, since they run for every request
_THIS = and_(
    batch_requests.c.batch_id == bindparam("this_batch"),
    batch_requests.c.position == bindparam("this_position"),
    batch_requests.c.state == "pending",
)
_PARAMS = select(batch_requests.c.params).where(_THIS)
_FINISH = (
    update(batch_requests).where(_THIS).values(state=bindparam("new_state"), result=bindparam("new_result"), params=NO_BYTES)
)


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch. `dialect` says how its parameters are to be read. Times in microseconds since 1970; the last four fields are
    counted when it ends."""

    id: str
    tenant: str
    dialect: str
    created_at: int
    expires_at: int
    total: int
    cancel_initiated_at: int | None = None
    ended_at: int | None = None
    archived_at: int | None = None
    succeeded: int = 0
    errored: int = 0
    canceled: int = 0
    expired: int = 0


@dataclass(frozen=True, slots=True)
class NewRequest:
    """A request as it comes. `params` is JSON; requests whose `run_order` are neighbours are run as neighbours."""

    custom_id: str
    params: bytes
    run_order: bytes


@dataclass(frozen=True, slots=True)
class PendingRequest:
    """A request that waits to be run, without its parameters, which may be large."""

    position: int
    run_order: bytes


@dataclass(frozen=True, slots=True)
class Result:
    """What became of a request; `result` is JSON where it succeeded or errored."""

    position: int
    custom_id: str
    state: State
    result: bytes | None


@dataclass(slots=True, eq=False)
class _Finish:
    """A result on its way into the database. `kept` None: not there yet; False: there was one before."""

    values: dict[str, object]
    usage: Sequence[UsageRow]
    kept: bool | None = None


class BatchStore:
    """The batches of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._finishing: list[_Finish] = []
        self._one_at_a_time = asyncio.Lock()

    async def create(self, batch: Batch, requests: Iterable[NewRequest]) -> None:
        """Keep a batch and all of its requests, or nothing."""
        async with self._database.write() as connection:
            await connection.execute(insert(batches), [asdict(batch)])
            numbered = enumerate(requests)
            while chunk := list(islice(numbered, CHUNK)):
                rows = [
                    {**asdict(request), "batch_id": batch.id, "position": position, "state": "pending"}
                    for position, request in chunk
                ]
                await connection.execute(insert(batch_requests), rows)

    async def get(self, tenant: str, id: str) -> Batch | None:
        """One batch of a tenant; None when there is no such batch."""
        async with self._database.read() as connection:
            return await _one(connection, tenant, id)

    async def page(
        self, tenant: str, limit: int, after: Batch | None = None, before: Batch | None = None
    ) -> tuple[list[Batch], bool]:
        """At most `limit` batches, newest first, between two others; and whether there are more that way."""
        order = tuple_(batches.c.created_at, batches.c.id)
        query = select(batches).where(batches.c.tenant == tenant)
        if after:
            query = query.where(order < (after.created_at, after.id))
        if before:
            query = query.where(order > (before.created_at, before.id))
        backwards = before is not None and after is None
        columns = (batches.c.created_at, batches.c.id)
        query = query.order_by(*(column.asc() if backwards else column.desc() for column in columns))
        async with self._database.read() as connection:
            found = [_batch(row) for row in await connection.execute(query.limit(limit + 1))]
        page = found[:limit]
        return page[::-1] if backwards else page, len(found) > limit

    async def unfinished(self) -> list[Batch]:
        """Every tenant's batches that have not ended, oldest first."""
        query = select(batches).where(batches.c.ended_at.is_(None)).order_by(batches.c.created_at)
        async with self._database.read() as connection:
            return [_batch(row) for row in await connection.execute(query)]

    async def pending(self, id: str, after: PendingRequest | None, limit: int) -> list[PendingRequest]:
        """The next requests of a batch that wait, in the order in which they are to run."""
        table = batch_requests.c
        query = select(table.position, table.run_order).where(table.batch_id == id, table.state == "pending")
        if after:
            query = query.where(tuple_(table.run_order, table.position) > (after.run_order, after.position))
        query = query.order_by(table.run_order, table.position).limit(limit)
        async with self._database.read() as connection:
            return [PendingRequest(**row._mapping) for row in await connection.execute(query)]

    async def params(self, id: str, position: int) -> bytes:
        """The parameters of a request that waits."""
        async with self._database.read() as connection:
            found = await connection.execute(_PARAMS, {"this_batch": id, "this_position": position})
            return bytes(found.scalar_one())

    async def finish(self, id: str, position: int, state: State, result: bytes | None, usage: Sequence[UsageRow]) -> bool:
        """Keep the result of a request that waits, and its usage, together. False, and nothing kept, when it has one.

        Results that come while others are written are written together: a disk takes as long for many as for one.
        """
        mine = _Finish({"this_batch": id, "this_position": position, "new_state": state, "new_result": result}, usage)
        self._finishing.append(mine)
        try:
            async with self._one_at_a_time:
                if mine.kept is None:  # nobody has taken it along
                    await self._finish_all([one for one in self._finishing if one.kept is None])
        finally:
            self._finishing.remove(mine)
        return bool(mine.kept)

    async def _finish_all(self, all: Sequence[_Finish]) -> None:
        kept = []
        async with self._database.write() as connection:
            for one in all:
                kept.append(bool((await connection.execute(_FINISH, one.values)).rowcount))
            await connection.run_sync(record, [row for one, new in zip(all, kept) if new for row in one.usage])
        for one, new in zip(all, kept):
            one.kept = new

    async def cancel(self, tenant: str, id: str, at: int) -> Batch | None:
        """Note that a batch is to be canceled, unless it has ended or is being canceled; the batch as it is then."""
        this = and_(batches.c.tenant == tenant, batches.c.id == id)
        running = and_(this, batches.c.cancel_initiated_at.is_(None), batches.c.ended_at.is_(None))
        async with self._database.write() as connection:
            await connection.execute(update(batches).where(running).values(cancel_initiated_at=at))
            return await _one(connection, tenant, id)

    async def end(self, id: str, at: int, rest: State | None) -> bool:
        """End a batch and count its results; what still waits becomes `rest`. False when something waits and rest is None."""
        table = batch_requests.c
        waits = and_(table.batch_id == id, table.state == "pending")
        async with self._database.write() as connection:
            if rest:
                await connection.execute(update(batch_requests).where(waits).values(state=rest, params=NO_BYTES))
            query = select(table.state, func.count()).where(table.batch_id == id).group_by(table.state)
            counts = {row[0]: row[1] for row in await connection.execute(query)}
            if "pending" in counts:
                return False
            this = and_(batches.c.id == id, batches.c.ended_at.is_(None))
            await connection.execute(update(batches).where(this).values(ended_at=at, **counts))
            return True

    async def delete(self, tenant: str, id: str) -> bool:
        """Remove a batch that has ended, with its results. False when there was none."""
        this = and_(batches.c.tenant == tenant, batches.c.id == id, batches.c.ended_at.is_not(None))
        async with self._database.write() as connection:
            return bool((await connection.execute(delete(batches).where(this))).rowcount)

    async def archive(self, created_before: int, at: int) -> None:
        """Remove the results of ended batches that were created before a time; the batches themselves stay."""
        old = and_(batches.c.created_at < created_before, batches.c.ended_at.is_not(None), batches.c.archived_at.is_(None))
        async with self._database.write() as connection:
            ids = select(batches.c.id).where(old)
            await connection.execute(delete(batch_requests).where(batch_requests.c.batch_id.in_(ids)))
            await connection.execute(update(batches).where(old).values(archived_at=at))

    async def results(self, id: str, after: int, limit: int) -> list[Result]:
        """The next results of a batch behind a position (-1 for the first), in the order in which it was sent."""
        table = batch_requests.c
        query = select(table.position, table.custom_id, table.state, table.result)
        query = query.where(table.batch_id == id, table.position > after).order_by(table.position).limit(limit)
        async with self._database.read() as connection:
            return [Result(**row._mapping) for row in await connection.execute(query)]


async def _one(connection: AsyncConnection, tenant: str, id: str) -> Batch | None:
    query = select(batches).where(batches.c.tenant == tenant, batches.c.id == id)
    row = (await connection.execute(query)).first()
    return _batch(row) if row else None


def _batch(row: Row) -> Batch:
    return Batch(**row._mapping)
