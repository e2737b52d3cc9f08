"""Rules of a conversation on Turns, as any wire shape makes them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from senryu.errors import SenryuError
from senryu.service.rules import check
from senryu.types import (
    Block,
    CacheControl,
    Message,
    Role,
    Text,
    Tool,
    ToolChoice,
    ToolResult,
    ToolUse,
    Turn,
)

HI = Message("user", (Text("Hi"),))
TOOL = Tool("look", {"type": "object"})


def said(role: Role, *blocks: Block) -> Message:
    return Message(role, blocks)


def call(id: str) -> ToolUse:
    return ToolUse(id, "look", {})


def turn(*messages: Message, **fields: Any) -> Turn:
    return Turn("m", messages, 10, **fields)


def refusal(asked: Turn) -> str:
    with pytest.raises(SenryuError) as caught:
        check(asked)
    assert caught.value.status == 400
    return caught.value.message


def missing(index: int, ids: str) -> str:
    return (
        f"messages.{index}: `tool_use` ids were found without `tool_result` blocks immediately after: {ids}. "
        "Each `tool_use` block must have a corresponding `tool_result` block in the next message."
    )


def unexpected(path: str, id: str) -> str:
    return (
        f"{path}: unexpected `tool_use_id` found in `tool_result` blocks: {id}. "
        "Each `tool_result` block must have a corresponding `tool_use` block in the previous message."
    )


def test_calls_and_results_that_pair() -> None:
    check(
        turn(HI, said("assistant", Text("."), call("a"), call("b")), said("user", ToolResult("b"), ToolResult("a"), Text("?")))
    )
    check(
        turn(
            HI,
            said("assistant", call("a")),
            said("user", ToolResult("a")),
            said("assistant", call("b")),
            said("user", ToolResult("b")),
        )
    )


def test_messages_of_one_role_in_a_row_are_one_turn() -> None:
    check(
        turn(
            HI,
            said("assistant", call("a")),
            said("assistant", call("b")),
            said("user", ToolResult("a")),
            said("user", ToolResult("b")),
        )
    )


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([HI, said("assistant", call("a")), HI], missing(1, "a")),
        ([HI, said("assistant", call("a"), call("b")), said("user", ToolResult("a"))], missing(1, "b")),
        ([HI, said("assistant", call("a"), call("b")), HI], missing(1, "a, b")),
        ([HI, said("assistant", call("a"))], missing(1, "a")),
        ([HI, said("assistant", call("a")), said("user", Text("x"), ToolResult("a"))], missing(1, "a")),
        (
            [HI, said("assistant", call("a"), call("b")), said("user", ToolResult("a"), Text("x"), ToolResult("b"))],
            missing(1, "b"),
        ),
        ([HI, said("assistant", call("a")), HI, said("user", ToolResult("a"))], missing(1, "a")),
        ([said("user", ToolResult("a"))], unexpected("messages.0.content.0", "a")),
        (
            [HI, said("assistant", call("a")), said("user", ToolResult("a"), ToolResult("c"))],
            unexpected("messages.2.content.1", "c"),
        ),
        (
            [
                HI,
                said("assistant", call("a")),
                said("user", ToolResult("a")),
                said("assistant", Text("x")),
                said("user", ToolResult("a")),
            ],
            unexpected("messages.4.content.0", "a"),
        ),
        (
            [HI, said("assistant", call("a")), said("user", ToolResult("a"), ToolResult("a"))],
            "messages.2.content.1: each `tool_use` must have a single result. Found multiple `tool_result` blocks with id: a",
        ),
        ([HI, said("assistant", call("a"), call("a"))], "messages.1.content.1: `tool_use` ids must be unique"),
        (
            [HI, said("assistant", call("a")), said("user", ToolResult("a")), said("assistant", Text("x"), call("a"))],
            "messages.3.content.1: `tool_use` ids must be unique",
        ),
        ([said("user", Text("x"), call("a"))], "messages.0.content.1: `tool_use` blocks can only be in `assistant` messages"),
        ([HI, said("assistant", ToolResult("a"))], "messages.1.content.0: `tool_result` blocks can only be in `user` messages"),
    ],
)
def test_calls_and_results_that_do_not_pair(messages: list[Message], message: str) -> None:
    assert refusal(turn(*messages)) == message


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tools": (TOOL, TOOL)}, "tools: Tool names must be unique."),
        ({"tool_choice": ToolChoice("any")}, "tool_choice may only be specified while providing tools."),
        ({"tool_choice": ToolChoice("none")}, "tool_choice may only be specified while providing tools."),
        ({"tools": (TOOL,), "tool_choice": ToolChoice("tool", "book")}, "tool_choice: Tool 'book' not found in provided tools"),
        (
            {"stop_sequences": ("x" * 20_001,)},
            "stop_sequences: 20001 characters in all > 20000, which is the most that this server watches for",
        ),
        ({"system": (Text(""),)}, "system: text content blocks must be non-empty"),
        ({"system": (Text("", CacheControl()),)}, "system.0: cache_control cannot be set for empty text blocks"),
        ({"system": (Text(" "),)}, "system: text content blocks must contain non-whitespace text"),
    ],
)
def test_tools_and_texts(fields: dict[str, Any], message: str) -> None:
    assert refusal(turn(HI, **fields)) == message


def test_what_a_tool_gave_may_be_blank_but_not_empty() -> None:
    asked = [HI, said("assistant", call("a"))]
    check(turn(*asked, said("user", ToolResult("a", (Text("\n"),)))))
    assert (
        refusal(turn(*asked, said("user", ToolResult("a", (Text(""),))))) == "messages: text content blocks must be non-empty"
    )


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"output_schema": {"type": "object"}}, "output_config.format"),
        ({"tools": (TOOL,), "tool_choice": ToolChoice("any")}, "tool_choice 'any'"),
        ({"tools": (TOOL,), "tool_choice": ToolChoice("tool", "look")}, "tool_choice 'tool'"),
    ],
)
def test_filling_the_cache_asks_for_no_answer(fields: dict[str, Any], what: str) -> None:
    check(turn(HI, **fields))
    assert refusal(replace(turn(HI, **fields), max_tokens=0)) == (
        f"max_tokens: must be greater than or equal to 1 with {what}: 0 only reads the prompt into the cache"
    )
    check(replace(turn(HI, tools=(TOOL,)), max_tokens=0))


MARKS = st.lists(st.sampled_from([None, 300, 3600]), min_size=1, max_size=6)


@given(tools=MARKS, system=MARKS, blocks=MARKS)
def test_breakpoints(tools: list[int | None], system: list[int | None], blocks: list[int | None]) -> None:
    def mark(ttl: int | None) -> CacheControl | None:
        return CacheControl(ttl) if ttl else None

    asked = turn(
        said("user", *(Text("x", mark(ttl)) for ttl in blocks)),
        tools=tuple(Tool(f"t{i}", {"type": "object"}, cache=mark(ttl)) for i, ttl in enumerate(tools)),
        system=tuple(Text("x", mark(ttl)) for ttl in system),
    )
    places = [
        *(f"tools.{i}" for i in range(len(tools))),
        *(f"system.{i}" for i in range(len(system))),
        *(f"messages.0.content.{i}" for i in range(len(blocks))),
    ]
    ttls = [*tools, *system, *blocks]
    marked = [(place, ttl) for place, ttl in zip(places, ttls, strict=True) if ttl]
    late = [place for i, (place, ttl) in enumerate(marked) if ttl == 3600 and any(t == 300 for _, t in marked[:i])]
    if late:
        assert refusal(asked).startswith(
            f"{late[0]}.cache_control.ttl: a ttl='1h' cache_control block must not come after a ttl='5m' cache_control block."
        )
    elif len(marked) > 4:
        assert refusal(asked) == f"A maximum of 4 blocks with cache_control may be provided. Found {len(marked)}."
    else:
        check(asked)
