"""The heart: what a turn means, once, for every wire shape. Turn -> prompt -> engine -> answer -> Events."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import TypeVar, cast

from senryu.config import Settings
from senryu.engine.interface import (
    Breakpoint,
    DeadlineExceeded,
    EngineClosed,
    GrammarFailed,
    Sampling,
    TokenEvent,
    TokenRequest,
)
from senryu.errors import SenryuError
from senryu.ledger.prices import load_prices
from senryu.service.answer import Answer
from senryu.service.caching import Cache, countable
from senryu.service.citations import check_citations, citer
from senryu.service.diagnosis import Diagnosis
from senryu.service.documents import Documents, FileSource
from senryu.service.ids import new_id
from senryu.service.limits import Admission
from senryu.service.metering import Keep, Meter
from senryu.service.positions import breakpoints
from senryu.service.prompt import Prompt, Prompts
from senryu.service.rates import Pace, Rates
from senryu.service.registry import LoadedModel, Registry, Served
from senryu.service.rules import check
from senryu.service.threads import Threads
from senryu.service.tools import Plan, grammar_reason, plan
from senryu.types import Event, Finished, Started, Turn

T = TypeVar("T")
INLINE_BLOCKS = 2_000  # so many are looked at in a few milliseconds


class Service:
    """Answers turns with the models of a registry. One per process; belongs to one event loop at a time.

    keep: takes the row of usage that every turn leaves. files: the uploaded ones, for documents. rates: what tenants may ask
    for beside their batches. clock: seconds, for the lifetime of cached prefixes and threads.
    """

    def __init__(
        self,
        registry: Registry,
        settings: Settings,
        keep: Keep = lambda row: None,
        files: FileSource | None = None,
        rates: Rates | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.registry = registry
        self.prices = load_prices()
        self.keep = keep
        self.cache = Cache()
        self.diagnosis = Diagnosis()
        self.threads = Threads(clock)
        self._clock = clock
        self.admission = Admission(settings.max_requests)
        self.rates = rates or Rates({})
        self.prompts = Prompts()
        self.documents = Documents(files)

    async def count_tokens(self, turn: Turn) -> int:
        """Tokens of the prompt, by the very path that `run` takes.

        Raises SenryuError for a turn that breaks a rule, an unknown model and a conversation that its template refuses.
        """
        await _beside(turn, check)
        model = self.registry.resolve(turn.model).model
        await _beside(turn, check_citations)
        turn = await self.documents.resolve(turn)
        return len((await self.prompts.encode(model, turn)).ids)

    async def run(self, turn: Turn, keep: Keep | None = None) -> AsyncGenerator[Event, None]:
        """`run_grouped`, one event at a time."""
        async with aclosing(self.run_grouped(turn, keep)) as groups:
            async for group in groups:
                for event in group:
                    yield event

    def run_grouped(self, turn: Turn, keep: Keep | None = None) -> AsyncGenerator[Sequence[Event], None]:
        """Started, the blocks, Finished; what is there together comes together, and nothing waits for more.

        Closing the generator aborts the engine's work and frees its pages.
        Started comes at once, but with cache breakpoints only when the engine knows what it need not compute: its usage says
        what is read and what is written. keep: takes the row of usage in place of the service's own.
        Raises SenryuError before Started when the turn cannot be run, and after it when the engine stops or a deadline passes.
        """
        pace = Pace(self.rates if turn.priority == "interactive" else Rates({}), turn.tenant)
        meter = Meter(turn, self.prices, keep or self.keep, pace)
        return self._run(turn, meter) if turn.thread is None else self._run_thread(turn, meter)

    async def _run_thread(self, turn: Turn, meter: Meter) -> AsyncGenerator[Sequence[Event], None]:
        """`_run` of the whole conversation, which is kept when it is answered."""
        with self.threads.joined(turn) as thread:
            meter.turn = thread.turn
            async with aclosing(self._run(thread.turn, meter)) as groups:
                async for group in groups:
                    for event in group:
                        thread.see(event)
                    yield group

    async def _run(self, turn: Turn, meter: Meter) -> AsyncGenerator[Sequence[Event], None]:
        start = self._clock()
        await _beside(turn, check)
        served = self.registry.resolve(turn.model)
        model = served.model
        if closed := model.engine.closed:
            raise _refusal(closed) from closed
        model.limits.check_output(turn.max_tokens, served.id)
        points = await _beside(turn, breakpoints)
        with self.admission.admit(), meter:
            cites = await _beside(turn, check_citations)
            turn = await self.documents.resolve(turn)
            planned = await plan(model, turn)
            prompt = await self.prompts.encode(model, turn, points if points or turn.diagnose is not None else None)
            room = model.limits.room(len(prompt.ids), max(turn.max_tokens, 1), turn.fills_context)
            read = self.cache.readable(turn.tenant, served.id, prompt.positions, start)
            meter.pace.begin(len(prompt.ids) - read, turn.max_tokens)
            request = _request(model, turn, prompt, planned, room)
            started = None if request.breakpoints else self._started(served, turn, prompt, 0, start)
            if started:
                yield meter.see([started])
            answer, cited, reused = Answer(model, turn, planned), await citer(turn) if cites else None, 0
            meter.answer = answer
            tokens, group = model.engine.generate(request), list[Event]()
            try:
                async with aclosing(cast(AsyncGenerator[TokenEvent, None], tokens)) as stream:
                    async for event in stream:
                        reused = event.cached or reused
                        if started is None:
                            started = self._started(served, turn, prompt, event.cached, start)
                            group.append(started)
                        if turn.max_tokens:
                            parts = answer.push(event)
                            group += cited.push(parts) if cited else parts
                        if answer.done:
                            break
                        if group:
                            yield meter.see(group)
                            group = []
            except EngineClosed as error:
                raise _refusal(error) from error
            except DeadlineExceeded as error:
                raise SenryuError("deadline") from error
            except GrammarFailed as error:  # by a schema that no answer can end, as one that holds itself
                raise SenryuError("grammar", why=grammar_reason(error)) from error
            if answer.calls:
                if group:
                    yield meter.see(group)  # for the check takes time
                    group = []
                await asyncio.to_thread(answer.check_calls)
            assert started is not None, "the engine has answered nothing"
            usage = replace(started.usage, output_tokens=answer.output_tokens, reused_tokens=reused)
            reason = answer.stop_reason if turn.max_tokens else "max_tokens"
            if reason == "max_tokens" and room < turn.max_tokens:
                reason = "model_context_window_exceeded"
            cost = meter.finish(reason, usage)
            yield [*meter.see(group), Finished(reason, answer.stop_sequence, usage, cost)]

    def _started(self, served: Served, turn: Turn, prompt: Prompt, cached: int, start: float) -> Started:
        """The answer begins. cached: tokens that the engine need not compute, where a breakpoint makes it matter."""
        name = new_id("msg_")
        usage = self.cache.settle(turn.tenant, served.id, prompt.positions, len(prompt.ids), cached, start)
        miss = None
        if turn.diagnose is not None:
            miss = self.diagnosis.compare(turn.tenant, turn.diagnose, served.id, prompt.positions)
            self.diagnosis.remember(turn.tenant, name, served.id, prompt.positions)
        return Started(name, served.id, replace(usage, output_tokens=min(turn.max_tokens, 1)), miss)  # one is on its way


async def _beside(turn: Turn, look: Callable[[Turn], T]) -> T:
    """What `look` makes of the turn; in a thread when there are many blocks to be looked at."""
    blocks = sum(len(message.content) for message in turn.messages)
    return await asyncio.to_thread(look, turn) if blocks > INLINE_BLOCKS else look(turn)


def _refusal(error: EngineClosed) -> SenryuError:
    """A failed engine stays closed; one that was closed is being replaced."""
    return SenryuError("internal" if error.__cause__ else "overloaded")


def _request(model: LoadedModel, turn: Turn, prompt: Prompt, planned: Plan, room: int) -> TokenRequest:
    """room: the most tokens of the answer."""
    sampling = Sampling(
        temperature=turn.temperature,
        top_p=turn.top_p,
        top_k=turn.top_k if turn.top_k < model.spec.vocab else 0,
        seed=secrets.randbits(63) if turn.seed is None else turn.seed,
    )
    return TokenRequest(
        ids=tuple(prompt.ids),
        max_tokens=room,
        sampling=sampling,
        stop_ids=model.tokenizer.eos_ids,
        salt=turn.tenant.encode(),
        breakpoints=tuple(Breakpoint(at.end, at.ttl) for at in prompt.positions if at.ttl and countable(at)),
        priority=turn.priority,
        deadline=turn.deadline,
        grammar=planned.grammar,
    )
