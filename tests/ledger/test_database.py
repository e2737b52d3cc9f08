"""Opening: from nothing, again, by two at once; and starts that are refused with what to do."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import insert, select, text
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

import senryu.ledger.migrations
from senryu.config import Settings
from senryu.errors import SenryuError
from senryu.ledger.database import Database
from senryu.ledger.tables import HEAD, files, metadata

FILE = {
    "tenant": "",
    "filename": "a",
    "mime_type": "text/plain",
    "size_bytes": 1 << 40,
    "created_at": 1 << 52,
    "downloadable": False,
}


def differences(connection: Connection) -> list[object]:
    return compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), metadata)


def test_the_migrations_make_the_tables_of_the_code(ledger_settings: Settings) -> None:
    async def main() -> list[object]:
        database = Database(ledger_settings)
        await database.open()
        try:
            async with database.read() as connection:
                return await connection.run_sync(differences)
        finally:
            await database.close()

    assert asyncio.run(main()) == []


def test_what_was_written_is_there_at_the_next_start(ledger_settings: Settings) -> None:
    async def start() -> int:
        database = Database(ledger_settings)
        await database.open()
        try:
            async with database.read() as connection:
                seen = len((await connection.execute(select(files))).all())
            async with database.write() as connection:
                await connection.execute(insert(files), [{**FILE, "id": f"file_{seen}"}])
            return seen
        finally:
            await database.close()

    assert [asyncio.run(start()) for _ in range(3)] == [0, 1, 2]


async def one_file_twice(database: Database) -> None:
    async with database.write() as connection:
        await connection.execute(insert(files), [{**FILE, "id": "file_1"}])
        await connection.execute(insert(files), [{**FILE, "id": "file_1"}])


def test_a_transaction_that_fails_leaves_nothing(ledger_settings: Settings) -> None:
    async def main() -> None:
        database = Database(ledger_settings)
        await database.open()
        try:
            with pytest.raises(IntegrityError):
                await one_file_twice(database)
            async with database.read() as connection:
                assert (await connection.execute(select(files))).all() == []
        finally:
            await database.close()

    asyncio.run(main())


def test_servers_that_start_together_migrate_once(ledger_settings: Settings) -> None:
    async def main() -> None:
        databases = [Database(ledger_settings) for _ in range(8)]
        await asyncio.gather(*(database.open() for database in databases))
        for number, database in enumerate(databases):
            async with database.write() as connection:
                await connection.execute(insert(files), [{**FILE, "id": f"file_{number}"}])
        async with databases[0].read() as connection:
            assert len((await connection.execute(select(files))).all()) == 8
        for database in databases:
            await database.close()

    asyncio.run(main())


def test_a_newer_schema_is_refused(ledger_settings: Settings) -> None:
    async def main() -> None:
        database = Database(ledger_settings)
        await database.open()
        async with database.write() as connection:
            await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        await database.close()
        await Database(ledger_settings).open()

    with pytest.raises(SenryuError, match=r"newer version of Senryu \(schema 9999\)"):
        asyncio.run(main())


def refusal(settings: Settings) -> str:
    async def main() -> None:
        await Database(settings).open()

    with pytest.raises(SenryuError) as caught:
        asyncio.run(main())
    assert caught.value.status == 0
    return caught.value.message


def test_a_database_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert str(tmp_path / "file" / "senryu.db") in refusal(Settings(home=tmp_path / "file"))
    (tmp_path / "senryu.db").write_bytes(b"no database at all" * 1000)
    message = refusal(Settings(home=tmp_path))
    assert "file is not a database" in message
    assert str(tmp_path / "senryu.db") in message


def test_a_server_that_is_not_there_is_named_without_its_password(tmp_path: Path) -> None:
    message = refusal(Settings(home=tmp_path, database=f"postgresql://me:secret@/none?host={tmp_path}"))
    assert "postgresql+psycopg://me:***@/none" in message
    assert "secret" not in message


@pytest.mark.parametrize("url", ["senryu.db", "mysql://localhost/a", "sqlite:///a.db"])
def test_other_databases_are_refused(tmp_path: Path, url: str) -> None:
    assert "Write postgresql://USER:PASSWORD@HOST/NAME" in refusal(replace(Settings(home=tmp_path), database=url))


def test_the_code_names_the_last_revision() -> None:
    folder = Path(senryu.ledger.migrations.__path__[0])
    assert ScriptDirectory(str(folder)).get_current_head() == HEAD


def test_a_later_start_waits_for_no_import_that_it_does_not_need(tmp_path: Path) -> None:
    """Alembic takes a quarter of a second, and pypdf half of that."""
    script = (
        "import sys; from pathlib import Path; from senryu.api.app import check_start; from senryu.config import Settings\n"
        "check_start(Settings(home=Path(sys.argv[1]), port=0)); print(*({'alembic', 'pypdf'} & sys.modules.keys()))"
    )

    def start() -> str:
        return subprocess.run(
            [sys.executable, "-c", script, tmp_path], check=True, capture_output=True, text=True
        ).stdout.strip()

    assert start() == "alembic"
    assert start() == ""
