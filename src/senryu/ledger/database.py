"""Opening the database: SQLite under SENRYU_HOME, or PostgreSQL where the setting `database` names one; its schema is brought
up to date at every start."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing, nullcontext
from pathlib import Path
from typing import Any, Self, TypeVar

from sqlalchemy import create_engine, event, inspect, text
from sqlalchemy.engine import URL, Connection, Engine, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine

from senryu.config import Settings
from senryu.errors import SenryuError
from senryu.ledger.migrations import NewerSchema
from senryu.ledger.tables import HEAD

T = TypeVar("T")
BUSY_SECONDS = 30  # how long SQLite waits for another process that writes
CONNECTIONS = 24  # that are kept; more than requests of a batch run together by default, for opening one takes long


class Database:
    """One database, to be entered (or opened and closed) on the event loop that uses it.

    What was written is on the disk when `write` is left: a process or machine that dies afterwards has not lost it.
    """

    def __init__(self, settings: Settings) -> None:
        """Raises SenryuError when the setting names no database that we know, or when its driver is missing."""
        url = _url(settings)
        self.sqlite = url.drivername == "sqlite+aiosqlite"
        self.where = str(url.database) if self.sqlite else url.render_as_string(hide_password=True)
        options: dict[str, Any] = {"connect_args": {"timeout": BUSY_SECONDS}} if self.sqlite else {"pool_pre_ping": True}
        try:
            self._engine = create_async_engine(url, pool_size=CONNECTIONS, **options)
        except ModuleNotFoundError as error:
            raise SenryuError("no_psycopg") from error
        if self.sqlite:
            _prepare(self._engine.sync_engine)
        self._writing = self._engine.execution_options(senryu_writes=True)
        self._one_writer = asyncio.Lock() if self.sqlite else None
        self._apart = _Apart(url.set(drivername="sqlite") if self.sqlite else url, options)

    async def open(self) -> None:
        """Create the database where SQLite has none, and bring its schema up to date.

        Raises SenryuError when it cannot be opened, or was written by a newer version of ours.
        """
        try:
            if self.sqlite:
                Path(self.where).parent.mkdir(parents=True, exist_ok=True)
                await asyncio.to_thread(_write_ahead, self.where)
            async with self.write() as connection:
                await connection.run_sync(_bring_up_to_date)
        except NewerSchema as error:
            await self.close()
            raise SenryuError("database_newer", where=self.where, revision=error) from error
        except (SQLAlchemyError, sqlite3.Error, OSError) as error:
            await self.close()
            why = str(getattr(error, "orig", None) or error).strip()
            raise SenryuError("database_unusable", where=self.where, why=why) from error

    async def close(self) -> None:
        """Close every connection."""
        await self._engine.dispose()
        await self._apart.close()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """A connection to read with, whoever writes meanwhile; each statement sees one state of the database."""
        async with self._engine.connect() as connection:
            yield connection

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """A transaction: what is written inside is there afterwards as a whole, or not at all when an exception leaves it."""
        async with self._one_writer or nullcontext(), self._writing.begin() as connection:
            yield connection

    async def write_apart(self, work: Callable[[Connection, T], None], what: T) -> None:
        """`write` of `work(connection, what)`, all of it in a thread: half a dozen steps, and the event loop waits once."""
        async with self._one_writer or nullcontext():
            await self._apart.run(work, what)


class _Apart:
    """One thread with one connection, both there from the first use on."""

    def __init__(self, url: URL, options: dict[str, Any]) -> None:
        self._url, self._options = url, options
        self._thread: ThreadPoolExecutor | None = None
        self._engine: Engine | None = None

    async def run(self, work: Callable[[Connection, T], None], what: T) -> None:
        self._thread = self._thread or ThreadPoolExecutor(1, "senryu-ledger")
        await asyncio.get_running_loop().run_in_executor(self._thread, self._write, work, what)

    async def close(self) -> None:
        if self._thread:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._dispose)
            self._thread.shutdown()
            self._thread = None

    def _write(self, work: Callable[[Connection, T], None], what: T) -> None:
        if self._engine is None:
            self._engine = create_engine(self._url, pool_size=1, **self._options)
            if self._engine.dialect.name == "sqlite":
                _prepare(self._engine)
        with self._engine.execution_options(senryu_writes=True).begin() as connection:
            work(connection, what)

    def _dispose(self) -> None:
        if self._engine:
            self._engine.dispose()
        self._engine = None


def _prepare(engine: Engine) -> None:
    """The connections of an engine over SQLite."""
    event.listen(engine, "connect", _set_up)
    event.listen(engine, "begin", _begin)


def _url(settings: Settings) -> URL:
    if not settings.database:
        return URL.create("sqlite+aiosqlite", database=str(settings.home / "senryu.db"))
    try:
        url = make_url(settings.database)
    except ArgumentError:
        raise SenryuError("database_unknown", kind="no address of one", config=settings.home / "config.toml") from None
    if url.drivername not in ("postgresql", "postgresql+psycopg"):
        raise SenryuError("database_unknown", kind=url.drivername, config=settings.home / "config.toml")
    return url.set(drivername="postgresql+psycopg")


def _bring_up_to_date(connection: Connection) -> None:
    """Raises NewerSchema. Alembic, which takes a quarter of a second to import, is for schemas that are not ours yet."""
    if inspect(connection).has_table("alembic_version"):
        present = connection.execute(text("SELECT version_num FROM alembic_version")).scalars().all()
        if present == [HEAD]:
            return
    from senryu.ledger.migrations.upgrade import upgrade

    upgrade(connection)


def _write_ahead(where: str) -> None:
    """Readers beside a writer, a mode that stays with the file. Of two that change it at once SQLite tells one "locked" without
    waiting for its timeout, so the waiting is ours."""
    until = time.monotonic() + BUSY_SECONDS
    with closing(sqlite3.connect(where, timeout=BUSY_SECONDS)) as connection:
        while True:
            try:
                connection.execute("PRAGMA journal_mode=WAL").fetchone()
                return
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > until:
                    raise
            time.sleep(0.01)


def _set_up(connection: Any, record: object) -> None:
    """A new connection to SQLite. Transactions are begun by us: Python's driver would begin them late and unasked."""
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in ("synchronous=FULL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin(connection: Connection) -> None:
    """Who writes takes the lock at once: a reader that becomes a writer could find its state outdated and fail."""
    if connection.get_execution_options().get("senryu_writes"):
        connection.exec_driver_sql("BEGIN IMMEDIATE")
