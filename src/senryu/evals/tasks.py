"""Extraction and calls as a caller gets them: rows of the data bundle through the service, greedily; exact answers count."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from senryu.config import Settings
from senryu.errors import SenryuError
from senryu.evals.labels import AT_ONCE, read_json_lines
from senryu.service.registry import LoadedModel, Registry
from senryu.service.turn import Service
from senryu.types import Block, BlockStopped, Event, Finished, Message, Text, Tool, ToolResult, ToolUse, Turn

Row = dict[str, Any]
ANSWER_TOKENS = 256


def _block(block: dict[str, Any]) -> Block:
    match block["type"]:
        case "tool_use":
            return ToolUse(block["id"], block["name"], block["input"])
        case "tool_result":
            content = block["content"]
            texts = [content] if isinstance(content, str) else [part["text"] for part in content]
            return ToolResult(block["tool_use_id"], tuple(Text(text) for text in texts if text))
    return Text(block["text"])


def _message(message: dict[str, Any]) -> Message:
    content = message["content"]
    return Message(message["role"], (Text(content),) if isinstance(content, str) else tuple(_block(b) for b in content))


def turns(model: str, row: Row) -> Iterator[tuple[Turn, Message]]:
    """Every assistant message of a row, and the turn that asks for it."""
    messages = [_message(message) for message in row["messages"]]
    tools = tuple(Tool(t["name"], t["input_schema"], t["description"]) for t in row.get("tools", ()))
    system = (Text(row["system"]),) if row.get("system") else ()
    for index, message in enumerate(messages):
        if message.role == "assistant":
            before = tuple(messages[:index])
            yield Turn(model, before, ANSWER_TOKENS, system, tools, temperature=0.0), message


class Answers:
    """Answers turns of one model. Belongs to one event loop."""

    def __init__(self, model: LoadedModel, settings: Settings) -> None:
        self.name = model.name
        self._service = Service(Registry([model]), settings)
        self._gate = asyncio.Semaphore(AT_ONCE)

    async def count(self, turn: Turn) -> int:
        """Tokens of the prompt. Raises SenryuError where it cannot be rendered."""
        return await self._service.count_tokens(turn)

    async def blocks(self, turn: Turn) -> list[Text | ToolUse]:
        """The answer's blocks; none where the turn is refused, which counts as wrong."""
        return [event.block for event in await self._events(turn) if isinstance(event, BlockStopped)]

    async def said(self, turn: Turn) -> tuple[str, bool]:
        """The answer's text ("" where the turn is refused), and whether it was cut at max_tokens."""
        events = await self._events(turn)
        texts = [e.block.text for e in events if isinstance(e, BlockStopped) and isinstance(e.block, Text)]
        return "".join(texts), any(isinstance(e, Finished) and e.stop_reason == "max_tokens" for e in events)

    async def _events(self, turn: Turn) -> list[Event]:
        async with self._gate:
            try:
                return [event async for event in self._service.run(turn)]
            except SenryuError:
                return []


async def fields(answers: Answers, rows: Sequence[Row]) -> dict[str, Any]:
    """F1 over fields: one counts when its text is the same but for white space; an answer that is no JSON has none."""
    asked = [next(turns(answers.name, row)) for row in rows]
    found = await asyncio.gather(*(answers.blocks(turn) for turn, _ in asked))
    right = given = wanted = 0
    for blocks, (_, expected) in zip(found, asked, strict=True):
        ours, theirs = _fields(blocks), _fields(expected.content)
        right += sum(ours.get(name) == value for name, value in theirs.items())
        given, wanted = given + len(ours), wanted + len(theirs)
    return {"rows": len(rows), "fields": wanted, "f1": 2 * right / max(given + wanted, 1)}


def _fields(blocks: Sequence[object]) -> dict[str, str]:
    try:
        value = json.loads("".join(block.text for block in blocks if isinstance(block, Text)))
    except ValueError:
        return {}
    return {str(k): " ".join(str(v).split()) for k, v in value.items()} if isinstance(value, dict) else {}


async def next_calls(answers: Answers, rows: Sequence[Row]) -> dict[str, Any]:
    """Over assistant messages that call: share whose first call has the right name, and the same input as well.

    `text_kept`: of those that only say something, the share that was answered without a call.
    """
    asked = [pair for row in rows for pair in turns(answers.name, row)]
    found = await asyncio.gather(*(answers.blocks(turn) for turn, _ in asked))
    calls = names = exact = texts = kept = 0
    for blocks, (_, expected) in zip(found, asked, strict=True):
        ours, theirs = _first_call(blocks), _first_call(expected.content)
        if theirs is None:
            texts, kept = texts + 1, kept + (ours is None)
            continue
        calls += 1
        names += ours is not None and ours.name == theirs.name
        exact += ours is not None and (ours.name, ours.input) == (theirs.name, theirs.input)
    return {"dialogues": len(rows), "calls": calls, "name": names / max(calls, 1), "exact": exact / max(calls, 1),
            "texts": texts, "text_kept": kept / max(texts, 1)}  # fmt: skip


def _first_call(blocks: Sequence[object]) -> ToolUse | None:
    return next((block for block in blocks if isinstance(block, ToolUse)), None)


def sample(path: Path, limit: int | None, seed: int = 0) -> list[Row]:
    """The rows of a file; with `limit` a seeded sample."""
    rows = list(read_json_lines(path))
    return rows if limit is None or limit >= len(rows) else random.Random(seed).sample(rows, limit)


async def measure(answers: Answers, data: Path, limit: int | None) -> dict[str, dict[str, Any]]:
    """Receipts and order dialogues of the bundle in `data`; with `limit` a seeded sample of so many rows each."""
    receipts, orders = (sample(data / "eval" / f"{name}.jsonl.xz", limit) for name in ("receipts_sroie", "taskmaster_tm4"))
    return {"receipts_sroie": await fields(answers, receipts), "taskmaster_tm4": await next_calls(answers, orders)}
