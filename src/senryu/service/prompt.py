"""A turn -> the token ids that the model reads: its conversation in the model's own template, encoded."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from senryu.errors import SenryuError
from senryu.service.calls import CallFormat
from senryu.service.documents import document_text, plain
from senryu.service.positions import Position, digests, ends, marked, normalised
from senryu.service.registry import LoadedModel
from senryu.service.tools import call_format
from senryu.types import Block, Document, Message, SearchResult, Text, Tool, ToolResult, ToolUse, Turn

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
        size += sum(map(_size, turn.system)) + sum(map(_size, turn.tools))
        size += 0 if turn.raw is None else len(turn.raw)
        size += BLOCK_CHARACTERS * sum(len(message.content) for message in turn.messages)
        if size <= INLINE_CHARACTERS:
            return encode(model, turn, points)
        async with self._huge if size > HUGE_CHARACTERS else nullcontext():
            return await asyncio.to_thread(encode, model, turn, points)


def encode(model: LoadedModel, turn: Turn, points: Mapping[int, int] | None = None) -> Prompt:
    """Render the conversation with the model's chat template and encode it; a raw prompt is only encoded.

    points: the turn's `breakpoints`, to get the prompt's positions too; the ids are the same with and without.
    Raises SenryuError("template") when the template refuses it, SenryuError("no_tools") when it cannot tell of tools.
    """
    if turn.raw is not None:
        return Prompt(_raw(model, turn.raw))
    turn, calls = normalised(turn), call_format(model, turn)
    messages, tools, how = template_inputs(turn, calls)
    try:
        pieces = model.template.render(messages, tools=tools, **how)
    except ValueError as error:
        raise SenryuError("template", why=error) from error
    if points is None:
        return Prompt(model.tokenizer.encode_rendered(pieces))
    text, mark = "".join(pieces), model.template.unused_character(messages, tools)
    messages, tools, _ = template_inputs(marked(plain(turn), mark), calls)
    places = model.template.locate(text, mark, messages, tools=tools, **how)
    ids, tokens = model.tokenizer.locate_rendered(pieces, ends(turn, text, places))
    names = enumerate(zip(digests(turn), tokens, strict=True))
    return Prompt(ids, tuple(Position(section, digest, end, points.get(n)) for n, ((section, digest), end) in names))


def _raw(model: LoadedModel, raw: str | tuple[int, ...]) -> list[int]:
    """The ids of a prompt that has no template. Special tokens written in a text are plain text, as they are in a message; who
    wants them gives ids. Before a text stands what the model's tokenizer puts before every text; ids are taken as they are."""
    if isinstance(raw, str):
        ids = [*model.tokenizer.text_start, *model.tokenizer.encode(raw)]
    else:
        ids = list(raw)
        wrong = next((id for id in ids if not 0 <= id < model.spec.vocab), None)
        if wrong is not None:
            raise SenryuError("token_id", id=wrong, last=model.spec.vocab - 1)
    if not ids:
        raise SenryuError("empty_prompt")
    return ids


def template_inputs(
    turn: Turn, calls: CallFormat | None
) -> tuple[list[dict[str, Any]], list[dict[str, Any]] | None, dict[str, bool]]:
    """What the template gets: messages, tools, and how the text is to end. Training renders what it teaches from the same.

    calls: the template's own form of calls; None for a turn without tools.
    """
    messages, prefill = conversation(turn, calls)
    tools = [_tool(tool) for tool in turn.tools] or None
    return messages, tools, {"add_generation_prompt": not prefill, "continue_final": prefill}


def conversation(turn: Turn, calls: CallFormat | None = None) -> tuple[list[dict[str, Any]], bool]:
    """The turn as chat-template messages, and whether the answer continues the last one (prefill).

    Consecutive messages of one role are merged. Blocks of the user and the system are joined by a blank line; the
    assistant's are joined directly, for they are one text in pieces. An empty last assistant message is no prefill.
    Each result of a call is a message of the role "tool". `calls`: what the model's template demands of calls.
    Documents, which must be resolved, and search results are texts as any other.
    """
    turn = plain(turn)
    groups: list[tuple[str, list[str], list[Message]]] = [("system", [block.text for block in turn.system], [])]
    for message in turn.messages:
        if groups[-1][0] != message.role:
            groups.append((message.role, [], []))
        groups[-1][2].append(message)
    names = {block.id: block.name for message in turn.messages for block in message.content if isinstance(block, ToolUse)}
    messages: list[dict[str, Any]] = []
    for role, parts, group in groups:
        if role == "assistant":
            messages += _said(group, calls)
        else:
            messages += _asked(role, parts, group, names, calls)
    prefill = bool(messages) and messages[-1]["role"] == "assistant" and "tool_calls" not in messages[-1]
    return messages, prefill


def _asked(
    role: str, parts: list[str], group: list[Message], names: dict[str, str], calls: CallFormat | None
) -> Iterator[dict[str, Any]]:
    """Messages of the system or the user: their text, and the results between it."""
    for message in group:
        texts: list[str] = []
        for block in message.content:
            if isinstance(block, ToolResult):
                if text := "\n\n".join(filter(None, [*parts, *texts])):
                    yield {"role": role, "content": text}
                parts, texts = [], []
                yield _result(block, names, calls)
            else:
                texts.append(render_block(block))
        parts.append("\n\n".join(texts))
    if text := "\n\n".join(filter(None, parts)):
        yield {"role": role, "content": text}


def _result(block: ToolResult, names: dict[str, str], calls: CallFormat | None) -> dict[str, Any]:
    """A result; that the tool failed is said before what it says, for templates have no other place."""
    text = "\n\n".join(filter(None, map(render_block, block.content)))
    if block.is_error:
        text = f"Error: {text}" if text else "Error"
    id = _call_id(block.tool_use_id, calls)
    return {"role": "tool", "tool_call_id": id, "name": names.get(block.tool_use_id, ""), "content": text}


def _said(group: list[Message], calls: CallFormat | None) -> Iterator[dict[str, Any]]:
    """Messages of the assistant: its text, and its calls behind it; one by one where a call is a message of its own."""
    joined = ("".join(block.text for block in message.content if isinstance(block, Text)) for message in group)
    text = "\n\n".join(filter(None, joined))
    made = [_call(block, calls) for message in group for block in message.content if isinstance(block, ToolUse)]
    if made and not (calls and calls.anchored):
        yield {"role": "assistant", "content": text, "tool_calls": made}
        return
    if text:
        yield {"role": "assistant", "content": text}
    for call in made:
        yield {"role": "assistant", "content": "", "tool_calls": [call]}


def _call(block: ToolUse, calls: CallFormat | None) -> dict[str, Any]:
    function = {"name": block.name, "arguments": dict(block.input)}
    return {"type": "function", "id": _call_id(block.id, calls), "function": function}


def _call_id(id: str, calls: CallFormat | None) -> str:
    """The id as the template takes it; equal ids stay equal."""
    if calls is None or not calls.id_length:
        return id
    return hashlib.sha256(id.encode()).hexdigest()[: calls.id_length]


def _tool(tool: Tool) -> dict[str, Any]:
    """A tool as templates of all families expect it."""
    function = {"name": tool.name, "description": tool.description, "parameters": dict(tool.input_schema)}
    return {"type": "function", "function": function}


def render_block(block: Block) -> str:
    """What the model reads of one block of the user's, of a result's or of the system's."""
    return block.text if isinstance(block, Text) else ""


def _size(block: Block | Tool) -> int:
    """Characters, about."""
    match block:
        case Text():
            return len(block.text)
        case ToolResult():
            return sum(map(_size, block.content))
        case ToolUse():
            return len(str(block.input))
        case Document() | SearchResult():
            return len(document_text(block, 1))
        case Tool():
            return len(block.description) + len(str(block.input_schema))
