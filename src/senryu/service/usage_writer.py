"""Brings rows of usage to the ledger behind the answers."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator

from senryu.ledger.database import Database
from senryu.ledger.rows import UsageRow
from senryu.ledger.usage import record

logger = logging.getLogger("senryu.usage")
GROUP_SECONDS = 0.2  # a row waits so long for others
GROUP_ROWS = 1000  # so many wait for no more
RETRY_SECONDS = 1.0
LAST_TRIES = 3  # when the server stops and the database refuses


class UsageWriter:
    """Writes rows in the background, all that wait in one transaction: no answer waits for the disk, and neighbours share a
    commit, which takes the processor longer than a short answer.

    A process that is killed loses the rows of its last GROUP_SECONDS and those that were being written; one that stops in order
    loses none.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._waiting: list[UsageRow] = []
        self._any = asyncio.Event()  # there is something to do
        self._now = asyncio.Event()  # and it is not to wait for more
        self._one_at_a_time = asyncio.Lock()
        self._stopping = False

    def add(self, row: UsageRow) -> None:
        """Take a row to be written."""
        self._waiting.append(row)
        self._any.set()
        if len(self._waiting) >= GROUP_ROWS:
            self._now.set()

    async def flush(self) -> None:
        """Write all that waits now. Raises what the database raises; the rows then go on waiting."""
        async with self._one_at_a_time:
            if rows := self._waiting[:]:
                await self._database.write_apart(record, rows)
                del self._waiting[: len(rows)]

    @contextlib.asynccontextmanager
    async def writing(self) -> AsyncIterator[None]:
        """Rows are written while inside; all of them are when it is left."""
        self._stopping = False
        task = asyncio.create_task(self._write_all())
        try:
            yield
        finally:
            self._stopping = True
            self._any.set()
            self._now.set()
            await task

    async def _write_all(self) -> None:
        tries = LAST_TRIES
        while not self._stopping or (self._waiting and tries):
            await self._any.wait()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GROUP_SECONDS):
                    await self._now.wait()
            self._any.clear()
            if not self._stopping:
                self._now.clear()
            try:
                await self.flush()
            except Exception:
                tries -= self._stopping
                logger.exception("usage of %d requests could not be written, and waits", len(self._waiting))
                self._any.set()
                await asyncio.sleep(RETRY_SECONDS)
        if self._waiting:
            logger.error("usage of %d requests is lost", len(self._waiting))
