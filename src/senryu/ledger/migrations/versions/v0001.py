"""The first schema: usage, batches, files."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Creates the tables."""
    counts = ("input_tokens", "cache_write_5m", "cache_write_1h", "cache_read", "output_tokens", "reused_tokens")
    tools = ("tools_offered", "tool_calls", "invalid_json", "unknown_name", "schema_mismatch")
    op.create_table(
        "requests",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.Column("tenant", sa.String(256), nullable=False),
        sa.Column("model", sa.String(256), nullable=False),
        sa.Column("tier", sa.String(16), nullable=False),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("stop_reason", sa.String(32)),
        *(sa.Column(name, sa.Integer, nullable=False) for name in counts),
        sa.Column("cost_nano", sa.BigInteger, nullable=False),
        sa.Column("input_cost_nano", sa.BigInteger, nullable=False),
        sa.Column("first_token_ms", sa.Integer),
        sa.Column("total_ms", sa.Integer, nullable=False),
        *(sa.Column(name, sa.Integer, nullable=False) for name in tools),
        sa.Column("batch_id", sa.String(64)),
    )
    op.create_index("requests_at", "requests", ["at"])
    op.create_table(
        "batches",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("tenant", sa.String(256), nullable=False),
        sa.Column("dialect", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sa.Column("cancel_initiated_at", sa.BigInteger),
        sa.Column("ended_at", sa.BigInteger),
        sa.Column("archived_at", sa.BigInteger),
        *(sa.Column(name, sa.Integer, nullable=False) for name in ("total", "succeeded", "errored", "canceled", "expired")),
    )
    op.create_index("batches_tenant", "batches", ["tenant", "created_at", "id"])
    op.create_table(
        "batch_requests",
        sa.Column("batch_id", sa.String(64), sa.ForeignKey("batches.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("custom_id", sa.String(64), nullable=False),
        sa.Column("params", sa.LargeBinary, nullable=False),
        sa.Column("run_order", sa.LargeBinary, nullable=False),
        sa.Column("state", sa.String(16), nullable=False),
        sa.Column("result", sa.LargeBinary),
        sa.UniqueConstraint("batch_id", "custom_id", name="batch_requests_custom_id"),
    )
    op.create_index("batch_requests_run", "batch_requests", ["batch_id", "state", "run_order", "position"])
    op.create_table(
        "files",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("tenant", sa.String(256), nullable=False),
        sa.Column("filename", sa.String(255), nullable=False),
        sa.Column("mime_type", sa.String(255), nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger),
        sa.Column("downloadable", sa.Boolean, nullable=False),
    )
    op.create_index("files_tenant", "files", ["tenant", "created_at", "id"])
