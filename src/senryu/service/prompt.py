"""A turn -> the token ids that the model reads: its conversation in the model's own template, encoded."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from senryu.errors import SenryuError
from senryu.service.documents import document_text, plain
from senryu.service.registry import LoadedModel
from senryu.types import Block, Document, Message, SearchResult, Text, Turn

INLINE_CHARACTERS = 16_384  # a longer prompt is rendered and encoded off the event loop
HUGE_CHARACTERS = 4_000_000  # past any window, hence about to be refused; counting its tokens takes much memory


@dataclass(frozen=True, slots=True)
class Prompt:
    """ids: what the model reads."""

    ids: list[int]


class Prompts:
    """Encodes turns. Long ones in a thread, so that other streams keep flowing; huge ones one after the other."""

    def __init__(self) -> None:
        self._huge = asyncio.Semaphore(1)

    async def encode(self, model: LoadedModel, turn: Turn) -> Prompt:
        """Raises SenryuError("template") when the model's template refuses the conversation."""
        size = sum(_size(block) for message in turn.messages for block in message.content)
        size += sum(_size(block) for block in turn.system)
        if size <= INLINE_CHARACTERS:
            return encode(model, turn)
        async with self._huge if size > HUGE_CHARACTERS else nullcontext():
            return await asyncio.to_thread(encode, model, turn)


def encode(model: LoadedModel, turn: Turn) -> Prompt:
    """Render the conversation with the model's chat template and encode it.

    Raises SenryuError("template") when the template refuses it.
    """
    messages, prefill = conversation(turn)
    try:
        pieces = model.template.render(messages, add_generation_prompt=not prefill, continue_final=prefill)
    except ValueError as error:
        raise SenryuError("template", why=error) from error
    return Prompt(model.tokenizer.encode_rendered(pieces))


def conversation(turn: Turn) -> tuple[list[dict[str, Any]], bool]:
    """The turn as chat-template messages, and whether the answer continues the last one (prefill).

    Consecutive messages of one role are merged. Blocks of the user and the system are joined by a blank line; the
    assistant's are joined directly, for they are one text in pieces. An empty last assistant message is no prefill.
    Documents, which must be resolved, and search results are texts as any other.
    """
    turn = plain(turn)
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
    if isinstance(block, Document | SearchResult):
        return len(document_text(block, 1))
    return len(block.text) if isinstance(block, Text) else 0
