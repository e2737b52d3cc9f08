"""Files on the disk and in the ledger: whole or not there, for their time and their tenant alone."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import pytest

from senryu.config import Settings
from senryu.errors import SenryuError
from senryu.ledger.database import Database
from senryu.ledger.files import File, FileTable
from senryu.service import files as module
from senryu.service.documents import FileData
from senryu.service.files import Files, file_name, file_type
from senryu.service.registry import Registry
from senryu.service.turn import Service
from senryu.types import Citation, CitationDelta, Document, FileReference, Message, Turn
from serving import says, scripted_model

HOUR = 3_600_000_000


class Clock:
    """Microseconds that pass when told to."""

    def __init__(self) -> None:
        self.at = 1_800_000_000_000_000

    def __call__(self) -> int:
        self.at += 1
        return self.at


def run(settings: Settings, work: Callable[[Files, Clock], Awaitable[None]]) -> None:
    async def main() -> None:
        database, clock = Database(settings), Clock()
        await database.open()
        try:
            await work(Files(FileTable(database), settings.home / "files", clock), clock)
        finally:
            await database.close()

    asyncio.run(main())


async def add(files: Files, data: bytes = b"text", tenant: str = "me", name: str = "a.txt", expires: int | None = None) -> File:
    async with files.upload() as upload:
        for start in range(0, len(data), 3):
            await upload.write(data[start : start + 3])
        return await files.keep(upload, tenant, name, "", expires)


def names(settings: Settings) -> list[str]:
    return sorted(path.name for path in (settings.home / "files").glob("*"))


def test_a_file_is_kept_for_its_tenant(ledger_settings: Settings) -> None:
    async def work(files: Files, clock: Clock) -> None:
        file = await add(files, b"some text")
        assert file == File(file.id, "me", "a.txt", "text/plain", 9, clock.at)
        assert await files.get("me", file.id) == file
        assert await files.read("me", file.id, 100) == FileData(b"some text", "text/plain")
        assert await files.read("me", file.id, 3) == FileData(b"some", "text/plain")
        assert await files.read("you", file.id, 100) is None
        for tenant, id in (("you", file.id), ("me", "../senryu.db")):
            with pytest.raises(SenryuError, match="File not found"):
                await files.get(tenant, id)
            with pytest.raises(SenryuError, match="File not found"):
                await files.delete(tenant, id)
        assert names(ledger_settings) == [file.id]
        await files.delete("me", file.id)
        assert names(ledger_settings) == []
        assert await files.read("me", file.id, 100) is None

    run(ledger_settings, work)


def test_a_file_is_a_document_that_is_cited(tmp_path: Path) -> None:
    async def work(files: Files, clock: Clock) -> None:
        file = await add(files, b"Hm. The grass is green.")
        model = scripted_model(says("The grass is green."))
        service = Service(Registry([model]), Settings(home=tmp_path), files=files)
        document = Document(FileReference(file.id), title="Facts", citations=True, file_id=file.id)
        asked = Turn("senryu-mini", (Message("user", (document,)),), 64, tenant="me")
        try:
            async with aclosing(service.run(asked)) as stream:
                found = [event.citation async for event in stream if isinstance(event, CitationDelta)]
            assert found == [Citation("char_location", "The grass is green.", 0, 4, 23, "Facts", file_id=file.id)]
            with pytest.raises(SenryuError, match=f"File not found: {file.id}"):
                await service.count_tokens(replace(asked, tenant="you"))
        finally:
            await model.engine.close()

    run(Settings(home=tmp_path), work)


def test_pages_go_both_ways(ledger_settings: Settings) -> None:
    async def work(files: Files, clock: Clock) -> None:
        made = [await add(files, name=f"{number}") for number in range(5)][::-1]
        await add(files, tenant="you")
        assert await files.page("me", 10) == (made, False)
        assert await files.page("me", 2) == (made[:2], True)
        assert await files.page("me", 2, after=made[1].place) == (made[2:4], True)
        assert await files.page("me", 2, after=made[3].place) == (made[4:], False)
        assert await files.page("me", 2, before=made[3].place) == (made[1:3], True)
        assert await files.page("me", 9, after=made[0].place, before=made[3].place) == (made[1:3], False)
        assert await files.some("me", [made[4].id, made[2].id, "file_none"]) == [made[2], made[4]]

    run(ledger_settings, work)


def test_a_file_whose_time_is_up_is_gone(ledger_settings: Settings) -> None:
    async def work(files: Files, clock: Clock) -> None:
        short, long = await add(files, expires=3600), await add(files)
        assert short.expires_at == short.created_at + HOUR
        clock.at = short.created_at + HOUR
        assert await files.page("me", 10) == ([long], False)
        assert await files.read("me", short.id, 9) is None
        with pytest.raises(SenryuError, match="File not found"):
            await files.delete("me", short.id)
        async with files.sweeping():
            assert names(ledger_settings) == [long.id]

    run(ledger_settings, work)


def test_what_is_not_kept_is_not_there(ledger_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FILE_BYTES", 10)
    monkeypatch.setattr(module, "PIECE_BYTES", 4)

    async def work(files: Files, clock: Clock) -> None:
        assert (await add(files, b"0123456789")).size_bytes == 10
        with pytest.raises(SenryuError, match="a file may hold 10 bytes"):
            await add(files, b"0123456789a")
        with pytest.raises(SenryuError, match="filename"):
            await add(files, name="a?b")
        assert len(names(ledger_settings)) == 1

    run(ledger_settings, work)


def test_an_upload_that_the_ledger_refuses_leaves_nothing(ledger_settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(files: Files, clock: Clock) -> None:
        async def full(table: FileTable, file: File) -> None:
            raise OSError("disk full")

        monkeypatch.setattr(FileTable, "create", full)
        with pytest.raises(OSError, match="disk full"):
            await add(files)
        assert names(ledger_settings) == []

    run(ledger_settings, work)


def test_what_a_crash_left_goes_after_a_day(ledger_settings: Settings) -> None:
    async def work(files: Files, clock: Clock) -> None:
        file = await add(files)
        for name, age in (("file_old", 90_000), ("file_old2.part", 90_000), ("file_young.part", 60), (file.id, 90_000)):
            path = ledger_settings.home / "files" / name
            path.touch()
            seconds = clock.at / 1e6 - age
            os.utime(path, (seconds, seconds))
        async with files.sweeping():
            assert names(ledger_settings) == sorted([file.id, "file_young.part"])

    run(ledger_settings, work)


def test_bytes_that_are_missing_are_no_file(tmp_path: Path) -> None:
    async def work(files: Files, clock: Clock) -> None:
        file = await add(files)
        (tmp_path / "files" / file.id).unlink()
        assert await files.read("me", file.id, 9) is None
        await files.delete("me", file.id)

    run(Settings(home=tmp_path), work)


@pytest.mark.parametrize(
    ("sent", "name"),
    [
        ("a.txt", "a.txt"),
        ("dir/b.md", "b.md"),
        ("C:\\d\\c.md", "c.md"),
        ("é 漢.txt", "é 漢.txt"),
        ("", ""),
        ("x" * 255, "x" * 255),
    ],
)
def test_names(sent: str, name: str) -> None:
    assert file_name(sent) == name


@pytest.mark.parametrize("sent", ["x" * 256, *(f"a{bad}b" for bad in '<>:"|?*\n\x7f\0')])
def test_names_that_no_system_takes(sent: str) -> None:
    with pytest.raises(SenryuError, match="255 characters"):
        file_name(sent)


@pytest.mark.parametrize(
    ("sent", "name", "kind"),
    [
        ("text/plain; charset=utf-8", "a.pdf", "text/plain"),
        ("", "a.pdf", "application/pdf"),
        ("application/octet-stream", "a.txt", "text/plain"),
        ("nonsense", "a", "application/octet-stream"),
    ],
)
def test_types(sent: str, name: str, kind: str) -> None:
    assert file_type(sent, name) == kind
