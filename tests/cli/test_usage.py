"""`senryu usage` by hand: sums as a table and as JSON, from a day on, and the starts that an unusable database refuses."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from senryu import cli
from senryu.cli.usage import _narrow
from senryu.config import Settings
from senryu.errors import SenryuError
from senryu.ledger.clock import DAY, SECOND
from senryu.ledger.database import Database
from senryu.ledger.rows import ToolErrors, UsageRow
from senryu.ledger.usage import record
from senryu.types import Usage

NOON = int(datetime(2026, 11, 20, 12, tzinfo=UTC).timestamp()) * SECOND
TOKENS = Usage(1000, 100, 10, 4000, 500)
INPUT = 1000 * 800 + 100 * 1000 + 10 * 1600 + 4000 * 80
COST = INPUT + 500 * 4000
ROW = UsageRow("1", NOON, "", "m", "standard", "finished", "tool_use", TOKENS, COST, INPUT, 1, 2, 1, 1)


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SENRYU_HOME", str(tmp_path))
    return lambda *arguments: CliRunner().invoke(cli.app, ["usage", *arguments])


def fill(home: Path, *rows: UsageRow) -> None:
    async def main() -> None:
        async with Database(Settings(home=home)) as database, database.write() as connection:
            await connection.run_sync(record, rows)

    asyncio.run(main())


def test_nothing_was_used_yet(call) -> None:
    assert call().stdout == ""
    assert json.loads(call("--json").stdout) == {"rows": [], "total": None}


def test_a_terminal_shows_only_columns_that_say_something() -> None:
    row = ["2026-11-20", "m", 1, 1000, 0, 0, 40, 0, "0.003236000", "0.242", 1, "0.00", "-", "0.00", "0.00"]
    assert _narrow([row]) == (
        ["day", "model", "requests", "input", "read", "cost $", "input $/M", "tool calls"],
        [["2026-11-20", "m", 1, 1000, 40, "0.003236000", "0.242", 1]],
    )


def test_usage_by_day_and_model(call, tmp_path: Path) -> None:
    wrong = replace(ROW, id="2", at=NOON + DAY, tool_errors=ToolErrors(schema_mismatch=2))
    fill(tmp_path, ROW, wrong, replace(wrong, id="3", stop_reason="end_turn", tools_offered=0, tool_errors=ToolErrors()))
    result: Result = call()
    price = "0.242"  # 1,236,000 nano-dollars for 5,110 tokens
    assert result.stdout.splitlines() == [
        f"2026-11-20\tm\t1\t1000\t100\t10\t4000\t500\t0.003236000\t{price}\t1\t0.00\t0.00\t0.00\t0.00",
        f"2026-11-21\tm\t2\t2000\t200\t20\t8000\t1000\t0.006472000\t{price}\t1\t100.00\t0.00\t0.00\t100.00",
        f"all\tall\t3\t3000\t300\t30\t12000\t1500\t0.009708000\t{price}\t2\t50.00\t0.00\t0.00\t50.00",
    ]
    late = json.loads(call("--since", "2026-11-21", "--json").stdout)
    assert [row["day"] for row in late["rows"]] == ["2026-11-21"]
    assert late["total"] == {
        "requests": 2, "input_tokens": 2000, "cache_write_5m": 200, "cache_write_1h": 20, "cache_read": 8000,
        "output_tokens": 1000, "reused_tokens": 0, "cost_usd": "0.006472000", "effective_input_usd_per_mtok": price,
        "tool_calls": {"requests": 1, "wrong": 1, "InvalidJson": 0, "UnknownName": 0, "SchemaMismatch": 1},
    }  # fmt: skip
    assert call("--since", "yesterday").exit_code == 2


def test_a_database_that_cannot_be_opened_is_told_before_a_model_is_loaded(call, tmp_path: Path) -> None:
    (tmp_path / "senryu.db").write_bytes(b"no database at all" * 1000)
    for arguments in (["usage"], ["serve", "--model", "path:nowhere", "--port", "0"]):
        result = CliRunner().invoke(cli.app, arguments)
        assert isinstance(result.exception, SenryuError)
        assert result.exception.code == "database_unusable"
