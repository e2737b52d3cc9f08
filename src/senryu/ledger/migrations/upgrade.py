"""Brings a database's schema up to date with Alembic, inside the transaction of the caller."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text
from sqlalchemy.engine import Connection

from senryu.ledger.migrations import NewerSchema

LOCK = 0x53454E52_59550001  # any number of our own: two servers that start together migrate one after the other


def upgrade(connection: Connection) -> None:
    """Run what is missing, nothing when all is there. Raises NewerSchema."""
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
    present = MigrationContext.configure(connection).get_current_heads()
    if unknown := set(present) - known:
        raise NewerSchema(", ".join(sorted(unknown)))
    command.upgrade(config, "head")
