"""The heart: what a turn means, once, for every wire shape. Turn -> prompt -> engine -> answer -> Events."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import cast

from senryu.config import Settings
from senryu.engine.interface import DeadlineExceeded, EngineClosed, Sampling, TokenEvent, TokenRequest
from senryu.errors import SenryuError
from senryu.ledger.prices import load_prices
from senryu.service.answer import Answer
from senryu.service.ids import new_id
from senryu.service.limits import Admission
from senryu.service.metering import Keep, Meter
from senryu.service.prompt import Prompt, Prompts
from senryu.service.registry import LoadedModel, Registry
from senryu.service.rules import check
from senryu.service.tools import Plan, plan
from senryu.types import Event, Finished, Started, Turn, Usage


class Service:
    """Answers turns with the models of a registry. One per process; belongs to one event loop at a time.

    keep: takes the row of usage that every turn leaves.
    """

    def __init__(self, registry: Registry, settings: Settings, keep: Keep = lambda row: None) -> None:
        self.registry = registry
        self.prices = load_prices()
        self.keep = keep
        self.admission = Admission(settings.max_requests)
        self.prompts = Prompts()

    async def count_tokens(self, turn: Turn) -> int:
        """Tokens of the prompt, by the very path that `run` takes.

        Raises SenryuError for a turn that breaks a rule, an unknown model and a conversation that its template refuses.
        """
        check(turn)
        model = self.registry.resolve(turn.model).model
        return len((await self.prompts.encode(model, turn)).ids)

    def run(self, turn: Turn, keep: Keep | None = None) -> AsyncGenerator[Event, None]:
        """Started, the blocks, Finished. Closing the generator aborts the engine's work and frees its pages.

        keep: takes the row of usage in place of the service's own.
        Raises SenryuError before Started when the turn cannot be run, and after it when the engine stops or a deadline passes.
        """
        meter = Meter(turn, self.prices, keep or self.keep)
        return meter.follow(self._run(turn, meter))

    async def _run(self, turn: Turn, meter: Meter) -> AsyncGenerator[Event, None]:
        check(turn)
        served = self.registry.resolve(turn.model)
        model = served.model
        if closed := model.engine.closed:
            raise _refusal(closed) from closed
        model.limits.check_output(turn.max_tokens, served.id)
        with self.admission.admit():
            planned = await plan(model, turn)
            prompt = await self.prompts.encode(model, turn)
            model.limits.check_context(len(prompt.ids), turn.max_tokens)
            usage = Usage(input_tokens=len(prompt.ids), output_tokens=1)  # one is on its way
            yield Started(new_id("msg_"), served.id, usage)
            answer, reused = Answer(model, turn, planned), 0
            meter.answer = answer
            tokens = model.engine.generate(_request(model, turn, prompt, planned))
            try:
                async with aclosing(cast(AsyncGenerator[TokenEvent, None], tokens)) as stream:
                    async for event in stream:
                        reused = event.cached or reused
                        for part in answer.push(event):
                            yield part
                        if answer.done:
                            break
            except EngineClosed as error:
                raise _refusal(error) from error
            except DeadlineExceeded as error:
                raise SenryuError("deadline") from error
            usage = Usage(input_tokens=len(prompt.ids), output_tokens=answer.output_tokens, reused_tokens=reused)
            yield Finished(answer.stop_reason, answer.stop_sequence, usage)


def _refusal(error: EngineClosed) -> SenryuError:
    """A failed engine stays closed; one that was closed is being replaced."""
    return SenryuError("internal" if error.__cause__ else "overloaded")


def _request(model: LoadedModel, turn: Turn, prompt: Prompt, planned: Plan) -> TokenRequest:
    sampling = Sampling(
        temperature=turn.temperature,
        top_p=turn.top_p,
        top_k=turn.top_k if turn.top_k < model.spec.vocab else 0,
        seed=secrets.randbits(63) if turn.seed is None else turn.seed,
    )
    return TokenRequest(
        ids=tuple(prompt.ids),
        max_tokens=turn.max_tokens,
        sampling=sampling,
        stop_ids=model.tokenizer.eos_ids,
        salt=turn.tenant.encode(),
        priority=turn.priority,
        deadline=turn.deadline,
        grammar=planned.grammar,
    )
