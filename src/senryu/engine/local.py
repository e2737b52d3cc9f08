"""The CPU engine: the `Engine` contract over one program, its pages and the engine's thread."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import numpy as np

from senryu.engine.draft import Drafter
from senryu.engine.grammar import GrammarCompiler, Matcher
from senryu.engine.interface import EngineClosed, EngineStats, Grammar, GrammarError, TokenEvent, TokenRequest
from senryu.engine.loop import EngineLoop, Stream
from senryu.engine.scheduler import Scheduler
from senryu.engine.sequence import Sequence
from senryu.engine.spill import open_spill
from senryu.engine.step import Runner, doubling_depth


class LocalEngine:
    """Owns `runner` from now on: `close` closes it, and so does a defect that ends the engine's thread."""

    def __init__(
        self,
        runner: Runner,
        *,
        max_context: int | None = None,
        step_seconds: float = 0.08,
        spill_directory: Path | None = None,
        spill_bytes: int = 0,
        drafts: bool = True,
        grammars: GrammarCompiler | None = None,
        check: bool = False,
    ) -> None:
        """
        max_context: tokens of one request at most; by default as many as the model's positions and the pool allow.
        step_seconds: what a step with prefill should take; it bounds how long an abort or a new request waits.
        spill_directory: where K/V that no longer fits into memory is kept, over restarts too; of this engine alone.
        spill_bytes: how much may lie there; 0 keeps nothing.
        drafts: guess tokens ahead and verify them together where that pays; the answers are the same.
        grammars: of the model's tokenizer; without it a request with a grammar is refused.
        check: verify the whole page accounting after every step (tests).
        """
        room = min(runner.spec.max_position, runner.pages * runner.page_size)
        self._max_context = room if max_context is None else min(max_context, room)
        self._vocab = runner.spec.vocab
        self._page_size = runner.page_size
        spill = None
        if spill_directory is not None and spill_bytes:
            page_bytes = len(runner.read_page(0))
            spill = open_spill(spill_directory, spill_bytes, fingerprint=runner.fingerprint, page_bytes=page_bytes)
        self._grammars = grammars
        scheduler = Scheduler(
            pages=runner.pages,
            page_size=runner.page_size,
            max_rows=runner.max_rows,
            max_sequences=runner.max_sequences,
            max_sampled=runner.max_sampled,
            drafter=Drafter() if drafts else None,
            store=runner,
            spill=spill,
            deep=doubling_depth(runner.spec),
        )
        max_pages = -(-self._max_context // runner.page_size)
        self._loop = EngineLoop(runner, scheduler, max_pages=max_pages, step_seconds=step_seconds, check=check)

    @property
    def max_context(self) -> int:
        return self._max_context

    @property
    def closed(self) -> EngineClosed | None:
        return self._loop.closed

    def generate(self, request: TokenRequest) -> AsyncGenerator[TokenEvent, None]:
        """See `Engine.generate`. The request enters the queue when the iterator is first asked for an event."""
        wanted = len(request.ids) + request.max_tokens
        if wanted > self._max_context:
            raise ValueError(
                f"prompt ({len(request.ids)}) + max_tokens ({request.max_tokens}) = {wanted} tokens, "
                f"but a request may hold {self._max_context} here"
            )
        matcher = self._matcher(request.grammar, request.stop_ids) if request.grammar else None
        sequence = Sequence(request, self._page_size, matcher)
        ids = sequence.tokens[: sequence.prompt]
        if ids.view(np.uint32).max() >= self._vocab:  # a negative id is a very large one here
            raise ValueError(f"a token id is outside the vocabulary of {self._vocab}")
        return self._events(sequence)

    def compile(self, grammar: Grammar) -> None:
        """See `Engine.compile`."""
        self._matcher(grammar, frozenset())

    def _matcher(self, grammar: Grammar, stop_ids: frozenset[int]) -> Matcher:
        if self._grammars is None:
            raise GrammarError("this engine was started without a tokenizer, so it cannot keep to a grammar")
        return self._grammars.compile(grammar, stop_ids)

    async def _events(self, sequence: Sequence) -> AsyncGenerator[TokenEvent, None]:
        stream = Stream()
        self._loop.add(sequence, stream)
        try:
            while True:
                event = await stream.next()
                yield event
                if event.finish:
                    return
        finally:
            if not stream.ended:
                self._loop.abort(sequence)

    def stats(self) -> EngineStats:
        return self._loop.stats

    async def close(self) -> None:
        """See `Engine.close`. Waits for the step that runs; closing twice is fine."""
        await asyncio.to_thread(self._loop.close)
