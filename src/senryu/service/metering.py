"""What a turn used and cost: one row for every turn that was started."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Self

from senryu.ledger import clock
from senryu.ledger.prices import Prices, Tier
from senryu.ledger.rows import Outcome, ToolErrors, UsageRow
from senryu.service.answer import Answer
from senryu.service.rates import Pace
from senryu.types import BlockStopped, Event, Started, StopReason, ToolUse, Turn, Usage

Keep = Callable[[UsageRow], None]


class Meter:
    """Sees the events of one turn, which runs inside of it. Once it has started it leaves one row, at its end, its abort or
    its failure. What is used is charged to its tenant's rates at once.

    A turn that fails costs nothing, nor does one that is given up before its first token and has no cache breakpoint; any other
    that is given up costs its prompt and the tokens that were made.
    """

    def __init__(self, turn: Turn, prices: dict[Tier, Prices], keep: Keep, pace: Pace) -> None:
        self.answer: Answer | None = None
        self.turn, self._keep = turn, keep  # a thread's becomes the whole conversation
        self.pace = pace
        self._tier: Tier = "batch" if turn.priority == "batch" else "standard"
        self._prices = prices[self._tier]
        self._at, self._clock = clock.now(), time.monotonic()
        self._first: int | None = None
        self._calls = 0
        self._started: Started | None = None
        self._usage: Usage | None = None  # when it is complete
        self._stop_reason: str | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._charge_output()
        if self._started is None:
            return
        outcome: Outcome = "failed"
        if kind is None:
            outcome = "finished"
        elif issubclass(kind, GeneratorExit | asyncio.CancelledError):
            outcome = "finished" if self._usage else "aborted"
        self._keep(self._row(self._started, outcome))

    def see(self, events: Sequence[Event]) -> Sequence[Event]:
        """The same events, which come before the last."""
        for event in events:
            if isinstance(event, Started):
                self._started = event
                self.pace.settle(event.usage)
            elif self._first is None:
                self._first = self._elapsed()
            elif isinstance(event, BlockStopped) and isinstance(event.block, ToolUse):
                self._calls += 1
        self._charge_output()
        return events

    def finish(self, stop_reason: StopReason, usage: Usage) -> int:
        """The turn is complete; what it costs in nano-dollars."""
        if self._first is None:
            self._first = self._elapsed()
        self._usage, self._stop_reason = usage, stop_reason
        return self._prices.cost(usage)

    def _charge_output(self) -> None:
        if self.answer:
            self.pace.wrote(self.answer.output_tokens)

    def _elapsed(self) -> int:
        return round((time.monotonic() - self._clock) * 1000)

    def _row(self, started: Started, outcome: Outcome) -> UsageRow:
        made = self.answer.output_tokens if self.answer else 0
        usage = self._usage or replace(started.usage, output_tokens=made)
        marked = usage.cache_read + usage.cache_write_5m + usage.cache_write_1h  # others will read what this turn wrote
        free = outcome == "failed" or (outcome == "aborted" and not made and not marked)
        return UsageRow(
            id=started.id,
            at=self._at,
            tenant=self.turn.tenant,
            model=started.model,
            tier=self._tier,
            outcome=outcome,
            stop_reason=self._stop_reason,
            usage=usage,
            cost_nano=0 if free else self._prices.cost(usage),
            input_cost_nano=0 if free else self._prices.input_cost(usage),
            first_token_ms=self._first,
            total_ms=self._elapsed(),
            tools_offered=len(self.turn.tools),
            tool_calls=self._calls,
            tool_errors=ToolErrors(**self.answer.tool_errors) if self.answer else ToolErrors(),
        )
