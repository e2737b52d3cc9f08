"""Rows of usage in the database: each written once; one of them again, and sums by day, model and tenant."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from functools import cache
from importlib import import_module
from typing import Any, Literal

from sqlalchemy import ColumnElement, Executable, and_, case, func, or_, select
from sqlalchemy.engine import Connection
from sqlalchemy.ext.asyncio import AsyncConnection

from senryu.ledger.clock import DAY, as_datetime
from senryu.ledger.rows import ToolErrors, UsageRow
from senryu.ledger.tables import requests
from senryu.types import Usage

By = Literal["day", "model", "tenant"]
_TOKENS = tuple(field.name for field in fields(Usage))
_ERRORS = tuple(field.name for field in fields(ToolErrors))
_OWN = tuple(field.name for field in fields(UsageRow) if field.name not in ("usage", "tool_errors"))


@dataclass(frozen=True, slots=True)
class UsageSum:
    """Rows of one day (YYYY-MM-DD, UTC), model and tenant, as far as they were told apart ("" where not).

    `priced_tokens` are the prompt tokens that `input_cost_nano` was paid for. `tool_requests` offered tools and ended in
    calls; in `tool_errors` of them a call was wrong, by the kinds of error in the three that follow.
    """

    day: str
    model: str
    tenant: str
    requests: int
    usage: Usage
    cost_nano: int
    input_cost_nano: int
    priced_tokens: int
    tool_requests: int
    tool_errors: int
    invalid_json: int
    unknown_name: int
    schema_mismatch: int

    @property
    def effective_input_nano(self) -> int | None:
        """Nano-dollars that a prompt token cost on the average, rounded (half up): thousandths of a dollar per million."""
        tokens = self.priced_tokens
        return (2 * self.input_cost_nano + tokens) // (2 * tokens) if tokens else None


def record(connection: Connection, rows: Sequence[UsageRow]) -> None:
    """Write rows; one whose id is there already is left as it is."""
    values = [_flat(row) for row in rows]
    if values:
        connection.execute(_insert(connection.dialect.name), values)


@cache
def _insert(dialect: str) -> Executable:
    """Built once, since it runs all the time."""
    module = import_module(f"sqlalchemy.dialects.{dialect}")  # the one that is in use already
    statement: Executable = module.insert(requests).on_conflict_do_nothing(index_elements=["id"])
    return statement


def _flat(row: UsageRow) -> dict[str, object]:
    parts = ((row, _OWN), (row.usage, _TOKENS), (row.tool_errors, _ERRORS))
    return {name: getattr(part, name) for part, names in parts for name in names}


async def find(connection: AsyncConnection, tenant: str, id: str) -> UsageRow | None:
    """The row of a tenant's answer."""
    query = select(requests).where(requests.c.id == id, requests.c.tenant == tenant)
    found = (await connection.execute(query)).mappings().first()
    if found is None:
        return None
    row = dict(found)
    usage = Usage(**{field.name: row.pop(field.name) for field in fields(Usage)})
    errors = ToolErrors(**{field.name: row.pop(field.name) for field in fields(ToolErrors)})
    return UsageRow(**row, usage=usage, tool_errors=errors)


async def spent(connection: AsyncConnection, tenant: str, since: Sequence[int]) -> list[int]:
    """What a tenant's rows cost since each of these times, in nano-dollars."""
    table = requests.c
    columns = [func.coalesce(func.sum(case((table.at >= start, table.cost_nano), else_=0)), 0) for start in since]
    found = (await connection.execute(select(*columns).where(table.tenant == tenant))).one()
    return [int(cost) for cost in found]


async def sums(connection: AsyncConnection, by: Sequence[By] = ("day", "model"), since: int = 0) -> list[UsageSum]:
    """Sums of the rows since a time (microseconds), told apart by `by`, ordered by it."""
    table = requests.c
    keys = {"day": table.at // DAY, "model": table.model, "tenant": table.tenant}
    groups = [keys[name].label(name) for name in by]
    prompt = table.input_tokens + table.cache_write_5m + table.cache_write_1h + table.cache_read
    called = and_(table.tools_offered > 0, table.stop_reason == "tool_use")
    wrong = {name: table[name] > 0 for name in _ERRORS}
    parts = {name: table[name] for name in _TOKENS}
    totals = {
        "cost_nano": table.cost_nano,
        "input_cost_nano": table.input_cost_nano,
        "priced_tokens": case((table.input_cost_nano > 0, prompt), else_=0),
        "tool_requests": _one_where(called),
        "tool_errors": _one_where(and_(called, or_(*wrong.values()))),
        **{name: _one_where(and_(called, bad)) for name, bad in wrong.items()},
    }
    columns = [func.sum(column).label(name) for name, column in (parts | totals).items()]
    query = select(*groups, func.count().label("requests"), *columns).where(table.at >= since)
    if by:
        query = query.group_by(*by).order_by(*by)
    found = (await connection.execute(query)).mappings().all()
    return [_sum(dict(row), parts) for row in found if row["requests"]]


def _one_where(condition: ColumnElement[bool]) -> ColumnElement[int]:
    return case((condition, 1), else_=0)


def _sum(row: dict[str, Any], parts: Iterable[str]) -> UsageSum:
    """PostgreSQL sums whole numbers as decimals."""
    day = as_datetime(row.pop("day") * DAY).date().isoformat() if "day" in row else ""
    model, tenant = row.pop("model", ""), row.pop("tenant", "")
    usage = Usage(**{name: int(row.pop(name)) for name in parts})
    return UsageSum(day, model, tenant, usage=usage, **{name: int(value) for name, value in row.items()})
