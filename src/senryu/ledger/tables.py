"""The tables of the ledger. Times are whole microseconds since 1970 (UTC), money is whole nano-dollars, JSON is bytes.

A change here comes with a new file in `migrations/versions/`; a test compares the two.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
)

HEAD = "0001"  # the last revision of `migrations/versions/`
metadata = MetaData()


class Id(TypeDecorator[str]):
    """An id that a caller may have made up: PostgreSQL takes no NUL, and no id of ours has one."""

    impl = String
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: object) -> str | None:
        """What is looked up."""
        return value and value.replace("\0", "\ufffd")


def _count(name: str) -> Column[int]:
    return Column(name, Integer, nullable=False)


requests = Table(  # one row for every turn that was started
    "requests",
    metadata,
    Column("id", String(64), primary_key=True),  # of the answer's Message
    Column("at", BigInteger, nullable=False),  # when it was asked
    Column("tenant", String(256), nullable=False),
    Column("model", String(256), nullable=False),
    Column("tier", String(16), nullable=False),  # standard, batch
    Column("outcome", String(16), nullable=False),  # finished, aborted, failed
    Column("stop_reason", String(32)),
    _count("input_tokens"),
    _count("cache_write_5m"),
    _count("cache_write_1h"),
    _count("cache_read"),
    _count("output_tokens"),
    _count("reused_tokens"),
    Column("cost_nano", BigInteger, nullable=False),
    Column("input_cost_nano", BigInteger, nullable=False),  # the prompt's part of it
    Column("first_token_ms", Integer),
    _count("total_ms"),
    _count("tools_offered"),
    _count("tool_calls"),
    _count("invalid_json"),
    _count("unknown_name"),
    _count("schema_mismatch"),
    Column("batch_id", String(64)),
    Index("requests_at", "at"),
)

batches = Table(
    "batches",
    metadata,
    Column("id", Id(64), primary_key=True),
    Column("tenant", String(256), nullable=False),
    Column("dialect", Text, nullable=False),  # how the parameters are to be read
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("cancel_initiated_at", BigInteger),
    Column("ended_at", BigInteger),
    Column("archived_at", BigInteger),
    _count("total"),
    _count("succeeded"),  # these four are counted when the batch ends
    _count("errored"),
    _count("canceled"),
    _count("expired"),
    Index("batches_tenant", "tenant", "created_at", "id"),
)

batch_requests = Table(
    "batch_requests",
    metadata,
    Column("batch_id", Id(64), ForeignKey("batches.id", ondelete="CASCADE"), primary_key=True),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("custom_id", String(64), nullable=False),
    Column("params", LargeBinary, nullable=False),
    Column("run_order", LargeBinary, nullable=False),  # requests that share a prefix are neighbours
    Column("state", String(16), nullable=False),  # pending, succeeded, errored, canceled, expired
    Column("result", LargeBinary),
    UniqueConstraint("batch_id", "custom_id", name="batch_requests_custom_id"),
    Index("batch_requests_run", "batch_id", "state", "run_order", "position"),
)

files = Table(
    "files",
    metadata,
    Column("id", Id(64), primary_key=True),
    Column("tenant", String(256), nullable=False),
    Column("filename", String(255), nullable=False),
    Column("mime_type", String(255), nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Column("downloadable", Boolean, nullable=False),
    Index("files_tenant", "tenant", "created_at", "id"),
)
