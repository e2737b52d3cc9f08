"""Rates as headers: what is left of them, in the Claude API's names and in OpenAI's, and when a refusal may be tried again."""

from __future__ import annotations

from collections.abc import Mapping

from senryu.errors import SenryuError
from senryu.ledger import clock
from senryu.service.rates import Standing

WHAT = ("limit", "remaining", "reset")
EXPOSED = (  # to scripts of web pages
    *(
        f"anthropic-ratelimit-{kind}-{what}"
        for kind in ("requests", "tokens", "input-tokens", "output-tokens")
        for what in WHAT
    ),
    *(f"x-ratelimit-{what}-{kind}" for kind in ("requests", "tokens") for what in WHAT),
    "retry-after",
    "x-should-retry",
)
MILLISECOND, MICROSECOND = 10**6, 10**3  # in nanoseconds


def claude_rates(standing: Mapping[str, Standing]) -> dict[str, str]:
    """The Claude API's: tokens that remain in thousands, and at which second nothing will be missing."""
    headers = {}
    for kind, one in {**standing, **_all_tokens(standing)}.items():
        name = f"anthropic-ratelimit-{kind.replace(' ', '-')}"
        left = one.remaining if kind == "requests" else min(one.limit, (one.remaining + 500) // 1000 * 1000)
        full = -(-(clock.now() - -one.full_in // MICROSECOND) // clock.SECOND) * clock.SECOND
        headers[f"{name}-limit"] = str(one.limit)
        headers[f"{name}-remaining"] = str(left)
        headers[f"{name}-reset"] = clock.as_datetime(full).isoformat().replace("+00:00", "Z")
    return headers


def openai_rates(standing: Mapping[str, Standing]) -> dict[str, str]:
    """OpenAI's: all tokens as one, and how long until nothing is missing."""
    headers = {}
    requests = {kind: one for kind, one in standing.items() if kind == "requests"}
    for kind, one in {**requests, **_all_tokens(standing)}.items():
        headers[f"x-ratelimit-limit-{kind}"] = str(one.limit)
        headers[f"x-ratelimit-remaining-{kind}"] = str(one.remaining)
        headers[f"x-ratelimit-reset-{kind}"] = _duration(-(-one.full_in // MILLISECOND))
    return headers


def retry_headers(error: SenryuError) -> dict[str, str]:
    """Of a refusal. An overload has none: nobody knows when it ends, and SDKs wait longer each time by themselves."""
    if error.code == "rate_limited":
        return {"retry-after": str(error.values["retry_after"])}
    return {"x-should-retry": "false"} if error.code == "rate_never" else {}


def _all_tokens(standing: Mapping[str, Standing]) -> dict[str, Standing]:
    """Input and output together; where one has no limit, the other alone."""
    parts = [one for kind, one in standing.items() if kind != "requests"]
    if not parts:
        return {}
    limit, remaining = sum(one.limit for one in parts), sum(one.remaining for one in parts)
    return {"tokens": Standing(limit, remaining, max(one.full_in for one in parts))}


def _duration(milliseconds: int) -> str:
    """As in 6m0s, 1.2s, 45ms."""
    minutes, rest = divmod(milliseconds, 60_000)
    seconds = f"{rest / 1000:g}s"
    return f"{minutes}m{seconds}" if minutes else f"{rest}ms" if 0 < rest < 1000 else seconds
