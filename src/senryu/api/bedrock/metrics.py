"""What an invocation took, as Bedrock says it: milliseconds and tokens, in headers and in a stream's last chunk."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from senryu.types import BlockStarted, Event, Usage

COUNTS = "X-Amzn-Bedrock-"


@dataclass(slots=True)
class Stopwatch:
    """Runs from when it is made."""

    start: float = field(default_factory=time.monotonic)
    first: float | None = None

    def see(self, event: Event) -> None:
        """Notes when the first block of the answer began."""
        if self.first is None and isinstance(event, BlockStarted):
            self.first = time.monotonic()

    def latency_ms(self) -> int:
        """Milliseconds until now."""
        return round((time.monotonic() - self.start) * 1000)

    def first_ms(self) -> int:
        """Milliseconds until the first block; until now where there was none."""
        return self.latency_ms() if self.first is None else round((self.first - self.start) * 1000)


def written(usage: Usage) -> int:
    """Tokens written to the cache, for whatever time."""
    return usage.cache_write_5m + usage.cache_write_1h


def count_headers(usage: Usage, watch: Stopwatch) -> dict[str, str]:
    """The headers of a whole answer."""
    counts = {
        "Input-Token-Count": usage.input_tokens,
        "Output-Token-Count": usage.output_tokens,
        "Cache-Read-Input-Token-Count": usage.cache_read,
        "Cache-Write-Input-Token-Count": written(usage),
        "Invocation-Latency": watch.latency_ms(),
    }
    return {COUNTS + name: str(count) for name, count in counts.items()}


def invocation_metrics(usage: Usage, watch: Stopwatch) -> dict[str, int]:
    """What the last chunk of a stream carries."""
    return {
        "inputTokenCount": usage.input_tokens,
        "outputTokenCount": usage.output_tokens,
        "cacheReadInputTokenCount": usage.cache_read,
        "cacheWriteInputTokenCount": written(usage),
        "invocationLatency": watch.latency_ms(),
        "firstByteLatency": watch.first_ms(),
    }
