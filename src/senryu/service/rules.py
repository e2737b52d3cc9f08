"""What a conversation may be, whichever wire shape it came in: checked on a Turn, refused in the Messages API's own words.

Messages and blocks are named by their indices in the Turn, which are those of the request.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby, takewhile

from senryu.errors import SenryuError
from senryu.types import Block, CacheControl, Text, ToolResult, ToolUse, Turn

MOST_STOP_CHARACTERS = 20_000
MOST_BREAKPOINTS = 4
HOUR = 3_600  # seconds that the longer breakpoints live

Placed = tuple[int, int, Block]  # index of the message, index of the block


def check(turn: Turn) -> None:
    """Raises SenryuError for a turn that breaks a rule."""
    _check_stops(turn.stop_sequences)
    _check_prewarm(turn)
    _check_tools(turn)
    _check_system(turn.system)
    if turn.raw is None:
        _check_messages(turn)
    elif turn.messages or turn.system or turn.tools or turn.cache or turn.thread:
        raise ValueError("a raw prompt stands alone")  # no wire shape can ask for that
    _check_calls(turn)
    _check_breakpoints(turn)


def _path(message: int, block: int) -> str:
    return f"messages.{message}.content.{block}"


def _check_stops(stops: tuple[str, ...]) -> None:
    count = sum(map(len, stops))
    if count > MOST_STOP_CHARACTERS:
        raise SenryuError("long_stops", count=count, cap=MOST_STOP_CHARACTERS)


def _check_prewarm(turn: Turn) -> None:
    if turn.max_tokens:
        return
    if turn.output_schema is not None:
        raise SenryuError("prewarm", what="output_config.format")
    if turn.tool_choice.kind in ("any", "tool"):
        raise SenryuError("prewarm", what=f"tool_choice '{turn.tool_choice.kind}'")


def _check_tools(turn: Turn) -> None:
    names = {tool.name for tool in turn.tools}
    if len(names) != len(turn.tools):
        raise SenryuError("tool_names")
    choice = turn.tool_choice
    if choice.kind != "auto" and not names:
        raise SenryuError("choice_without_tools")
    if choice.kind == "tool" and choice.name not in names:
        raise SenryuError("choice_unknown", name=choice.name[:128])


def _check_system(system: tuple[Text, ...]) -> None:
    for index, block in enumerate(system):
        _check_text(block, f"system.{index}", "system")


def _check_messages(turn: Turn) -> None:
    if not turn.messages:
        raise SenryuError("no_messages")
    last = turn.messages[-1]
    for index, message in enumerate(turn.messages):
        if not message.content and not (message is last and message.role == "assistant"):
            raise SenryuError("empty_message", index=index)
        for at, block in enumerate(message.content):
            if isinstance(block, Text):
                _check_text(block, f"{_path(index, at)}.text", "messages")
            elif isinstance(block, ToolResult):
                _check_inner_texts(block)
    end = last.content[-1] if last.role == "assistant" and last.content else None
    if isinstance(end, Text) and end.text[-1:].isspace():
        raise SenryuError("trailing_space")


def _check_text(block: Text, path: str, where: str) -> None:
    if not block.text:
        if block.cache is not None:
            raise SenryuError("empty_breakpoint", path=path)
        raise SenryuError("empty_text", where=where)
    if block.text.isspace():
        raise SenryuError("blank_text", where=where)


def _check_inner_texts(result: ToolResult) -> None:
    """What a tool gave may be blank, but no block of it empty."""
    if any(isinstance(block, Text) and not block.text for block in result.content):
        raise SenryuError("empty_text", where="messages")


def _check_calls(turn: Turn) -> None:
    """Every call has one result, among the first blocks of what the user says next.

    Messages of one role in a row are one turn, as they are in the prompt.
    """
    pending: dict[str, int] = {}  # id of a call that stands right before -> its message
    seen: set[str] = set()
    for role, group in groupby(enumerate(turn.messages), key=lambda item: item[1].role):
        placed = [(index, at, block) for index, message in group for at, block in enumerate(message.content)]
        if role == "user":
            _check_results(placed, pending)
            pending = {}
            continue
        for index, at, block in placed:
            if isinstance(block, ToolResult):
                raise SenryuError("tool_result_role", path=_path(index, at))
            if isinstance(block, ToolUse):
                if block.id in seen:
                    raise SenryuError("tool_use_ids", path=_path(index, at))
                seen.add(block.id)
                pending[block.id] = index
    _check_answered(pending, set())


def _check_results(placed: list[Placed], pending: dict[str, int]) -> None:
    """`placed`: blocks of the user, right behind the calls `pending`."""
    answered: set[str] = set()
    for index, at, block in placed:
        if isinstance(block, ToolUse):
            raise SenryuError("tool_use_role", path=_path(index, at))
        if isinstance(block, ToolResult):
            if block.tool_use_id not in pending:
                raise SenryuError("tool_result_unexpected", path=_path(index, at), id=block.tool_use_id)
            if block.tool_use_id in answered:
                raise SenryuError("tool_result_twice", path=_path(index, at), id=block.tool_use_id)
            answered.add(block.tool_use_id)
    first = takewhile(lambda item: isinstance(item[2], ToolResult), placed)
    _check_answered(pending, {block.tool_use_id for _, _, block in first if isinstance(block, ToolResult)})


def _check_answered(calls: dict[str, int], answered: set[str]) -> None:
    missing = [id for id in calls if id not in answered]
    if missing:
        raise SenryuError("tool_result_missing", index=calls[missing[0]], ids=", ".join(missing))


def _check_breakpoints(turn: Turn) -> None:
    """Explicit ones: few, and those that live longer before the others."""
    short, count = False, 0
    for path, marker in _breakpoints(turn):
        if marker.ttl == HOUR and short:
            raise SenryuError("ttl_order", path=path)
        short = short or marker.ttl != HOUR
        count += 1
    if count > MOST_BREAKPOINTS:
        raise SenryuError("many_breakpoints", count=count)


def _breakpoints(turn: Turn) -> Iterator[tuple[str, CacheControl]]:
    """(path of what carries it, marker) of each, in the order of the prompt: tools, system, messages."""
    for index, tool in enumerate(turn.tools):
        if tool.cache is not None:
            yield f"tools.{index}", tool.cache
    for index, text in enumerate(turn.system):
        if text.cache is not None:
            yield f"system.{index}", text.cache
    for number, message in enumerate(turn.messages):
        for at, block in enumerate(message.content):
            if block.cache is not None:
                yield _path(number, at), block.cache
