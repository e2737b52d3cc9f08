"""The engine's contract, written once: token ids in, token ids out; no text, no HTTP.

Life of a request: queued -> running -> finished ("stop", "length", "abort"). An engine that has no room queues; it never
truncates, and it drops nothing but what is past its own deadline, with an error. Whatever happens to one request, the
others' tokens do not change.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Literal, Protocol

import msgspec

FinishReason = Literal["stop", "length"]
Priority = Literal["interactive", "batch"]
GrammarKind = Literal["json_schema", "regex", "lark"]


@dataclass(frozen=True, slots=True)
class Sampling:
    """How the next token is drawn. temperature 0 is argmax; top_k 0 keeps all; equal seeds give equal tokens."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Breakpoint:
    """Keep the K/V of the first `offset` tokens (1 to the prompt's length) for `ttl` seconds (> 0) after it was last used.

    The offset counts down to full pages, so the first few tokens pin nothing. Every request that takes the pinned prefix
    from the cache starts its time anew; where two requests pin the same prefix, the later end counts. Pinned pages are
    evicted only after every unpinned cached page, those longest unused first, and they never keep a request from
    starting. All pins together hold at most half of the pool: beyond it the pins longest unused are undone, and of a
    prefix longer than half of the pool only the first half is pinned. After its time a page is an ordinary cached page.
    """

    offset: int
    ttl: float


@dataclass(frozen=True, slots=True)
class Grammar:
    """What the whole answer must match: a JSON Schema (as JSON; the answer has no white space between its tokens), a regular
    expression, or a Lark grammar with the rule `start`."""

    kind: GrammarKind
    source: str


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """One generation. `ids` is the whole prompt (at least one id), `stop_ids` end it (the stop id itself is emitted).

    `salt` names the tenant. Requests share K/V, in memory and on disk, and draft pools only when their salts are equal, and
    tenants share the engine: whoever has least running starts next, and prefill goes to whoever has had least of it.

    `priority`: "batch" work uses what room "interactive" work leaves. It starts when no interactive request that could
    start is waiting, and gives its room back between two steps when one needs it: it is then paused, goes back to the
    queue, and continues later with the same tokens. It decodes in every step; its prefill gets the rows that interactive
    prefill leaves, at most a quarter of a step while anything interactive runs.

    `deadline`: a time.monotonic() in seconds. A request that has not finished by then ends with DeadlineExceeded, whether
    queued or running; tokens that were already delivered stay valid.

    `grammar` leaves only tokens that can go on to match it, and a stop id only where the answer is complete: finish "stop" is
    a whole answer, "length" may be one that was cut. With a grammar the model's own end ids are stop ids too.

    A request with `breakpoints` gets an event of its own when its first tokens are about to be computed: without tokens, it
    says in `cached` what needs no computing.
    """

    ids: tuple[int, ...]
    max_tokens: int
    sampling: Sampling = field(default_factory=Sampling)
    stop_ids: frozenset[int] = frozenset()
    salt: bytes = b""
    breakpoints: tuple[Breakpoint, ...] = ()
    priority: Priority = "interactive"
    deadline: float | None = None
    grammar: Grammar | None = None


class TokenEvent(msgspec.Struct, frozen=True):  # one for each token of every stream: cheaper to make than a dataclass
    """New tokens in order, at least one, but for the first event of a request with breakpoints, which has none. The last event
    of a request, and only that one, has `finish`.

    Tokens that were sampled while the consumer was busy come together in one event. `cached` is how many prompt tokens
    came from the prefix cache, from memory or from disk, instead of being computed; known from the first event on. It
    counts tokens, not pages: the matching head of a page counts too.
    """

    tokens: tuple[int, ...]
    cached: int = 0
    finish: FinishReason | None = None


class EngineStats(msgspec.Struct, frozen=True):  # one for each step: cheaper to make than a dataclass
    """A snapshot. Pages: free + cached + live = total, always; pinned ones are cached or live. Tokens: since start.

    Of `drafted` tokens `accepted` saved a step each. `restored_tokens` are the part of `cached_tokens` that came from disk;
    `pages_on_disk` can be matched there now.
    """

    queued: int
    running: int
    pages_total: int
    pages_free: int
    pages_cached: int
    pages_live: int
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    steps: int
    drafted: int
    accepted: int
    pages_pinned: int = 0
    pages_on_disk: int = 0
    restored_tokens: int = 0


class Engine(Protocol):
    """What the service talks to."""

    @property
    def max_context(self) -> int:
        """Most tokens (prompt + output) that one request may hold here."""

    @property
    def closed(self) -> EngineClosed | None:
        """What every request gets after `close` or a defect (then with a cause); None while requests are taken. Any thread."""

    def generate(self, request: TokenRequest) -> AsyncIterator[TokenEvent]:
        """Run one request. Closing the iterator early, or cancelling who waits for it, aborts it and frees its pages.

        Raises ValueError at the call when the request can never run: empty, longer than `max_context`, a token id
        outside the vocabulary, sampling or a breakpoint out of range; GrammarError for a grammar that cannot be compiled.
        While iterating: EngineClosed after `close`, DeadlineExceeded past the request's deadline, GrammarFailed, RuntimeError
        when the step that carried this request failed (the engine lives on).
        """

    def compile(self, grammar: Grammar) -> None:
        """Compile `grammar` ahead of `generate`, which then finds it in a cache: for a thread beside asyncio's, since large
        grammars take a while. Raises GrammarError."""

    def stats(self) -> EngineStats:
        """Counters since start, and the state of the page pool."""

    async def close(self) -> None:
        """Abort what runs, stop the engine's thread and release its memory."""


class GrammarError(ValueError):
    """A grammar that is broken, or that uses what is not supported; the message says what."""


class GrammarFailed(RuntimeError):
    """A grammar that was compiled, but cannot go on; the message says why. Its request ends alone."""


class EngineClosed(RuntimeError):
    """The engine has stopped: the request was not, or not wholly, answered."""


class DeadlineExceeded(RuntimeError):
    """The request's deadline passed before it had finished: what was delivered is valid, but not the whole answer."""
