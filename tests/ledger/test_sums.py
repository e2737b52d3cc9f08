"""Rows of usage: written once, and sums of them that are what adding up by hand gives, on both databases."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import fields, replace
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, select

from senryu.config import Settings
from senryu.ledger.clock import DAY, as_datetime
from senryu.ledger.database import Database
from senryu.ledger.prices import load_prices
from senryu.ledger.rows import ToolErrors, UsageRow
from senryu.ledger.tables import requests
from senryu.ledger.usage import UsageSum, record, sums
from senryu.types import Usage

NOON = 1_700_000_000 * 1_000_000 // DAY * DAY + DAY // 2
COUNT = st.integers(0, 200_000)
ERRORS = st.integers(0, 3)


@st.composite
def rows(draw: st.DrawFn) -> list[UsageRow]:
    """Of three days, two models, two tenants; some free."""
    made = []
    for number in range(draw(st.integers(0, 12))):
        usage = draw(st.builds(Usage, COUNT, COUNT, COUNT, COUNT, COUNT, COUNT))
        tier: Any = draw(st.sampled_from(["standard", "batch"]))
        prices, free = load_prices()[tier], draw(st.booleans())
        made.append(
            UsageRow(
                id=f"msg_{number}",
                at=NOON + draw(st.integers(-DAY, DAY)),
                tenant=draw(st.sampled_from(["", "t"])),
                model=draw(st.sampled_from(["a", "b"])),
                tier=tier,
                outcome="failed" if free else "finished",
                stop_reason=None if free else draw(st.sampled_from(["end_turn", "tool_use"])),
                usage=usage,
                cost_nano=0 if free else prices.cost(usage),
                input_cost_nano=0 if free else prices.input_cost(usage),
                first_token_ms=draw(st.none() | st.integers(0, 10**6)),
                total_ms=draw(st.integers(0, 10**6)),
                tools_offered=draw(st.integers(0, 2)),
                tool_calls=draw(ERRORS),
                tool_errors=draw(st.builds(ToolErrors, ERRORS, ERRORS, ERRORS)),
            )
        )
    return made


def by_hand(rows: list[UsageRow], day: str, model: str, tenant: str) -> UsageSum:
    called = [row for row in rows if row.tools_offered and row.stop_reason == "tool_use"]
    priced = [row.usage for row in rows if row.input_cost_nano]
    prompt = [usage.input_tokens + usage.cache_write_5m + usage.cache_write_1h + usage.cache_read for usage in priced]
    return UsageSum(
        day, model, tenant,
        requests=len(rows),
        usage=Usage(*(sum(getattr(row.usage, field.name) for row in rows) for field in fields(Usage))),
        cost_nano=sum(row.cost_nano for row in rows),
        input_cost_nano=sum(row.input_cost_nano for row in rows),
        priced_tokens=sum(prompt),
        tool_requests=len(called),
        tool_errors=sum(row.tool_errors != ToolErrors() for row in called),
        invalid_json=sum(row.tool_errors.invalid_json > 0 for row in called),
        unknown_name=sum(row.tool_errors.unknown_name > 0 for row in called),
        schema_mismatch=sum(row.tool_errors.schema_mismatch > 0 for row in called),
    )  # fmt: skip


def expected(rows: list[UsageRow], by: tuple[str, ...]) -> list[UsageSum]:
    groups: dict[tuple[str, str, str], list[UsageRow]] = defaultdict(list)
    for row in rows:
        day = as_datetime(row.at).date().isoformat()
        groups[day if "day" in by else "", row.model if "model" in by else "", row.tenant if "tenant" in by else ""].append(row)
    return [by_hand(group, *key) for key, group in sorted(groups.items())]


def test_sums_are_exact(ledger_settings: Settings) -> None:
    with asyncio.Runner() as runner:
        database = Database(ledger_settings)
        runner.run(database.open())

        async def check(some: list[UsageRow], since: int) -> None:
            async with database.write() as connection:
                await connection.execute(delete(requests))
                await connection.run_sync(record, some)
                await connection.run_sync(record, [replace(row, cost_nano=7) for row in some])  # a second time: left as it is
            async with database.read() as connection:
                late = [row for row in some if row.at >= since]
                for by in ((), ("day",), ("model",), ("tenant",), ("day", "model"), ("day", "model", "tenant")):
                    assert await sums(connection, by, since) == expected(late, by)

        @settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
        @given(rows(), st.sampled_from([0, NOON]))
        def run(some: list[UsageRow], since: int) -> None:
            runner.run(check(some, since))

        try:
            run()
        finally:
            runner.run(database.close())


def test_a_row_comes_back_as_it_was(ledger_settings: Settings) -> None:
    usage, errors = Usage(1, 2, 3, 4, 5, 6), ToolErrors(13, 14, 15)
    row = UsageRow("msg_1", NOON, "t", "m", "batch", "aborted", None, usage, 7, 8, 9, 10, 11, 12, errors, "b")

    async def main() -> dict[str, Any]:
        async with Database(ledger_settings) as database:
            async with database.write() as connection:
                await connection.run_sync(record, [])
                await connection.run_sync(record, [row])
            async with database.read() as connection:
                return dict((await connection.execute(select(requests))).mappings().one())

    assert asyncio.run(main()) == {
        "id": "msg_1", "at": NOON, "tenant": "t", "model": "m", "tier": "batch", "outcome": "aborted", "stop_reason": None,
        "input_tokens": 1, "cache_write_5m": 2, "cache_write_1h": 3, "cache_read": 4, "output_tokens": 5, "reused_tokens": 6,
        "cost_nano": 7, "input_cost_nano": 8, "first_token_ms": 9, "total_ms": 10, "tools_offered": 11, "tool_calls": 12,
        "invalid_json": 13, "unknown_name": 14, "schema_mismatch": 15, "batch_id": "b",
    }  # fmt: skip


def test_the_effective_price_of_a_prompt_token() -> None:
    nothing = by_hand([], "", "", "")
    assert nothing.effective_input_nano is None
    assert replace(nothing, input_cost_nano=627_499, priced_tokens=1000).effective_input_nano == 627
    assert replace(nothing, input_cost_nano=627_500, priced_tokens=1000).effective_input_nano == 628
