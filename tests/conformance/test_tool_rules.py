"""Reference 3.1 to 3.3 and 3.8: what is refused about tools, choices, calls and results."""

from __future__ import annotations

from typing import Any

import pytest
from asking import HAIKU, SCHEMA, TOOL, UNVERIFIED, USER, Asked, after_call, body, result, text, use

ONE_CALL = {"role": "assistant", "content": [use()]}
TWO_CALLS = [use("toolu_1"), use("toolu_2")]


def missing(index: int, ids: str) -> str:
    return (
        f"messages.{index}: `tool_use` ids were found without `tool_result` blocks immediately after: {ids}. Each `tool_use` "
        "block must have a corresponding `tool_result` block in the next message."
    )


def unexpected(path: str, id: str) -> str:
    return (
        f"{path}: unexpected `tool_use_id` found in `tool_result` blocks: {id}. Each `tool_result` block must have a "
        "corresponding `tool_use` block in the previous message."
    )


def tool(**fields: Any) -> dict[str, Any]:
    return body(tools=[{**TOOL, **fields}])


NAME = "tools.0.custom.name: String should match pattern '^[a-zA-Z0-9_-]{1,64}$'"
REFUSED = {
    # 3.1
    "no name": (body(tools=[{"input_schema": SCHEMA}]), "tools.0.custom.name: Field required"),
    "no schema": (body(tools=[{"name": "x"}]), "tools.0.custom.input_schema: Field required"),
    "name with a space": (tool(name="a b"), NAME),
    "name of 65": (tool(name="x" * 65), NAME),
    "empty name": (tool(name=""), NAME),
    "schema without type": (tool(input_schema={}), "tools.0.custom.input_schema.type: Field required"),
    "schema of an array": (tool(input_schema={"type": "array"}), "tools.0.custom.input_schema.type: Input should be 'object'"),
    "unknown field": (tool(parameters={}), "tools.0.custom.parameters: Extra inputs are not permitted"),
    "same name twice": (body(tools=[TOOL, TOOL]), "tools: Tool names must be unique."),
    "example that does not match": (tool(input_examples=[{}]), UNVERIFIED["example"]),
    "deferred": (
        tool(defer_loading=True),
        "tools.0.custom.defer_loading: tools that are loaded on demand are not supported by this server yet. "
        "Remove it and try again.",
    ),
    "called by code": (
        tool(allowed_callers=["code_execution_20250825"]),
        "tools.0.custom.allowed_callers: callers other than 'direct' are not supported by this server yet. "
        "Remove it and try again.",
    ),
    # 3.2
    "choice without tools": (body(tool_choice={"type": "auto"}), "tool_choice may only be specified while providing tools."),
    "any without tools": (body(tool_choice={"type": "any"}), "tool_choice may only be specified while providing tools."),
    "choice of another tool": (body(tools=[TOOL], tool_choice={"type": "tool", "name": "book"}), UNVERIFIED["choice"]),
    "choice of no tool": (body(tools=[TOOL], tool_choice={"type": "tool"}), "tool_choice.tool.name: Field required"),
    "unknown choice": (
        body(tools=[TOOL], tool_choice={"type": "required"}),
        "tool_choice: Input tag 'required' found using 'type' does not match any of the expected tags: 'auto', 'any', 'tool', "
        "'none'",
    ),
    "parallel none": (
        body(tools=[TOOL], tool_choice={"type": "none", "disable_parallel_tool_use": True}),
        "tool_choice.none.disable_parallel_tool_use: Extra inputs are not permitted",
    ),
    # 3.3
    "no result": (body(messages=[USER, ONE_CALL, USER]), missing(1, "toolu_1")),
    "no message with the result": (body(messages=[USER, ONE_CALL]), missing(1, "toolu_1")),
    "one of two results": (after_call(result("toolu_1"), calls=TWO_CALLS), missing(1, "toolu_2")),
    "none of two results": (after_call(text(), calls=TWO_CALLS), missing(1, "toolu_1, toolu_2")),
    "text before the result": (after_call(text(), result()), missing(1, "toolu_1")),
    "result without a call": (
        body(messages=[{"role": "user", "content": [result()]}]),
        unexpected("messages.0.content.0", "toolu_1"),
    ),
    "result of another call": (after_call(result(), result("toolu_9")), unexpected("messages.2.content.1", "toolu_9")),
    "result that comes late": (
        body(
            messages=[
                USER,
                ONE_CALL,
                {"role": "user", "content": [result()]},
                {"role": "assistant", "content": "x"},
                {"role": "user", "content": [result()]},
            ]
        ),
        unexpected("messages.4.content.0", "toolu_1"),
    ),
    "two results of a call": (after_call(result(), result()), UNVERIFIED["second result"]),
    "same id twice": (
        after_call(result(), calls=[use(), use()]),
        "messages.1.content.1: `tool_use` ids must be unique",
    ),
    "same id later": (
        body(
            messages=[
                USER,
                ONE_CALL,
                {"role": "user", "content": [result()]},
                ONE_CALL,
                {"role": "user", "content": [result()]},
            ]
        ),
        "messages.3.content.0: `tool_use` ids must be unique",
    ),
    "result of the assistant": (
        body(messages=[USER, {"role": "assistant", "content": [result()]}]),
        UNVERIFIED["result of the assistant"],
    ),
    "call of the user": (body(messages=[{"role": "user", "content": [use()]}]), UNVERIFIED["call of the user"]),
    # 3.8
    "server tool": (body(tools=[{"type": "web_search_20250305", "name": "web_search"}]), UNVERIFIED["server tool"]),
    "unknown tool": (
        body(tools=[{"type": "function", "name": "x"}]),
        "tools.0: Input tag 'function' found using 'type' does not match any of the expected tags: 'custom'",
    ),
}


@pytest.mark.parametrize(("value", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(asked: Asked, value: Any, message: str) -> None:
    assert asked.refusal(value) == message


@pytest.mark.parametrize(
    "kind",
    [
        "bash_20250124",
        "text_editor_20250728",
        "computer_20241022",
        "code_execution_20250522",
        "web_fetch_20250910",
        "mcp_toolset",
    ],
)
def test_tools_of_other_servers_are_refused_by_their_type(asked: Asked, kind: str) -> None:
    assert f"tools of type '{kind}' are not supported" in asked.refusal(body(tools=[{"type": kind, "name": "x"}]))


def test_counting_refuses_the_same(asked: Asked) -> None:
    for value, message in REFUSED.values():
        counted = {key: part for key, part in value.items() if key != "max_tokens"}
        assert asked.refusal(counted, path="/v1/messages/count_tokens") == message


def test_results_in_any_order_with_text_behind_them(asked: Asked) -> None:
    asked.message(after_call(result("toolu_2", content="b"), result("toolu_1", content="a"), text("and?"), calls=TWO_CALLS))


@pytest.mark.parametrize("content", [None, "", [], "x", [text()]])
def test_what_a_result_may_hold(asked: Asked, content: Any) -> None:
    asked.message(after_call(result(content=content)))
    asked.message(after_call(result(content=content, is_error=True)))


def test_tools_need_not_be_sent_again(asked: Asked) -> None:
    value = after_call(result(content="18 °C"))
    del value["tools"]
    assert asked.message(value)["model"] == HAIKU
