"""Runs batches in the background: each request once, its result and its usage kept together. Nothing is held in memory that the
database does not have, so that a killed process goes on where it was."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from senryu.errors import SenryuError
from senryu.ledger import clock
from senryu.ledger.batches import Batch, BatchStore, PendingRequest, State
from senryu.ledger.rows import UsageRow
from senryu.service.turn import Service
from senryu.types import Event, Turn

logger = logging.getLogger("senryu.batches")
AT_ONCE = 1000  # requests read ahead for a batch
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds before what was refused for lack of room is tried again
SWEEP_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Shape:
    """How a wire shape's bytes are read and written.

    turn: parameters and the batch's dialect and tenant -> Turn; raises SenryuError for what is wrong with them. message: a turn
    and its events -> its result. error: what was wrong -> its result.
    """

    turn: Callable[[bytes, str, str], Awaitable[Turn]]
    message: Callable[[Turn, AsyncGenerator[Event, None]], Awaitable[bytes]]
    error: Callable[[SenryuError], bytes]


@dataclass(frozen=True, slots=True)
class _Ended:
    """How a request ended."""

    state: State
    result: bytes | None = None
    usage: tuple[UsageRow, ...] = ()


class BatchRunner:
    """A task for each batch that has not ended. They share `concurrency` places and take turns in getting one.

    stopping: becomes true when the server drains; no request is begun then. now: microseconds since 1970. kept: how long
    after a batch's creation its results stay, in microseconds.
    """

    def __init__(
        self,
        service: Service,
        store: BatchStore,
        shape: Shape,
        *,
        concurrency: int,
        kept: int,
        stopping: Callable[[], bool] = lambda: False,
        now: Callable[[], int] = clock.now,
    ) -> None:
        self._service, self._store, self._shape = service, store, shape
        self._kept, self._draining, self._now = kept, stopping, now
        self._places = asyncio.Semaphore(concurrency)  # first come, first served: batches take turns
        self._left = asyncio.Event()
        self._canceled: set[str] = set()
        self._batches: dict[str, asyncio.Task[None]] = {}
        self._work: set[asyncio.Task[_Ended | None]] = set()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Batches run while inside, first those that an earlier process left. What is cut at the end runs again later."""
        self._left.clear()
        for batch in await self._store.unfinished():
            if batch.cancel_initiated_at is not None:
                self._canceled.add(batch.id)
            self.start(batch)
        sweeper = asyncio.create_task(self._sweep())
        try:
            yield
        finally:
            self._left.set()
            for work in self._work:
                work.cancel()
            await asyncio.gather(sweeper, *self._batches.values())

    def start(self, batch: Batch) -> None:
        """Begin to run a batch that is in the database."""
        self._batches[batch.id] = task = asyncio.create_task(self._run(batch))
        task.add_done_callback(lambda _: self._batches.pop(batch.id, None))

    def cancel(self, id: str) -> None:
        """Begin no further request of a batch, which the database knows to be canceled."""
        if id in self._batches:
            self._canceled.add(id)

    def _stopping(self) -> bool:
        return self._left.is_set() or self._draining()

    async def _pause(self, seconds: float) -> None:
        """Sleeps, but no longer than we run."""
        try:
            async with asyncio.timeout(seconds):
                await self._left.wait()
        except TimeoutError:
            pass

    async def _sweep(self) -> None:
        """Results that were kept for long enough go."""
        while not self._left.is_set():
            try:
                now = self._now()
                await self._store.archive(now - self._kept, now)
            except Exception:
                logger.exception("old results could not be removed")
            await self._pause(SWEEP_SECONDS)

    async def _run(self, batch: Batch) -> None:
        """One batch to its end, or until we stop. Whatever goes wrong on the way is tried again."""
        pause = FIRST_PAUSE
        while not self._stopping():
            running: set[asyncio.Task[None]] = set()
            try:
                try:
                    await self._feed(batch, running)
                finally:
                    if running:
                        await asyncio.wait(running)
                if not self._stopping() and await self._store.end(batch.id, self._now(), self._rest(batch)):
                    self._canceled.discard(batch.id)
                    return
            except Exception:
                logger.exception("%s waits, since something went wrong", batch.id)
            await self._pause(pause)
            pause = min(pause * 2, LONGEST_PAUSE)

    def _rest(self, batch: Batch) -> State | None:
        """What requests are that wait when the batch ends; None while they are to be run."""
        if batch.id in self._canceled:
            return "canceled"
        return "expired" if self._now() >= batch.expires_at else None

    async def _feed(self, batch: Batch, running: set[asyncio.Task[None]]) -> None:
        """Begin every request that waits, in order, each when it gets a place."""
        last: PendingRequest | None = None
        while page := await self._store.pending(batch.id, last, AT_ONCE):
            for request in page:
                await self._places.acquire()
                if self._stopping() or self._rest(batch):
                    self._places.release()
                    return
                task = asyncio.create_task(self._one(batch, request))
                running.add(task)
                task.add_done_callback(running.discard)
            last = page[-1]

    async def _one(self, batch: Batch, request: PendingRequest) -> None:
        """Run one request and keep its result. The run may be cut, what is done in the database never is."""
        work = asyncio.create_task(self._work_on(batch, request))
        self._work.add(work)
        try:
            await asyncio.wait({work})
            if not work.cancelled() and (ended := work.result()):
                usage = [replace(row, batch_id=batch.id) for row in ended.usage]
                await self._store.finish(batch.id, request.position, ended.state, ended.result, usage)
        except Exception:
            logger.exception("request %d of %s stays where it was, since something went wrong", request.position, batch.id)
        finally:
            self._work.discard(work)
            self._places.release()

    async def _work_on(self, batch: Batch, request: PendingRequest) -> _Ended | None:
        """How the request ended; None when it is to be left as it is."""
        pause = FIRST_PAUSE
        while not self._stopping() and not self._rest(batch):
            rows: list[UsageRow] = []
            try:
                return await self._answer(batch, request, rows)
            except SenryuError as error:
                if error.code == "deadline":
                    return _Ended("expired", usage=tuple(rows))
                if not self._passes(error):
                    return _Ended("errored", self._shape.error(error), tuple(rows))
            except Exception:
                logger.exception("request %d of %s failed", request.position, batch.id)
                free = (replace(row, outcome="failed", cost_nano=0, input_cost_nano=0) for row in rows)
                return _Ended("errored", self._shape.error(SenryuError("internal")), tuple(free))
            await self._pause(pause)
            pause = min(pause * 2, LONGEST_PAUSE)
        return None

    async def _answer(self, batch: Batch, request: PendingRequest, rows: list[UsageRow]) -> _Ended:
        params = await self._store.params(batch.id, request.position)
        turn = await self._shape.turn(params, batch.dialect, batch.tenant)
        deadline = time.monotonic() + (batch.expires_at - self._now()) / clock.SECOND
        turn = replace(turn, priority="batch", deadline=deadline)
        message = await self._shape.message(turn, self._service.run(turn, rows.append))
        return _Ended("succeeded", message, tuple(rows))

    def _passes(self, error: SenryuError) -> bool:
        """Whether the server, not the request, is the trouble: it is full, or its engine is down."""
        if error.code == "overloaded":
            return True
        try:
            self._service.registry.check()
        except SenryuError:
            return True
        return False
