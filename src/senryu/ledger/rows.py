"""What a turn used, as a row: data alone, for who counts and never opens a database."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from senryu.ledger.prices import Tier
from senryu.types import Usage

Outcome = Literal["finished", "aborted", "failed"]


@dataclass(frozen=True, slots=True)
class ToolErrors:
    """Calls of one answer that their tool could not have taken, by what was wrong with them."""

    invalid_json: int = 0
    unknown_name: int = 0
    schema_mismatch: int = 0


@dataclass(frozen=True, slots=True)
class UsageRow:
    """One turn. `id` is the Message's, `at` microseconds since 1970, costs are nano-dollars."""

    id: str
    at: int
    tenant: str
    model: str
    tier: Tier
    outcome: Outcome
    stop_reason: str | None
    usage: Usage
    cost_nano: int
    input_cost_nano: int
    first_token_ms: int | None
    total_ms: int
    tools_offered: int = 0
    tool_calls: int = 0
    tool_errors: ToolErrors = ToolErrors()
    batch_id: str | None = None
