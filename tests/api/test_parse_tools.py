"""Tools, the form of the answer, and the other fields of a request; betas and what the lenient profile passes over."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from anthropic.types import AnthropicBetaParam
from test_parse import EPHEMERAL, HAIKU, USER, body, parser, refusal, text

from senryu.api.betas import FINE_GRAINED_TOOLS, STRUCTURED_OUTPUTS, read_betas
from senryu.api.parse import Parser
from senryu.api.wire import V2023, V2026
from senryu.errors import SenryuError
from senryu.types import CacheControl, Tool, ToolChoice, Turn

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"name": "weather", "input_schema": SCHEMA}
FORMAT = {"type": "json_schema", "schema": SCHEMA}


def reader(*betas: str, lenient: bool = False, version: str = V2023) -> Parser:
    return Parser(version, lambda name: HAIKU, betas=frozenset(betas), lenient=lenient, tenant="t")


def read(*betas: str, **fields: Any) -> Turn:
    return reader(*betas).create(body(**fields)).turn


def tool(*betas: str, **fields: Any) -> Tool:
    return read(*betas, tools=[{**TOOL, **fields}]).tools[0]


def test_tools() -> None:
    assert tool() == tool(type="custom", description=None, strict=None, cache_control=None) == Tool("weather", SCHEMA)
    assert tool(type=None, description="D", strict=True, eager_input_streaming=True, cache_control=EPHEMERAL) == (
        Tool("weather", SCHEMA, "D", strict=True, eager=True, cache=CacheControl(300))
    )
    assert tool(defer_loading=False, allowed_callers=["direct"], input_examples=[]) == Tool("weather", SCHEMA)
    assert read(tools=None).tools == read(tools=[]).tools == ()


def test_the_beta_for_eager_tools_means_all_that_do_not_say_otherwise() -> None:
    assert [tool(FINE_GRAINED_TOOLS, eager_input_streaming=given).eager for given in (None, True, False)] == [True, True, False]
    assert tool(FINE_GRAINED_TOOLS).eager


def test_examples_of_an_input_stand_in_the_schema() -> None:
    examples = [{"city": "Kyoto"}, {"city": "Nara"}]
    assert tool(input_examples=examples).input_schema == {**SCHEMA, "examples": examples}
    own = {**SCHEMA, "examples": [{"city": "Osaka"}]}
    assert tool(input_schema=own, input_examples=examples).input_schema["examples"] == [{"city": "Osaka"}, *examples]
    assert refusal(body(tools=[{**TOOL, "input_examples": [{"city": "x"}, {}]}])) == (
        "tools.0.custom.input_examples.1: does not match the tool's input_schema: 'city' is a required property"
    )


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"type": "auto"}, ToolChoice()),
        ({"type": "auto", "disable_parallel_tool_use": True}, ToolChoice("auto", parallel=False)),
        ({"type": "any", "disable_parallel_tool_use": False}, ToolChoice("any")),
        ({"type": "tool", "name": "weather", "disable_parallel_tool_use": True}, ToolChoice("tool", "weather", False)),
        ({"type": "none"}, ToolChoice("none")),
    ],
)
def test_choices(choice: dict[str, Any], expected: ToolChoice) -> None:
    assert read(tools=[TOOL], tool_choice=choice).tool_choice == expected


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "a b"}, "tools.0.custom.name: String should match pattern '^[a-zA-Z0-9_-]{1,64}$'"),
        ({"name": "x" * 65}, "tools.0.custom.name: String should match pattern '^[a-zA-Z0-9_-]{1,64}$'"),
        ({"name": "é"}, "tools.0.custom.name: String should match pattern '^[a-zA-Z0-9_-]{1,64}$'"),
        ({"input_schema": "{}"}, "tools.0.custom.input_schema: Input should be a valid dictionary"),
        ({"input_schema": {}}, "tools.0.custom.input_schema.type: Field required"),
        ({"input_schema": {"type": "array"}}, "tools.0.custom.input_schema.type: Input should be 'object'"),
        ({"strict": "yes"}, "tools.0.custom.strict: Input should be a valid boolean"),
        ({"description": 1}, "tools.0.custom.description: Input should be a valid string"),
        ({"parameters": {}}, "tools.0.custom.parameters: Extra inputs are not permitted"),
        (
            {"defer_loading": True},
            "tools.0.custom.defer_loading: tools that are loaded on demand are not supported by this server yet. "
            "Remove it and try again.",
        ),
        (
            {"allowed_callers": ["code_execution_20250825"]},
            "tools.0.custom.allowed_callers: callers other than 'direct' are not supported by this server yet. "
            "Remove it and try again.",
        ),
        (
            {"type": "function"},
            "tools.0: Input tag 'function' found using 'type' does not match any of the expected tags: 'custom'",
        ),
        (
            {"cache_control": {"type": "x"}},
            "tools.0.custom.cache_control: Input tag 'x' found using 'type' does not match any of the "
            "expected tags: 'ephemeral'",
        ),
    ],
)
def test_tools_that_are_refused(fields: dict[str, Any], message: str) -> None:
    assert refusal(body(tools=[{**TOOL, **fields}])) == message


@pytest.mark.parametrize(
    "kind",
    [
        "web_search_20250305",
        "web_fetch_20250910",
        "bash_20250124",
        "text_editor_20250728",
        "computer_20241022",
        "code_execution_20250522",
        "memory_20250818",
        "mcp_toolset",
        "tool_search_tool_bm25_20251119",
        "browser_toolset_20260801",
        "computer_toolset_20260801",
    ],
)
@pytest.mark.parametrize("lenient", [False, True])
def test_tools_of_other_servers_are_refused_by_their_type(kind: str, lenient: bool) -> None:
    with pytest.raises(SenryuError) as caught:
        reader(lenient=lenient).create(body(tools=[TOOL, {"type": kind, "name": "x", "max_uses": 5}]))
    assert (
        caught.value.message
        == f"tools.1: tools of type '{kind}' are not supported by this server yet. Remove it and try again."
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tools": "x"}, "tools: Input should be a valid list"),
        ({"tools": ["x"]}, "tools.0: Input should be a valid dictionary"),
        ({"tools": [{}]}, "tools.0.custom.name: Field required"),
        ({"tools": [TOOL, TOOL]}, "tools: Tool names must be unique."),
        ({"tool_choice": {"type": "any"}}, "tool_choice may only be specified while providing tools."),
        ({"tools": [TOOL], "tool_choice": "any"}, "tool_choice: Input should be a valid dictionary"),
        (
            {"tools": [TOOL], "tool_choice": {"type": "required"}},
            "tool_choice: Input tag 'required' found using 'type' does not match any of the expected tags: "
            "'auto', 'any', 'tool', 'none'",
        ),
        ({"tools": [TOOL], "tool_choice": {"type": "tool"}}, "tool_choice.tool.name: Field required"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "x"}}, "tool_choice: Tool 'x' not found in provided tools"),
        (
            {"tools": [TOOL], "tool_choice": {"type": "none", "disable_parallel_tool_use": True}},
            "tool_choice.none.disable_parallel_tool_use: Extra inputs are not permitted",
        ),
        ({"output_config": {"format": {"type": "text"}}}, "output_config.format.type: Input should be 'json_schema'"),
        ({"output_config": {"format": {"type": "json_schema"}}}, "output_config.format.schema: Field required"),
        (
            {"output_config": {"effort": "extreme"}},
            "output_config.effort: Input should be 'low', 'medium', 'high', 'xhigh' or 'max'",
        ),
        ({"output_config": {"effort": "low"}}, "This model does not support the effort parameter."),
        ({"output_config": {"x": 1}}, "output_config.x: Extra inputs are not permitted"),
        ({"output_format": FORMAT}, "output_format: Extra inputs are not permitted"),
        ({"diagnostics": {"previous_message_id": 7}}, "diagnostics.previous_message_id: Input should be a valid string"),
        (
            {"max_tokens": 0, "stream": True},
            "max_tokens: must be greater than or equal to 1 with stream: 0 only reads the prompt into the cache",
        ),
        ({"cache_control": {"type": "ephemeral", "ttl": "2h"}}, "cache_control.ephemeral.ttl: Input should be '5m' or '1h'"),
        (
            {"context_management": {"edits": []}},
            "context_management: context management is not supported by this server yet. Remove it and try again.",
        ),
        ({"speed": "fast"}, "speed: speed is not supported by this server yet. Remove it and try again."),
    ],
)
def test_refusals(fields: dict[str, Any], message: str) -> None:
    assert refusal(body(**fields)) == message


def test_the_form_of_the_answer() -> None:
    assert read(output_config={"format": FORMAT, "effort": None}).output_schema == SCHEMA
    assert read(output_config={}).output_schema is read(output_config={"format": None}).output_schema is None
    assert read(STRUCTURED_OUTPUTS, output_format=FORMAT).output_schema == SCHEMA
    with pytest.raises(SenryuError, match="output_format: the format is in output_config already"):
        read(STRUCTURED_OUTPUTS, output_format=FORMAT, output_config={"format": FORMAT})


def test_other_fields() -> None:
    turn = read(max_tokens=0, cache_control={"type": "ephemeral", "ttl": "1h"}, diagnostics={"previous_message_id": "msg_1"})
    assert (turn.max_tokens, turn.cache, turn.diagnose, turn.tenant) == (0, CacheControl(3600), "msg_1", "t")
    assert read(diagnostics={"previous_message_id": None}).diagnose == read(diagnostics={}).diagnose == ""
    assert read(diagnostics=None).diagnose is read().diagnose is None


def test_count_tokens_reads_all_that_the_model_reads() -> None:
    asked = {
        "model": "m",
        "messages": [USER],
        "system": [text("s")],
        "tools": [TOOL],
        "tool_choice": {"type": "any"},
        "thinking": {"type": "disabled"},
        "cache_control": EPHEMERAL,
        "output_config": {"format": FORMAT},
    }
    created = parser().create({**asked, "max_tokens": 1}).turn
    assert parser().count(asked) == created
    for name, value in {"diagnostics": {}, "metadata": {}, "max_tokens": 1}.items():
        with pytest.raises(SenryuError, match=f"^{name}: Extra inputs are not permitted$"):
            parser().count({**asked, name: value})


def test_every_beta_of_the_sdk_is_known() -> None:
    names = get_args(get_args(AnthropicBetaParam)[1])
    assert len(names) > 50
    reader(*names)


def test_unknown_betas() -> None:
    assert read_betas(["a, b,,", " c "]) == {"a", "b", "c"}
    with pytest.raises(SenryuError) as caught:
        reader("prompt-caching-2024-07-31", "zzz-2099-01-01", "aaa")
    assert caught.value.status == 400
    assert caught.value.message == (
        "Unexpected value(s) `aaa`, `zzz-2099-01-01` for the `anthropic-beta` header. Please consult our documentation at "
        "platform.claude.com/docs or try again without the header."
    )


def test_the_lenient_profile_names_what_it_passes_over() -> None:
    asked = reader("x-2099", lenient=True, version=V2026)
    value = body(
        thinking={"type": "adaptive"},
        output_config={"effort": "high", "format": FORMAT, "task_budget": {}},
        context_management={"edits": [{}]},
        speed="fast",
        foo=1,
        temperature=1,
        metadata={"user_id": "u", "session": "s"},
        system=[text("s", cache_control={**EPHEMERAL, "scope": "global"})],
        tools=[{**TOOL, "color": "red"}],
    )
    turn = asked.create(value).turn
    assert turn.output_schema == SCHEMA
    assert turn.system[0].cache == CacheControl(300)
    assert set(asked.headers["senryu-ignored"].split(", ")) == {
        "anthropic-beta:x-2099",
        "thinking",
        "output_config.effort",
        "output_config.task_budget",
        "context_management",
        "speed",
        "foo",
        "temperature",
        "metadata.session",
        "system.0.cache_control.ephemeral.scope",
        "tools.0.custom.color",
    }
    plain = reader(lenient=True)
    plain.create(body(output_format=FORMAT, thinking={"type": "disabled"}))
    assert plain.headers == {}


@pytest.mark.parametrize(
    "fields", [{"mcp_servers": [{}]}, {"container": "c"}, {"temperature": 2}, {"messages": []}, {"max_tokens": "x"}]
)
def test_the_lenient_profile_still_refuses_what_an_answer_would_need(fields: dict[str, Any]) -> None:
    from senryu.service.rules import check

    with pytest.raises(SenryuError):
        check(reader(lenient=True).create(body(**fields)).turn)


def test_the_header_is_short_and_plain() -> None:
    asked = reader(lenient=True)
    asked.create(body(**{f"é\r\nx: y,{i}": 1 for i in range(100)}))
    header = asked.headers["senryu-ignored"]
    assert header.startswith("%C3%A9%0D%0Ax:%20y%2C0, ")
    assert header.endswith(", ...")
    assert len(header) <= 1010
    assert header.isascii()
    assert header.isprintable()
