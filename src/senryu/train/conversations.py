"""Lines of conversations, in two usual forms -> ids by a checkpoint's own template and tokenizer, with the answers marked.

A row is a Messages request with its answers (`system`, `messages` with blocks, `tools` with `input_schema`) or OpenAI's form
(`system` and `tool` messages, `tool_calls`, `tools` under `function`). Other keys of a row are notes about it. Prompts are
rendered by the code that serves: what is learnt is what will be asked.
"""

from __future__ import annotations

import json
import lzma
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from senryu.errors import SenryuError
from senryu.model.template import ChatTemplate, TemplateError
from senryu.model.tokenizer import Tokenizer
from senryu.service.calls import detect
from senryu.service.prompt import template_inputs
from senryu.service.rules import check
from senryu.service.tools import uses_tools
from senryu.train.recipe import RecipeError
from senryu.types import Block, Message, Text, Tool, ToolResult, ToolUse, Turn

_LOOKS = '{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}'
# what a request may ask for, and no template can write down
_NOT_TAUGHT = (
    "functions",
    "function_call",
    "tool_choice",
    "parallel_tool_calls",
    "response_format",
    "output_config",
    "thinking",
)


@dataclass(frozen=True)
class Conversation:
    """One row. `where`: its file and line, for messages; `untaught`: indices of the assistant's messages with weight 0."""

    where: str
    turn: Turn
    untaught: frozenset[int] = frozenset()


def read_conversations(path: Path) -> list[Conversation]:
    """The rows of a JSON Lines file, or of one packed as .xz. Raises RecipeError naming the first bad line."""
    found = []
    try:
        with lzma.open(path, "rt", encoding="utf8") if path.suffix == ".xz" else path.open(encoding="utf8") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    found.append(_conversation(line, f"{path.name}, line {number}"))
    except (OSError, UnicodeDecodeError, lzma.LZMAError) as error:
        raise RecipeError(
            f"{path} cannot be read ({error}); --data names a file of JSON Lines, or one packed as .xz"
        ) from error
    if not found:
        raise RecipeError(f"{path} is empty; each line is a conversation: {_LOOKS}")
    return found


def _conversation(line: str, where: str) -> Conversation:
    try:
        turn, untaught = read_turn(_json(line, "the line"))
        last = turn.messages[-1] if turn.messages else None
        if last is None or last.role != "assistant":
            raise ValueError("the conversation does not end with an answer; let its last message be the assistant's")
        asked = next(start for start, end in _answers(turn) if end == len(turn.messages))
        check(Turn("", turn.messages[:asked], 1, turn.system, turn.tools))  # what is asked is what may be asked of a server
        if untaught >= {n for n, message in enumerate(turn.messages) if message.role == "assistant"}:
            raise ValueError("every answer has weight 0, so that nothing is taught; leave the row out")
    except (ValueError, RecursionError, SenryuError) as error:
        raise RecipeError(f"{where}: {error}") from None
    return Conversation(where, turn, untaught)


def read_turn(row: Any) -> tuple[Turn, frozenset[int]]:
    """The row as a Turn that holds the answers too, and the messages that are not taught. Raises ValueError."""
    if not isinstance(row, dict) or not isinstance(row.get("messages"), list):
        raise ValueError(f"this is no conversation; a line looks like {_LOOKS}")
    for key in _NOT_TAUGHT:
        if row.get(key) is not None:
            raise ValueError(f"{key} is nothing that can be taught; remove it")
    system, messages, untaught = list(_texts(row.get("system"), "system")), list[Message](), set[int]()
    for index, entry in enumerate(row["messages"]):
        where = f"messages[{index}]"
        role = entry.get("role") if isinstance(entry, dict) else None
        if role in ("system", "developer"):
            if messages:
                raise ValueError(f"{where}: a {role} message stands before all others; move it there")
            system += _texts(_only(entry, where, "role", "content").get("content"), where)
        elif role == "tool":
            content = tuple(_texts(_only(entry, where, "role", "content", "tool_call_id", "name").get("content"), where))
            messages.append(Message("user", (ToolResult(_string(entry, "tool_call_id", where), content),)))
        elif role == "user":
            messages.append(Message("user", tuple(_blocks(_only(entry, where, "role", "content").get("content"), where, role))))
        elif role == "assistant":
            if not _weight(entry, where):
                untaught.add(len(messages))
            messages.append(Message("assistant", tuple(_said(entry, where))))
        else:
            raise ValueError(f"{where}: role {role!r} is unknown; use user or assistant (or system, developer, tool)")
    tools = tuple(_tool(tool, f"tools[{index}]") for index, tool in enumerate(row.get("tools") or ()))
    return Turn("", tuple(messages), 1, tuple(system), tools), frozenset(untaught)


def _only(entry: dict[str, Any], where: str, *known: str) -> dict[str, Any]:
    """The entry, unless it holds something more: a key that says nothing here would be lost silently."""
    more = [key for key, value in entry.items() if key not in known and value not in (None, [], "")]
    if more:
        raise ValueError(f"{where}: {more[0]} is not known here; known are {', '.join(known)}")
    return entry


def _json(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{what} is no JSON ({error}): {text.strip()[:60]!r}") from None


def _string(entry: dict[str, Any], key: str, where: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or not value:
        raise ValueError(f"{where}: {key} is missing, or is no text")
    return value


def _weight(entry: dict[str, Any], where: str) -> int:
    weight = entry.get("weight", 1)
    if weight not in (0, 1):
        raise ValueError(f"{where}: weight {weight!r} is neither 0 (not taught) nor 1")
    return int(weight)


def _texts(content: Any, where: str) -> Iterator[Text]:
    for block in _blocks(content, where, ""):
        if not isinstance(block, Text):
            raise ValueError(f"{where}: only texts can stand here")
        yield block


def _blocks(content: Any, where: str, role: str) -> Iterator[Block]:
    """Blocks of a content; empty texts, as OpenAI's form has them beside calls, are none."""
    if content is None or isinstance(content, str):
        yield from [Text(content)] if content else []
        return
    if not isinstance(content, list):
        raise ValueError(f"{where}: content is neither a text nor a list of blocks")
    for number, block in enumerate(content):
        at = f"{where}.content[{number}]"
        match block.get("type") if isinstance(block, dict) else None:
            case "text":
                yield Text(_string(_only(block, at, "type", "text"), "text", at))
            case "tool_use" if role == "assistant":
                _only(block, at, "type", "id", "name", "input")
                yield _call(_string(block, "id", at), _string(block, "name", at), block.get("input"), at)
            case "tool_result" if role == "user":
                _only(block, at, "type", "tool_use_id", "content", "is_error")
                if not isinstance(block.get("is_error", False), bool):
                    raise ValueError(f"{at}: is_error is true or false")
                texts = tuple(_texts(block.get("content"), at))
                yield ToolResult(_string(block, "tool_use_id", at), texts, is_error=block.get("is_error", False))
            case kind:
                raise ValueError(f"{at}: a block of type {kind!r} cannot stand here; text, tool_use and tool_result are taught")


def _said(entry: dict[str, Any], where: str) -> Iterator[Block]:
    """What an assistant says, its calls in either form."""
    _only(entry, where, "role", "content", "tool_calls", "weight")
    blocks = list(_blocks(entry.get("content"), where, "assistant"))
    for number, call in enumerate(entry.get("tool_calls") or ()):
        at = f"{where}.tool_calls[{number}]"
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict):
            raise ValueError(f"{at}: a call has an id, and a function with name and arguments")
        _only(call, at, "id", "type", "index", "function")
        arguments = _json(_string(function, "arguments", at), f"{at}: arguments")
        blocks.append(_call(_string(call, "id", at), _string(function, "name", at), arguments, at))
    if not any(not isinstance(block, Text) or block.text.strip() for block in blocks):
        raise ValueError(f"{where}: the assistant says nothing")
    yield from blocks


def _call(id: str, name: str, input: Any, where: str) -> ToolUse:
    if not isinstance(input, dict):
        raise ValueError(f"{where}: the arguments of a call are an object")
    return ToolUse(id, name, input)


def _tool(tool: Any, where: str) -> Tool:
    entry = tool.get("function", tool) if isinstance(tool, dict) else None
    if not isinstance(entry, dict):
        raise ValueError(f"{where}: a tool has name, description and input_schema (or a function with parameters)")
    _only(entry, where, "type", "name", "description", "input_schema", "parameters", "strict")
    schema = entry.get("input_schema", entry.get("parameters", {"type": "object", "properties": {}}))
    if not isinstance(schema, dict):
        raise ValueError(f"{where}: the schema of a tool's input is an object")
    description = entry.get("description") or ""
    if not isinstance(description, str):
        raise ValueError(f"{where}: description is no text")
    return Tool(_string(entry, "name", where), schema, description)


def _answers(turn: Turn) -> Iterator[tuple[int, int]]:
    """[start, end) of each run of the assistant's messages: those of a run are one answer, as they are in the prompt."""
    for role, group in groupby(enumerate(turn.messages), key=lambda item: item[1].role):
        indices = [index for index, _ in group]
        if role == "assistant":
            yield indices[0], indices[-1] + 1


@dataclass(frozen=True)
class Sample:
    """What is trained on: ids int64 [n], and taught bool [n], whether the id is one that the model is to write."""

    ids: np.ndarray
    taught: np.ndarray


class Encoder:
    """Turns conversations into samples for one checkpoint. `name` is what messages call it."""

    def __init__(self, name: str, template: ChatTemplate, tokenizer: Tokenizer) -> None:
        self._name, self._template, self._tokenizer = name, template, tokenizer

    def samples(self, conversation: Conversation) -> list[Sample]:
        """A sample that holds every answer, where each prompt continues the text of the answer before; else more of them.

        Templates that write the last answer otherwise than earlier ones (qwen3: without its thoughts) need a sample for each
        answer, for that is how it is asked for. Raises RecipeError for a conversation that the template cannot teach.
        """
        found: list[Sample] = []
        for start, end in _answers(conversation.turn):
            untaught = {index in conversation.untaught for index in range(start, end)}
            if len(untaught) > 1:
                raise RecipeError(f"{conversation.where}: answers in a row are one, and have one weight; give them the same")
            if untaught == {True}:
                continue
            ids, asked = self._answer(conversation, start, end)
            taught = np.arange(len(ids)) >= asked
            if found and np.array_equal(ids[: len(found[-1].ids)], found[-1].ids):
                taught[: len(found[-1].ids)] |= found.pop().taught
            found.append(Sample(ids, taught))
        return found

    def _answer(self, conversation: Conversation, start: int, end: int) -> tuple[np.ndarray, int]:
        """Ids of the prompt and of the answer messages[start:end] with its stop token, and how many are the prompt's."""
        prompt = self._render(conversation, start, prompt=True)
        answer = self._written(conversation, prompt, end)
        if answer is None:  # some write the system prompt into what the user said last, and nowhere when the assistant did
            bare = replace(conversation, turn=replace(conversation.turn, system=()))
            answer = self._written(bare, self._render(bare, start, prompt=True), end)
        if answer is None:
            raise RecipeError(
                f"{conversation.where}: the chat template of {self._name} writes an answer otherwise than it asks for one, so "
                "that it cannot be taught; choose another checkpoint, or a template whose prompts stand before its answers"
            )
        before = self._tokenizer.encode_rendered(prompt)
        said = self._tokenizer.encode_rendered(["", *answer])  # "": what follows goes on with a text
        stop = next((n for n, id in enumerate(said, 1) if id in self._tokenizer.eos_ids), None)
        if stop is None:
            raise RecipeError(
                f"{conversation.where}: the chat template of {self._name} ends answers without one of the model's stop tokens, "
                "so that it would never stop; name the token as eos_token_id in its generation_config.json"
            )
        return np.array(before + said[:stop], np.int64), len(before)

    def _written(self, conversation: Conversation, prompt: list[str], end: int) -> list[str] | None:
        """What the template writes behind `prompt` when an answer that ends messages[:end] follows; None if not behind it."""
        text, whole = "".join(prompt), self._render(conversation, end, prompt=False)
        return list(_behind(whole, len(text))) if "".join(whole).startswith(text) else None

    def _render(self, conversation: Conversation, end: int, *, prompt: bool) -> list[str]:
        """Pieces of messages[:end], with the beginning of an answer behind them if that is to be a `prompt`."""
        turn = conversation.turn
        part = Turn("", turn.messages[:end], 1, turn.system, turn.tools)
        calls = detect(self._template.text) if uses_tools(turn) else None
        if calls is None and uses_tools(turn):
            raise RecipeError(
                f"{conversation.where}: {self._name} does not support tool use: its chat template has no form of calls that is "
                "known here; choose another checkpoint, or leave rows with tools out"
            )
        messages, tools, _ = template_inputs(part, calls)
        if not prompt and len(messages) > 1 and messages[-2]["role"] == "assistant":
            raise RecipeError(
                f"{conversation.where}: {self._name} writes a call as a whole message, so that a text with a call, or two "
                "calls, are no one answer of it; leave the text out, and let each call be followed by its result"
            )
        try:
            return self._template.render(messages, tools=tools, add_generation_prompt=prompt)
        except TemplateError as error:
            raise RecipeError(f"{conversation.where}: {self._name}: {error}") from error


def _behind(pieces: Iterable[str], length: int) -> Iterator[str]:
    """The pieces without their first `length` characters."""
    for piece in pieces:
        if len(piece) > length:
            yield piece[length:]
        length = max(length - len(piece), 0)
