"""`senryu usage`: what was asked of this server and what it would have cost, by day and model."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from senryu.cli.output import print_json, print_table, say

if TYPE_CHECKING:
    from senryu.ledger.usage import UsageSum

COLUMNS = (
    "day", "model", "requests", "input", "write 5m", "write 1h", "read", "output", "cost $", "input $/M",
    "tool calls", "wrong %", "InvalidJson %", "UnknownName %", "SchemaMismatch %",
)  # fmt: skip
ALWAYS = 3  # columns that a terminal shows even where nothing was used


def usage(
    since: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="First day (UTC); all days by default.", show_default=False)
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show tokens, cost and tool-call errors by day and model.

    "input $/M" is the effective price of a million prompt tokens, reads from the cache and the halves of batches included.
    "tool calls" are requests that offered tools and ended in calls; "wrong %" of them made a call that its tool could not
    have taken, by three kinds. A terminal shows only the columns that hold something; a pipe gets all of them.
    """
    import asyncio
    import sys

    rows, total = asyncio.run(_sums(since))
    if json:
        print_json({"rows": [_facts(row) for row in rows], "total": _facts(total) if total else None})
    else:
        if not rows:
            say("No request was answered in this time.")
        cells = [_cells(row) for row in [*rows, *([total] if total and len(rows) > 1 else [])]]
        print_table(*(_narrow(cells) if sys.stdout.isatty() else (COLUMNS, cells)))


def _narrow(cells: list[list[object]]) -> tuple[list[str], list[list[object]]]:
    """Only the columns that say something: all of them are too many for a terminal."""
    kept = [at for at in range(len(COLUMNS)) if at < ALWAYS or any(row[at] not in (0, "-", "0.00") for row in cells)]
    return [COLUMNS[at] for at in kept], [[row[at] for at in kept] for row in cells]


async def _sums(since: datetime | None) -> tuple[list[UsageSum], UsageSum | None]:
    """By day and model; and of all, if there is any."""
    from senryu.config import load_settings
    from senryu.ledger.clock import SECOND
    from senryu.ledger.database import Database
    from senryu.ledger.usage import sums

    start = int(since.replace(tzinfo=UTC).timestamp()) * SECOND if since else 0
    async with Database(load_settings()) as database, database.read() as connection:
        rows = await sums(connection, ("day", "model"), start)
        return rows, next(iter(await sums(connection, (), start)), None)


def _price(row: UsageSum) -> str:
    """Dollars for a million prompt tokens, as 0.627."""
    nano = row.effective_input_nano
    return "-" if nano is None else f"{nano // 1000}.{nano % 1000:03d}"


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.2f}" if whole else "-"


def _cells(row: UsageSum) -> list[object]:
    from senryu.ledger.prices import usd

    tokens = row.usage
    wrong = (row.tool_errors, row.invalid_json, row.unknown_name, row.schema_mismatch)
    return [
        row.day or "all",
        row.model or "all",
        row.requests,
        tokens.input_tokens,
        tokens.cache_write_5m,
        tokens.cache_write_1h,
        tokens.cache_read,
        tokens.output_tokens,
        usd(row.cost_nano),
        _price(row),
        row.tool_requests,
        *(_percent(part, row.tool_requests) for part in wrong),
    ]


def _facts(row: UsageSum) -> dict[str, Any]:
    """Money as text, so that no reader makes a float of it."""
    from senryu.ledger.prices import usd

    named = {name: getattr(row, name) for name in ("day", "model") if getattr(row, name)}
    return {
        **named,
        "requests": row.requests,
        **asdict(row.usage),
        "cost_usd": usd(row.cost_nano),
        "effective_input_usd_per_mtok": None if row.effective_input_nano is None else _price(row),
        "tool_calls": {
            "requests": row.tool_requests,
            "wrong": row.tool_errors,
            "InvalidJson": row.invalid_json,
            "UnknownName": row.unknown_name,
            "SchemaMismatch": row.schema_mismatch,
        },
    }
