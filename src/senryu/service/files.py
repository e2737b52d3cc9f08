"""Uploaded files: their bytes lie under SENRYU_HOME/files, one by one and whole or not there; the ledger knows the rest.

A file is written beside its place, moved there, and only then entered into the ledger: what a crash leaves behind is bytes that
nobody knows, and those go at a start.
"""

from __future__ import annotations

import asyncio
import logging
import mimetypes
import os
import re
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import BinaryIO

from senryu.errors import SenryuError
from senryu.ledger import clock
from senryu.ledger.clock import SECOND
from senryu.ledger.files import File, FileTable, Place
from senryu.service.documents import FileData
from senryu.service.ids import new_id

logger = logging.getLogger("senryu.files")
FILE_BYTES = 500 * 1024 * 1024
LONGEST_NAME = 255
PIECE_BYTES = 1 << 20  # written at once
SWEEP_SECONDS = 600.0
ORPHAN_SECONDS = 86_400.0  # bytes that nobody knows may belong to an upload that is still running

UNKNOWN_TYPE = "application/octet-stream"
_FORBIDDEN = re.compile(r'[<>:"|?*\x00-\x1f\x7f]')
_TYPE = re.compile(r"[a-z0-9!#$&^_.+-]{1,120}/[a-z0-9!#$&^_.+-]{1,120}")


class Upload:
    """A file being written: `write` its bytes, then `Files.keep` it."""

    def __init__(self, path: Path) -> None:
        self.path, self.size = path, 0
        self._file: BinaryIO | None = None
        self._pending = bytearray()

    async def write(self, data: bytes) -> None:
        """Add bytes. Raises SenryuError when the file becomes too large."""
        self.size += len(data)
        if self.size > FILE_BYTES:
            raise SenryuError("file_large", most=FILE_BYTES)
        self._pending += data
        if len(self._pending) >= PIECE_BYTES:
            await self._drain()

    async def finish(self) -> None:
        """All bytes are on the disk afterwards."""
        await self._drain(last=True)

    async def _drain(self, last: bool = False) -> None:
        piece, self._pending = bytes(self._pending), bytearray()
        await asyncio.to_thread(self._put, piece, last)

    def _put(self, piece: bytes, last: bool) -> None:
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("xb")
        self._file.write(piece)
        if last:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()

    def discard(self) -> None:
        """Whatever was written is gone, unless it was moved to its place."""
        if self._file is not None:
            self._file.close()
            self.path.unlink(missing_ok=True)


class Files:
    """The files of every tenant; one tenant never sees another's. `now`: microseconds since 1970."""

    def __init__(self, table: FileTable, folder: Path, now: Callable[[], int] = clock.now) -> None:
        self._table, self._folder, self._now = table, folder, now

    @asynccontextmanager
    async def upload(self) -> AsyncIterator[Upload]:
        """A new file to write. What was not kept when this is left is removed."""
        upload = Upload(self._folder / f"{new_id('file_')}.part")
        try:
            yield upload
        finally:
            upload.discard()

    async def keep(self, upload: Upload, tenant: str, filename: str, mime_type: str, expires_in: int | None = None) -> File:
        """The upload as a file, for so many seconds or until it is deleted. Raises SenryuError for a wrong name."""
        name, kind = file_name(filename), file_type(mime_type, filename)
        if not name:
            name = "unnamed" + (mimetypes.guess_extension(kind) or "")
        await upload.finish()
        id, at = upload.path.stem, self._now()
        expires = None if expires_in is None else at + expires_in * SECOND
        file = File(id, tenant, name, kind, upload.size, at, expires)
        place = self._folder / id
        await asyncio.to_thread(os.replace, upload.path, place)
        try:
            await self._table.create(file)
        except BaseException:
            place.unlink(missing_ok=True)
            raise
        return file

    async def get(self, tenant: str, id: str) -> File:
        """Raises SenryuError("file_unknown")."""
        file = await self._table.get(tenant, id, self._now())
        if file is None:
            raise SenryuError("file_unknown", id=id[:128])
        return file

    async def some(self, tenant: str, ids: Collection[str]) -> list[File]:
        """Those of `ids` that there are, newest first."""
        return await self._table.some(tenant, ids, self._now())

    async def page(
        self, tenant: str, limit: int, after: Place | None = None, before: Place | None = None
    ) -> tuple[list[File], bool]:
        """At most `limit` files, newest first, between two places; and whether there are more that way."""
        return await self._table.page(tenant, limit, self._now(), after, before)

    async def delete(self, tenant: str, id: str) -> None:
        """Remove a file and its bytes. Raises SenryuError("file_unknown")."""
        if not await self._table.delete(tenant, id, self._now()):
            raise SenryuError("file_unknown", id=id[:128])
        await asyncio.to_thread((self._folder / id).unlink, missing_ok=True)

    async def no_download(self, tenant: str, id: str) -> SenryuError:
        """Why a file is not given back: callers' uploads are not, and nothing else makes files here."""
        file = await self.get(tenant, id)
        return SenryuError("file_not_downloadable", id=file.id)

    async def read(self, tenant: str, id: str, most: int) -> FileData | None:
        """For documents: see `documents.FileSource`."""
        file = await self._table.get(tenant, id, self._now())
        if file is None:
            return None
        try:
            data = await asyncio.to_thread(_head, self._folder / file.id, most + 1)
        except FileNotFoundError:  # deleted just now, or the database is shared and the folder is not
            return None
        return FileData(data, file.mime_type)

    @asynccontextmanager
    async def sweeping(self) -> AsyncIterator[None]:
        """Inside, files whose time is up are removed from the disk, too; first what a crash has left there."""
        await self.sweep()
        await self._remove_orphans()
        task = asyncio.create_task(self._keep_sweeping())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _keep_sweeping(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            try:
                await self.sweep()
            except Exception:
                logger.exception("expired files could not be removed; trying again in %d s", SWEEP_SECONDS)

    async def sweep(self) -> None:
        """Remove files whose time is up."""
        for id in await self._table.forget_expired(self._now()):
            await asyncio.to_thread((self._folder / id).unlink, missing_ok=True)

    async def _remove_orphans(self) -> None:
        before = self._now() / SECOND - ORPHAN_SECONDS
        old = [path for path in self._folder.glob("file_*") if path.stat().st_mtime < before]
        for start in range(0, len(old), 500):
            known = await self._table.known([path.name for path in old[start : start + 500]])
            for path in old[start : start + 500]:
                if path.name not in known:
                    path.unlink(missing_ok=True)


def file_name(sent: str) -> str:
    """The last part of a file's name as it was sent, "" for none. Raises SenryuError for one that no system takes."""
    name = re.split(r"[/\\]", sent)[-1]
    if len(name) > LONGEST_NAME or _FORBIDDEN.search(name):
        raise SenryuError("file_name", most=LONGEST_NAME)
    return name


def file_type(sent: str, filename: str) -> str:
    """The type of a file: as it was sent, or by its name where that says nothing."""
    kind = sent.split(";")[0].strip().lower()
    if kind == UNKNOWN_TYPE or not _TYPE.fullmatch(kind):
        kind = mimetypes.guess_type(filename)[0] or UNKNOWN_TYPE
    return kind


def _head(path: Path, most: int) -> bytes:
    with path.open("rb") as file:
        return file.read(most)
