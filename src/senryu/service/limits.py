"""What one request may ask for: output and context limits, with the exact refusals; and how many requests at once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from senryu.errors import SenryuError

CONTEXT_TOKENS = 200_000
OUTPUT_TOKENS = 8_192


@dataclass(frozen=True, slots=True)
class Limits:
    """Most tokens of prompt and answer together, and of the answer alone."""

    context: int = CONTEXT_TOKENS
    output: int = OUTPUT_TOKENS

    def check_output(self, asked: int, model: str) -> None:
        """Raises SenryuError when `max_tokens` is over the cap."""
        if asked > self.output:
            raise SenryuError("max_tokens_high", asked=asked, cap=self.output, model=model)

    def room(self, count: int, asked: int, cut: bool = False) -> int:
        """Tokens that the answer to a prompt of `count` may have: `asked`, or with `cut` what is left of the context.

        Raises SenryuError when that is less than `asked`, or nothing.
        """
        if count > self.context:
            raise SenryuError("prompt_too_long", count=count, context=self.context)
        room = min(asked, self.context - count)
        if room < (1 if cut else asked):
            raise SenryuError("context_exceeded", count=count, asked=asked, context=self.context)
        return room


class Admission:
    """Counts requests in flight. The engine queues what it cannot run yet; this bounds that queue."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.active = 0

    @contextmanager
    def admit(self) -> Iterator[None]:
        """Holds a place while inside. Raises SenryuError("overloaded") when there is none."""
        if self.active >= self._most:
            raise SenryuError("overloaded")
        self.active += 1
        try:
            yield
        finally:
            self.active -= 1
