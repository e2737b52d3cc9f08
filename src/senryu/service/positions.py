"""A turn as the positions that caching counts by: what each one is called, where its breakpoints are, how its end is found.

Positions are, in the API's order, each tool, each block of the system prompt and each block of the messages.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import count
from typing import Any, Literal

from senryu.errors import SenryuError
from senryu.service.rules import MOST_BREAKPOINTS
from senryu.types import Block, Document, Message, SearchResult, Text, Tool, ToolResult, ToolUse, Turn

Section = Literal["tools", "system", "messages"]
ORDER: tuple[Section, ...] = ("tools", "system", "messages")
Item = Tool | Block
_NONCE = re.compile(r"\bcch=[^;\s]*")  # changes with every request of some clients, in the first block of their prompt
_STRING_END = re.compile(r'(?:\\[nrt]| )*"')
_JSON_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}]')


@dataclass(frozen=True, slots=True)
class Position:
    """digest: of everything up to and with this position. end: tokens of the prompt until there. ttl: of a breakpoint."""

    section: Section
    digest: bytes
    end: int
    ttl: int | None = None


def normalised(turn: Turn) -> Turn:
    """The turn without a client's nonce in its billing header, which would make every prompt a new one."""
    if turn.system and turn.system[0].text.startswith("x-anthropic-billing-header:"):
        first = replace(turn.system[0], text=_NONCE.sub("cch=0", turn.system[0].text))
        return replace(turn, system=(first, *turn.system[1:]))
    return turn


def breakpoints(turn: Turn) -> dict[int, int]:
    """Number of a position -> seconds of its breakpoint; the automatic one of `Turn.cache` is the last.

    Raises SenryuError where that one finds no place.
    """
    every = [item for _, item, _ in _walk(turn)]
    found = {number: item.cache.ttl for number, item in enumerate(every) if item.cache is not None}
    last = next((number for number in reversed(range(len(every))) if not _blank(every[number])), None)
    if turn.cache is None or last is None:
        return found
    ttl = turn.cache.ttl
    if last in found:
        if found[last] != ttl:
            raise SenryuError("automatic_ttl")
        return found
    if len(found) >= MOST_BREAKPOINTS:
        raise SenryuError("many_breakpoints", count=len(found) + 1)
    if any(other < ttl for other in found.values()):
        raise SenryuError("automatic_order")
    return found | {last: ttl}


def digests(turn: Turn) -> Iterator[tuple[Section, bytes]]:
    """Each position's section, and the hash of all content up to it.

    What changes the whole prompt is hashed before the tools, citations before the system prompt, and how tools are to be
    called before the messages: so much of a cached prefix ends there. The order of an object's keys counts.
    """
    state = hashlib.sha256()

    def add(value: Any) -> bytes:
        state.update(_to_json(value).encode() + b"\n")
        return state.digest()

    cited = any(_cites(block) for message in turn.messages for block in message.content)
    heads: list[tuple[Section, Any]] = [("tools", turn.output_schema), ("system", cited), ("messages", turn.tool_choice)]
    for section, item, place in _walk(turn):
        while heads and ORDER.index(heads[0][0]) <= ORDER.index(section):
            add(heads.pop(0)[1])
        yield section, add((place, item))


def marked(turn: Turn, mark: str) -> Turn:
    """The turn with `mark`, a number and `mark` at the end of every position that has a text to carry them.

    Its documents must be texts already. Marks stand before white space at the end, which a template may trim; with a tool
    behind its description, with a call behind its name, from where `ends` goes on.
    """
    labels = (f"{mark}{number}{mark}" for number in count())
    tools = tuple(_mark(tool, next(labels)) for tool in turn.tools)
    system = tuple(_mark(block, next(labels)) for block in turn.system)
    messages = tuple(
        Message(message.role, tuple(_mark(block, next(labels)) for block in message.content)) for message in turn.messages
    )
    return replace(turn, tools=tools, system=system, messages=messages)


def ends(turn: Turn, text: str, places: Mapping[int, int]) -> list[int]:
    """For each position how many characters of the rendered `text` the model has read when it has read the position and all
    before it, in whatever order the template writes them. `places`: of marks, see `ChatTemplate.locate`."""
    found, reached = [], 0
    for number, (_, item, _) in enumerate(_walk(turn)):
        at = places.get(number, 0)
        if at and isinstance(item, Tool | ToolUse):
            at = _object_end(text, at)
        reached = max(reached, at)
        found.append(reached)
    return found


def _walk(turn: Turn) -> Iterator[tuple[Section, Item, tuple[str, bool] | None]]:
    """Section, item, and for a block of a message its role and whether it is the message's first."""
    for tool in turn.tools:
        yield "tools", tool, None
    for text in turn.system:
        yield "system", text, None
    for message in turn.messages:
        for number, block in enumerate(message.content):
            yield "messages", block, (message.role, not number)


def _blank(item: Item) -> bool:
    """It cannot carry a breakpoint."""
    return isinstance(item, Text) and not item.text


def _cites(block: Block) -> bool:
    if isinstance(block, ToolResult):
        return any(not isinstance(inner, Text) and inner.citations for inner in block.content)
    return isinstance(block, Document | SearchResult) and block.citations


def _named(value: Any) -> Any:
    """What json does not know, without breakpoints."""
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    return [type(value).__name__, [getattr(value, name) for name in value.__dataclass_fields__ if name != "cache"]]


_to_json = json.JSONEncoder(default=_named).encode


def _mark(item: Any, label: str) -> Any:
    """The same item, or text, with `label` at its end; one without text stays as it is."""
    match item:
        case str():
            end = len(item.rstrip())
            return item[:end] + label + item[end:] if end else item
        case Text():
            return replace(item, text=_mark(item.text, label))
        case Tool() if item.description.strip():
            return replace(item, description=_mark(item.description, label))
        case Tool() | ToolUse():
            return replace(item, name=_mark(item.name, label))
        case ToolResult():
            return replace(item, content=_mark(item.content, label))
        case tuple():
            for number in reversed(range(len(item))):
                if (last := _mark(item[number], label)) != item[number]:
                    return (*item[:number], last, *item[number + 1 :])
    return item


def _object_end(text: str, at: int) -> int:
    """The end of the JSON object in one of whose strings a mark stood last, at `at`; that place itself where it is no JSON."""
    string_end = _STRING_END.match(text, at)
    depth = 1
    for token in _JSON_TOKEN.finditer(text, string_end.end()) if string_end else ():
        depth += {"{": 1, "}": -1}.get(token[0], 0)
        if not depth:
            end = token.end()
            while text.startswith("}", end):
                end += 1
            return end
    return at
