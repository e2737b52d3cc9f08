"""What a batch is: its life, from what was sent to results that are kept for 29 days. Running it is another file's."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence

from senryu.errors import SenryuError
from senryu.ledger import clock
from senryu.ledger.batches import Batch, BatchStore, NewRequest, Result
from senryu.service.batch_runner import BatchRunner
from senryu.service.ids import new_id

__all__ = ["LIFE", "RESULTS_KEPT", "Batch", "Batches", "NewRequest", "Result"]

LIFE = clock.DAY  # then what has not run expires
RESULTS_KEPT = 29 * clock.DAY  # from the batch's creation
RESULTS_AT_ONCE = 200


class Batches:
    """The batches of every tenant; one tenant never sees another's."""

    def __init__(self, store: BatchStore, runner: BatchRunner, now: Callable[[], int] = clock.now) -> None:
        self._store, self._runner, self._now = store, runner, now

    async def create(self, tenant: str, dialect: str, requests: Sequence[NewRequest]) -> Batch:
        """Keep a batch, on disk, and begin to run it. dialect: as the runner's shape knows it."""
        at = self._now()
        batch = Batch(new_id("msgbatch_"), tenant, dialect, at, at + LIFE, len(requests))
        await self._store.create(batch, requests)
        self._runner.start(batch)
        return batch

    async def get(self, tenant: str, id: str) -> Batch:
        """Raises SenryuError("batch_unknown")."""
        batch = await self._store.get(tenant, id)
        if batch is None:
            raise SenryuError("batch_unknown", id=id[:128])
        return batch

    async def page(self, tenant: str, limit: int, after_id: str | None, before_id: str | None) -> tuple[list[Batch], bool]:
        """At most `limit` batches, newest first, and whether there are more. Raises SenryuError("bad_cursor")."""
        ends = []
        for path, id in (("after_id", after_id), ("before_id", before_id)):
            end = await self._store.get(tenant, id) if id else None
            if id and not end:
                raise SenryuError("bad_cursor", path=path, thing="batch")
            ends.append(end)
        return await self._store.page(tenant, limit, *ends)

    async def cancel(self, tenant: str, id: str) -> Batch:
        """End a batch early: what runs is finished, what waits is canceled. Raises SenryuError when it has ended already."""
        batch = await self._store.cancel(tenant, id, self._now()) or await self.get(tenant, id)
        if batch.ended_at is not None:
            raise SenryuError("batch_ended", id=id)
        self._runner.cancel(id)
        return batch

    async def delete(self, tenant: str, id: str) -> None:
        """Forget a batch and its results. Raises SenryuError when it has not ended."""
        if not await self._store.delete(tenant, id):
            await self.get(tenant, id)
            raise SenryuError("batch_running", id=id, what="It can be deleted")

    async def results(self, tenant: str, id: str) -> tuple[Batch, AsyncGenerator[list[Result], None]]:
        """A batch and its results in pieces, read as they are asked for. Raises SenryuError when there are none."""
        batch = await self.get(tenant, id)
        if batch.ended_at is None:
            raise SenryuError("batch_running", id=id, what="Its results can be had")
        if batch.archived_at is not None:
            raise SenryuError("batch_archived", id=id)
        return batch, self._pieces(batch)

    async def _pieces(self, batch: Batch) -> AsyncGenerator[list[Result], None]:
        """Raises SenryuError("batch_unknown") when the batch is removed meanwhile: a part must not look like the whole."""
        after, left = -1, batch.total
        while left:
            piece = await self._store.results(batch.id, after, RESULTS_AT_ONCE)
            if not piece:
                raise SenryuError("batch_unknown", id=batch.id)
            yield piece
            after, left = piece[-1].position, left - len(piece)
