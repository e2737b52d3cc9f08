"""What is known of uploaded files, in the database; their bytes lie elsewhere. A file whose time is up is no file any more."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass

from sqlalchemy import ColumnElement, Select, delete, insert, or_, select, tuple_

from senryu.ledger.database import Database
from senryu.ledger.tables import files

Place = tuple[int, str]  # where a file stands among others: when it was created, and its id


@dataclass(frozen=True, slots=True)
class File:
    """An uploaded file. Times in microseconds since 1970; `expires_at` None for one that stays until it is deleted."""

    id: str
    tenant: str
    filename: str
    mime_type: str
    size_bytes: int
    created_at: int
    expires_at: int | None = None
    downloadable: bool = False

    @property
    def place(self) -> Place:
        """Where it stands in a list."""
        return self.created_at, self.id


class FileTable:
    """The files of one database. `now` is in microseconds since 1970."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, file: File) -> None:
        """Keep a new file."""
        async with self._database.write() as connection:
            await connection.execute(insert(files), [asdict(file)])

    async def get(self, tenant: str, id: str, now: int) -> File | None:
        """One file of a tenant; None when there is no such file."""
        found = await self._read(_visible(tenant, now).where(files.c.id == id))
        return found[0] if found else None

    async def some(self, tenant: str, ids: Collection[str], now: int) -> list[File]:
        """Those of `ids` that the tenant has, newest first."""
        newest = _visible(tenant, now).where(files.c.id.in_(ids)).order_by(files.c.created_at.desc(), files.c.id.desc())
        return await self._read(newest)

    async def page(
        self, tenant: str, limit: int, now: int, after: Place | None = None, before: Place | None = None
    ) -> tuple[list[File], bool]:
        """At most `limit` files, newest first, between two places; and whether there are more that way."""
        order = tuple_(files.c.created_at, files.c.id)
        query = _visible(tenant, now)
        if after:
            query = query.where(order < after)
        if before:
            query = query.where(order > before)
        backwards = before is not None and after is None
        columns = (files.c.created_at, files.c.id)
        query = query.order_by(*(column.asc() if backwards else column.desc() for column in columns))
        found = await self._read(query.limit(limit + 1))
        page = found[:limit]
        return page[::-1] if backwards else page, len(found) > limit

    async def delete(self, tenant: str, id: str, now: int) -> bool:
        """Forget a file. False when there is no such file."""
        this = (files.c.tenant == tenant, files.c.id == id, _lives(now))
        async with self._database.write() as connection:
            return (await connection.execute(delete(files).where(*this))).rowcount > 0

    async def forget_expired(self, now: int) -> list[str]:
        """Forget every tenant's files whose time is up; their ids."""
        async with self._database.write() as connection:
            gone = (await connection.execute(select(files.c.id).where(~_lives(now)))).scalars().all()
            await connection.execute(delete(files).where(files.c.id.in_(gone)))
        return list(gone)

    async def known(self, ids: Sequence[str]) -> set[str]:
        """Those of `ids` that any tenant has."""
        async with self._database.read() as connection:
            return set((await connection.execute(select(files.c.id).where(files.c.id.in_(ids)))).scalars())

    async def _read(self, query: Select) -> list[File]:
        async with self._database.read() as connection:
            return [File(**row._mapping) for row in await connection.execute(query)]


def _lives(now: int) -> ColumnElement[bool]:
    return or_(files.c.expires_at.is_(None), files.c.expires_at > now)


def _visible(tenant: str, now: int) -> Select:
    return select(files).where(files.c.tenant == tenant, _lives(now))
