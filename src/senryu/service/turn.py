"""The heart: what a turn means, once, for every wire shape. Turn -> messages -> template -> ids -> engine -> Events."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing, nullcontext
from typing import Any, cast

from senryu.config import Settings
from senryu.engine.interface import DeadlineExceeded, EngineClosed, Sampling, TokenEvent, TokenRequest
from senryu.errors import SenryuError
from senryu.service.limits import Admission
from senryu.service.registry import LoadedModel, Registry
from senryu.service.stops import StopWatcher
from senryu.types import Event, Finished, Message, Started, StopReason, Text, TextDelta, Turn, Usage

INLINE_CHARACTERS = 16_384  # a longer prompt is rendered and encoded off the event loop
HUGE_CHARACTERS = 4_000_000  # past any window, hence about to be refused; counting its tokens takes much memory


class Service:
    """Answers turns with the models of a registry. One per process; belongs to one event loop at a time."""

    def __init__(self, registry: Registry, settings: Settings) -> None:
        self.registry = registry
        self.admission = Admission(settings.max_requests)
        self.huge = asyncio.Semaphore(1)  # huge prompts are counted one after the other

    async def count_tokens(self, turn: Turn) -> int:
        """Tokens of the prompt, by the very path that `run` takes.

        Raises SenryuError for an unknown model and for a conversation that the model's template refuses.
        """
        model = self.registry.resolve(turn.model).model
        return len(await self._encode(model, turn))

    async def run(self, turn: Turn) -> AsyncGenerator[Event, None]:
        """Started, TextDelta*, Finished. Closing the generator aborts the engine's work and frees its pages.

        Raises SenryuError before Started when the turn cannot be run, and after it when the engine stops or a deadline passes.
        """
        served = self.registry.resolve(turn.model)
        model = served.model
        if closed := model.engine.closed:
            raise _refusal(closed) from closed
        model.limits.check_output(turn.max_tokens, served.id)
        with self.admission.admit():
            ids = await self._encode(model, turn)
            model.limits.check_context(len(ids), turn.max_tokens)
            yield Started(served.id, Usage(input_tokens=len(ids), output_tokens=1))  # one is on its way
            tokens = model.engine.generate(_request(model, turn, ids))
            try:
                async with aclosing(cast(AsyncGenerator[TokenEvent, None], tokens)) as stream:
                    async for event in _answer(model, turn, len(ids), stream):
                        yield event
            except EngineClosed as error:
                raise _refusal(error) from error
            except DeadlineExceeded as error:
                raise SenryuError("deadline") from error

    async def _encode(self, model: LoadedModel, turn: Turn) -> list[int]:
        """The prompt's token ids. Long prompts are encoded in a thread, so that other streams keep flowing."""
        size = sum(len(block.text) for message in turn.messages for block in message.content)
        size += sum(len(block.text) for block in turn.system)
        if size <= INLINE_CHARACTERS:
            return encode(model, turn)
        async with self.huge if size > HUGE_CHARACTERS else nullcontext():
            return await asyncio.to_thread(encode, model, turn)


def _refusal(error: EngineClosed) -> SenryuError:
    """A failed engine stays closed; one that was closed is being replaced."""
    return SenryuError("internal" if error.__cause__ else "overloaded")


async def _answer(
    model: LoadedModel, turn: Turn, input_tokens: int, stream: AsyncGenerator[TokenEvent, None]
) -> AsyncGenerator[Event, None]:
    """The engine's tokens as text, until a stop id, a stop string or the limit. Every token counts, the stop id too."""
    stop_ids = model.tokenizer.eos_ids
    decoder, watcher = model.tokenizer.decoder(), StopWatcher(turn.stop_sequences)
    count, reused = 0, 0
    stop: str | None = None
    reason: StopReason = "end_turn"
    async for event in stream:
        reused = event.cached or reused
        pieces = []
        for token in event.tokens:
            count += 1
            if token not in stop_ids:
                piece, stop = watcher.push(decoder.push([token]))
                pieces.append(piece)
                if stop is not None:
                    break
        if event.finish is not None and stop is None:
            piece, stop = watcher.push(decoder.flush())
            pieces += [piece, watcher.flush()]
            reason = "max_tokens" if event.finish == "length" else "end_turn"
        if text := "".join(pieces):
            yield TextDelta(text)
        if stop is not None or event.finish is not None:
            break
    usage = Usage(input_tokens=input_tokens, output_tokens=count, reused_tokens=reused)
    yield Finished("stop_sequence" if stop is not None else reason, stop, usage)


def _request(model: LoadedModel, turn: Turn, ids: list[int]) -> TokenRequest:
    sampling = Sampling(
        temperature=turn.temperature,
        top_p=turn.top_p,
        top_k=turn.top_k if turn.top_k < model.spec.vocab else 0,
        seed=secrets.randbits(63) if turn.seed is None else turn.seed,
    )
    return TokenRequest(tuple(ids), turn.max_tokens, sampling, model.tokenizer.eos_ids, turn.tenant.encode())


def encode(model: LoadedModel, turn: Turn) -> list[int]:
    """Render the conversation with the model's chat template and encode it.

    Raises SenryuError("template") when the template refuses it.
    """
    messages, prefill = conversation(turn)
    try:
        pieces = model.template.render(messages, add_generation_prompt=not prefill, continue_final=prefill)
    except ValueError as error:
        raise SenryuError("template", why=error) from error
    return model.tokenizer.encode_rendered(pieces)


def conversation(turn: Turn) -> tuple[list[dict[str, Any]], bool]:
    """The turn as chat-template messages, and whether the answer continues the last one (prefill).

    Consecutive messages of one role are merged. Blocks of the user and the system are joined by a blank line; the
    assistant's are joined directly, for they are one text in pieces. An empty last assistant message is no prefill.
    """
    groups: list[tuple[str, list[str]]] = [("system", [block.text for block in turn.system])]
    for message in turn.messages:
        if groups[-1][0] != message.role:
            groups.append((message.role, []))
        groups[-1][1].append(_join(message))
    texts = ((role, "\n\n".join(filter(None, parts))) for role, parts in groups)
    messages = [{"role": role, "content": text} for role, text in texts if text]
    return messages, bool(messages) and messages[-1]["role"] == "assistant"


def _join(message: Message) -> str:
    blocks: tuple[Text, ...] = message.content
    return ("" if message.role == "assistant" else "\n\n").join(block.text for block in blocks)
