"""The engine's thread: requests in, steps while there is work, events out to asyncio. Knows no model and no pages.

One thread owns the scheduler and everything below it, so none of that needs a lock. Requests and aborts reach it through
an inbox that it empties between steps; events leave as one call into the consumers' loop, for one or several short steps.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from time import perf_counter

import numpy as np

from senryu.engine.grammar import MaskThread
from senryu.engine.interface import DeadlineExceeded, EngineClosed, EngineStats, FinishReason, GrammarFailed, TokenEvent
from senryu.engine.scheduler import Plan, Scheduler
from senryu.engine.sequence import Sequence
from senryu.engine.step import BatchFiller, Pace, Runner, constrained
from senryu.kernels.batch import Batch, await_masks

log = logging.getLogger("senryu.engine")

# After a step the thread needs the interpreter back to start the next one. While asyncio is busy with Python code it gets
# it after Python's switch interval; 5 ms by default is many steps of a small model (LAB.md has the measurement).
SWITCH_INTERVAL = 0.0005

# Handing events to asyncio costs a sixth of a small model's step, and as much again over there on a core that the step wants:
# tokens of steps that are shorter than this many seconds leave together.
TOGETHER = 0.001


class Stream:
    """One request's mailbox. Used on the consumer's asyncio loop only; tokens that wait there leave as one event."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.ended = False  # the engine is done with the request: there is nothing to abort
        self._tokens: list[int] = []
        self._begun: int | None = None  # what was cached at the beginning, until that has been told
        self._cached = 0
        self._finish: FinishReason | None = None
        self._error: Exception | None = None
        self._news = False  # something waits here
        self._consumer: asyncio.Future[None] | None = None  # which waits for that

    def begin(self, cached: int) -> None:
        self._begun = cached
        self._tell()

    def push(self, tokens: list[int], cached: int, finish: FinishReason | None) -> None:
        self._tokens += tokens
        self._cached = cached
        self._finish = finish
        self.ended = finish is not None
        self._tell()

    def fail(self, error: Exception) -> None:
        self._error = error
        self.ended = True
        self._tell()

    def _tell(self) -> None:
        self._news = True
        if self._consumer is not None and not self._consumer.done():
            self._consumer.set_result(None)

    async def next(self) -> TokenEvent:
        """What has arrived since the last call, waiting for a token or the beginning. Raises what `fail` was given."""
        if not self._news:
            self._consumer = self.loop.create_future()
            try:
                await self._consumer
            finally:
                self._consumer = None
        if self._begun is not None:
            begun, self._begun = self._begun, None
            self._news = bool(self._tokens) or self._error is not None
            return TokenEvent((), begun)
        self._news = False
        if self._error is not None:
            raise self._error
        tokens, self._tokens = tuple(self._tokens), []
        return TokenEvent(tokens, self._cached, self._finish)


Push = tuple[Stream, list[int], int, FinishReason | None]  # the arguments of `Stream.push`


class EngineLoop:
    """Runs `scheduler` over `runner` on its own thread until `close`, then closes `runner`."""

    def __init__(self, runner: Runner, scheduler: Scheduler, *, max_pages: int, step_seconds: float, check: bool) -> None:
        """step_seconds: what a step with prefill should take. check: verify all pages after each step."""
        self._runner = runner
        self._scheduler = scheduler
        self._filler = BatchFiller(
            max_rows=runner.max_rows,
            max_sequences=runner.max_sequences,
            max_sampled=runner.max_sampled,
            max_pages=max_pages,
            vocab=runner.spec.vocab,
        )
        self._masks = MaskThread()
        self._pace = Pace(step_seconds, runner.max_rows)
        self._check = check
        self._inbox: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._streams: dict[Sequence, Stream] = {}
        self._outbox: dict[asyncio.AbstractEventLoop, list[Push]] = {}
        self._emptied = 0.0  # when the outbox was, by perf_counter
        self._closing = False
        self._closed = ""  # why nothing is taken any more
        self._cause: Exception | None = None
        self._gate = threading.Lock()  # a request is either told of the close or refused, never forgotten between the two
        self.stats: EngineStats = scheduler.stats()  # replaced as a whole after each step: any thread may read it
        sys.setswitchinterval(min(SWITCH_INTERVAL, sys.getswitchinterval()))
        self._thread = threading.Thread(target=self._main, name="senryu-engine", daemon=True)
        self._thread.start()

    def add(self, sequence: Sequence, stream: Stream) -> None:
        """Any thread. Raises EngineClosed after `close` or when the engine has failed."""
        with self._gate:
            if error := self.closed:
                raise error
            self._streams[sequence] = stream  # whatever happens from now on, this stream will be told
            self._inbox.put(partial(self._scheduler.add, sequence))

    @property
    def closed(self) -> EngineClosed | None:
        """See `Engine.closed`."""
        if not self._closed:
            return None
        error = EngineClosed(self._closed)  # one for each: raising adds a traceback to it
        error.__cause__ = self._cause
        return error

    def abort(self, sequence: Sequence) -> None:
        """Any thread. Takes effect between steps; nothing happens when the sequence has ended."""
        self._inbox.put(partial(self._abort, sequence))

    def close(self) -> None:
        """Any other thread. Ends the thread after the step that runs; open streams get EngineClosed."""
        self._closing = True
        self._inbox.put(lambda: None)  # wakes it
        self._thread.join()

    def _main(self) -> None:
        reason = "the engine is closed"
        try:
            while not self._closing:
                self._receive()
                if self._scheduler.busy and not self._closing:
                    self._step()
            self._scheduler.clear()
            self.stats = self._scheduler.stats()
        except Exception as error:  # a defect of the engine itself: better closed than wrong or silent
            log.exception("the engine has failed and is closed")
            reason = f"the engine has failed and is closed: {error!r}"
            self._cause = error
        with self._gate:
            self._closed = reason
        self._fail(list(self._streams), EngineClosed, reason, self._cause)
        self._masks.close()
        try:
            self._scheduler.close(save=self._cause is None)  # what a failed engine has computed is not to be trusted
        finally:
            self._runner.close()

    def _receive(self) -> None:
        """Take in what has arrived; sleep for it when there is nothing to do."""
        if not self._scheduler.busy:
            self._scheduler.check_idle()
            while self._inbox.empty() and self._scheduler.save_pinned(patience=0.02):
                pass
            self.stats = self._scheduler.stats()
            self._inbox.get()()
        while not self._inbox.empty():
            self._inbox.get()()

    def _step(self) -> None:
        scheduler, begun = self._scheduler, perf_counter()
        budget = self._pace.rows
        plan = scheduler.plan(budget)
        self._fail(plan.expired, DeadlineExceeded, "the deadline passed before the request had finished", None)
        if not plan.rows:
            if self._check:
                scheduler.check()
            self.stats = scheduler.stats()
            return
        for sequence, cached in plan.started:
            stream = self._streams[sequence]
            _post(stream.loop, stream.begin, cached)
        if plan.prefill:  # such a step may be long
            self._send()
        batch = self._filler.fill(plan)
        start = perf_counter()
        try:
            sampled = self._run(plan, batch)
        except Exception as error:
            log.exception("a step failed: its requests are answered with an error")
            self._fail_step(plan, error)
            return
        seconds = perf_counter() - start
        if plan.full:
            self._pace.measure(plan.work, seconds)
        outputs = scheduler.commit(plan, sampled)
        if not plan.prefill and scheduler.drafter:  # with the Python of drafts, which a small model's step is no longer than
            scheduler.drafter.cost.measure(len(batch.tokens), perf_counter() - begun)
        if self._check:
            scheduler.check()
        self.stats = scheduler.stats()  # before the events: who sees a request end sees its pages given back
        self._deliver(outputs)

    def _run(self, plan: Plan, batch: Batch) -> np.ndarray:
        """The step, beside the thread that fills the masks of sequences with a grammar."""
        if batch.masks is None or batch.masks_ready is None:
            return self._runner.step(batch)
        self._masks.start(constrained(plan), batch.masks, batch.masks_ready)
        try:
            return self._runner.step(batch)
        finally:
            await_masks(batch.masks_ready)  # set already, unless the step failed: the next one has the same arrays

    def _deliver(self, outputs: list[tuple[Sequence, list[int]]]) -> None:
        now = perf_counter() - self._emptied >= TOGETHER
        for sequence, tokens in outputs:
            if sequence.matcher and sequence.matcher.error and not sequence.finish:
                error = sequence.matcher.error
                self._fail([sequence], GrammarFailed, f"the request's grammar failed: {error}", error)
                continue
            stream = self._streams.pop(sequence) if sequence.finish else self._streams[sequence]
            self._outbox.setdefault(stream.loop, []).append((stream, tokens, sequence.cached, sequence.finish))
            now = now or sequence.finish is not None
        if now:
            self._send()

    def _send(self) -> None:
        """Empty the outbox."""
        if not self._outbox:
            return
        outbox, self._outbox, self._emptied = self._outbox, {}, perf_counter()
        for loop, items in outbox.items():
            if not _post(loop, _push_all, items):  # its consumers are gone and nobody will close their iterators
                for sequence in [sequence for sequence, stream in list(self._streams.items()) if stream.loop is loop]:
                    self._abort(sequence)

    def _abort(self, sequence: Sequence) -> None:
        if self._streams.pop(sequence, None) is not None:
            self._scheduler.abort(sequence)

    def _fail_step(self, plan: Plan, error: Exception) -> None:
        self._scheduler.fail(plan)
        self._fail(plan.sequences, RuntimeError, f"the engine's step failed: {error!r}", error)

    def _fail(self, sequences: list[Sequence], kind: type[Exception], message: str, cause: BaseException | None) -> None:
        if sequences:
            self._send()  # first what they have got
        for sequence in sequences:
            stream = self._streams.pop(sequence)
            error = kind(message)  # one for each: raising adds a traceback to it
            error.__cause__ = cause
            _post(stream.loop, stream.fail, error)


def _post(loop: asyncio.AbstractEventLoop, function: Callable[..., None], argument: object) -> bool:
    """Call `function(argument)` on `loop`, from any thread. False when that loop is closed."""
    try:
        loop.call_soon_threadsafe(function, argument)
    except RuntimeError:
        return False
    return True


def _push_all(items: list[Push]) -> None:
    for stream, tokens, cached, finish in items:
        stream.push(tokens, cached, finish)
