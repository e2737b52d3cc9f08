"""A turn -> the token ids that the model reads: its conversation in the model's own template, encoded."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from senryu.errors import SenryuError
from senryu.service.positions import Position, digests, ends, marked, normalised
from senryu.service.registry import LoadedModel
from senryu.types import Block, Message, Text, Turn

INLINE_CHARACTERS = 16_384  # a longer prompt is rendered and encoded off the event loop
BLOCK_CHARACTERS = 32  # a block takes as much time as so many characters
HUGE_CHARACTERS = 4_000_000  # past any window, hence about to be refused; counting its tokens takes much memory


@dataclass(frozen=True, slots=True)
class Prompt:
    """ids: what the model reads. positions: what caching counts by; empty where nobody asked."""

    ids: list[int]
    positions: tuple[Position, ...] = ()


class Prompts:
    """Encodes turns. Long ones in a thread, so that other streams keep flowing; huge ones one after the other."""

    def __init__(self) -> None:
        self._huge = asyncio.Semaphore(1)

    async def encode(self, model: LoadedModel, turn: Turn, points: Mapping[int, int] | None = None) -> Prompt:
        """points: see `encode`. Raises SenryuError("template") when the model's template refuses the conversation."""
        size = sum(_size(block) for message in turn.messages for block in message.content)
        size += sum(_size(block) for block in turn.system)
        size += BLOCK_CHARACTERS * sum(len(message.content) for message in turn.messages)
        if size <= INLINE_CHARACTERS:
            return encode(model, turn, points)
        async with self._huge if size > HUGE_CHARACTERS else nullcontext():
            return await asyncio.to_thread(encode, model, turn, points)


def encode(model: LoadedModel, turn: Turn, points: Mapping[int, int] | None = None) -> Prompt:
    """Render the conversation with the model's chat template and encode it.

    points: the turn's `breakpoints`, to get the prompt's positions too; the ids are the same with and without.
    Raises SenryuError("template") when the template refuses it.
    """
    turn = normalised(turn)
    messages, prefill = conversation(turn)
    how: dict[str, Any] = {"add_generation_prompt": not prefill, "continue_final": prefill}
    try:
        pieces = model.template.render(messages, **how)
    except ValueError as error:
        raise SenryuError("template", why=error) from error
    if points is None:
        return Prompt(model.tokenizer.encode_rendered(pieces))
    text, mark = "".join(pieces), model.template.unused_character(messages)
    places = model.template.locate(text, mark, conversation(marked(turn, mark))[0], **how)
    ids, tokens = model.tokenizer.locate_rendered(pieces, ends(turn, text, places))
    names = enumerate(zip(digests(turn), tokens, strict=True))
    return Prompt(ids, tuple(Position(section, digest, end, points.get(n)) for n, ((section, digest), end) in names))


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
    texts = [block.text for block in message.content if isinstance(block, Text)]
    return ("" if message.role == "assistant" else "\n\n").join(texts)


def _size(block: Block) -> int:
    """Characters, about."""
    return len(block.text) if isinstance(block, Text) else 0
