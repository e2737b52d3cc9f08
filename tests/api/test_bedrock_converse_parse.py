"""Converse's bodies: each field as it lands in the Turn, and the words for each that is wrong or not here."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest

from senryu.api.bedrock.converse_in import ConverseReader, ConverseRequest
from senryu.api.parse import Parser
from senryu.errors import SenryuError
from senryu.types import (
    CacheControl,
    Chunks,
    Citation,
    Document,
    Message,
    Pdf,
    PlainText,
    SearchResult,
    Text,
    Tool,
    ToolChoice,
    ToolResult,
    ToolUse,
)

HAIKU = "claude-3-5-haiku-20241022"
POINT = {"cachePoint": {"type": "default"}}
HOUR = {"cachePoint": {"type": "default", "ttl": "1h"}}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
SPEC = {"toolSpec": {"name": "weather", "inputSchema": {"json": SCHEMA}}}
MESSAGES = [{"role": "user", "content": [{"text": "Hi"}]}]
BEYOND = "not supported by this server yet. Remove it and try again."


def reader(lenient: bool = False) -> ConverseReader:
    def parser(version: str, betas: frozenset[str]) -> Parser:
        return Parser(version, lambda name: HAIKU, betas=betas, lenient=lenient, tenant="t")

    return ConverseReader(parser, "some.model", lambda name: 8192)


def read(**fields: Any) -> ConverseRequest:
    return reader().create({"messages": MESSAGES, **fields})


def content(*blocks: Any, role: str = "user") -> tuple[Any, ...]:
    (message,) = read(messages=[{"role": role, "content": list(blocks)}]).turn.messages
    return message.content


def refusal(call: Callable[..., Any], *blocks: Any, **fields: Any) -> str:
    with pytest.raises(SenryuError) as caught:
        call(*blocks, **fields)
    assert caught.value.status == 400
    return str(caught.value)


def document(source: Any, **fields: Any) -> dict[str, Any]:
    return {"document": {"name": "notes", "source": source, **fields}}


def encoded(data: bytes) -> dict[str, str]:
    return {"bytes": base64.b64encode(data).decode()}


def test_the_least_that_can_be_asked() -> None:
    asked = read()
    assert asked == ConverseRequest(asked.turn)
    turn = asked.turn
    assert (turn.model, turn.tenant, turn.messages) == ("some.model", "t", (Message("user", (Text("Hi"),)),))
    assert (turn.max_tokens, turn.fills_context) == (8192, True)
    assert (turn.temperature, turn.top_p, turn.top_k, turn.stop_sequences) == (1.0, 0.99, 0, ())
    assert (turn.tools, turn.tool_choice, turn.output_schema, turn.system) == ((), ToolChoice(), None, ())


def test_inference_config() -> None:
    turn = read(inferenceConfig={"maxTokens": 5, "temperature": 0, "topP": 0.5, "stopSequences": ["END"]}).turn
    assert (turn.max_tokens, turn.temperature, turn.top_p, turn.stop_sequences) == (5, 0, 0.5, ("END",))
    assert not turn.fills_context

    def wrong(**config: Any) -> str:
        return refusal(read, inferenceConfig=config)

    assert wrong(maxTokens=0) == "inferenceConfig.maxTokens: Input should be greater than or equal to 1"
    assert wrong(temperature=1.1) == "inferenceConfig.temperature: range: 0..1"
    assert wrong(topP="x") == "inferenceConfig.topP: Input should be a valid number"
    assert wrong(topK=1) == "inferenceConfig.topK: Extra inputs are not permitted"
    assert wrong(stopSequences=["a"] * 2501).startswith("inferenceConfig.stopSequences: List should have at most 2500 items")
    assert wrong(stopSequences=[" "]) == "stop_sequences: each stop sequence must contain non-whitespace"


def test_the_models_own_fields() -> None:
    turn = read(
        additionalModelRequestFields={
            "top_k": 7,
            "anthropic_beta": ["model-context-window-exceeded-2025-08-26"],
            "thinking": {"type": "disabled"},
            "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
        },
        inferenceConfig={"maxTokens": 5},
        toolConfig={"tools": [SPEC]},
    ).turn
    assert (turn.top_k, turn.fills_context, turn.tool_choice) == (7, True, ToolChoice(parallel=False))

    def wrong(**extra: Any) -> str:
        return refusal(read, additionalModelRequestFields=extra)

    path = "additionalModelRequestFields"
    assert wrong(top_k=-1) == f"{path}.top_k: Input should be greater than or equal to 0"
    assert wrong(thinking={"type": "adaptive"}) == f"'{HAIKU}' does not support thinking."
    assert wrong(max_tokens=1) == f"{path}.max_tokens: Extra inputs are not permitted"
    assert "`x`" in wrong(anthropic_beta=["x"])
    format = {"type": "json_schema", "schema": SCHEMA}
    assert read(additionalModelRequestFields={"output_config": {"format": format}}).turn.output_schema == SCHEMA


def test_output_config() -> None:
    def config(schema: str, **more: Any) -> dict[str, Any]:
        return {"textFormat": {"type": "json_schema", "structure": {"jsonSchema": {"schema": schema, **more}}}}

    asked = read(outputConfig=config(json.dumps(SCHEMA), name="city", description="A city"))
    assert asked.turn.output_schema == SCHEMA
    path = "outputConfig.textFormat.structure.jsonSchema.schema"
    assert refusal(read, outputConfig=config("{")).startswith(f"{path}: should be a JSON Schema in a string: Expecting")
    assert refusal(read, outputConfig=config("[]")) == f"{path}: Input should be a valid dictionary"
    assert refusal(read, outputConfig={"effort": "low"}) == "This model does not support the effort parameter."
    twice = {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}}
    assert refusal(read, outputConfig=config("{}"), additionalModelRequestFields=twice).startswith("output_format: the format")


def test_tools() -> None:
    spec = {**SPEC["toolSpec"], "description": "Weather", "strict": True}
    turn = read(
        toolConfig={"tools": [SPEC, HOUR, {"toolSpec": {**spec, "name": "b"}}], "toolChoice": {"tool": {"name": "b"}}}
    ).turn
    first, second = turn.tools
    assert first == Tool("weather", SCHEMA, cache=CacheControl(3600))
    assert second == Tool("b", SCHEMA, "Weather", strict=True)
    assert turn.tool_choice == ToolChoice("tool", "b")
    for kind in ("auto", "any"):
        assert read(toolConfig={"tools": [SPEC], "toolChoice": {kind: {}}}).turn.tool_choice == ToolChoice(kind)  # type: ignore[arg-type]

    def wrong(*tools: Any, **more: Any) -> str:
        return refusal(read, toolConfig={"tools": list(tools), **more})

    assert wrong() == "toolConfig.tools: List should have at least 1 item after validation, not 0"
    assert wrong({"systemTool": {"name": "x"}}) == f"toolConfig.tools.0.systemTool: members `systemTool` are {BEYOND}"
    assert wrong(SPEC, toolChoice={"none": {}}) == (
        "toolConfig.toolChoice: exactly one of these members should be set: auto, any, tool"
    )
    bad = {"toolSpec": {"name": "a b", "inputSchema": {"json": SCHEMA}}}
    assert wrong(bad).startswith("toolConfig.tools.0.toolSpec.name: String should match pattern")
    listed = {"toolSpec": {"name": "a", "inputSchema": {"json": {"type": "array"}}}}
    assert wrong(listed) == "toolConfig.tools.0.toolSpec.inputSchema.json.type: Input should be 'object'"


def test_cache_points_mark_what_stands_before_them() -> None:
    turn = read(
        system=[{"text": "a"}, {"text": "b"}, HOUR],
        messages=[{"role": "user", "content": [{"text": "c"}, POINT, {"text": "d"}]}],
    ).turn
    assert turn.system == (Text("a"), Text("b", CacheControl(3600)))
    assert turn.messages[0].content == (Text("c", CacheControl(300)), Text("d"))
    stands = "a cachePoint stands behind what it caches, and each behind something of its own"
    assert refusal(read, system=[POINT]) == f"system.0.cachePoint: {stands}"
    assert refusal(content, {"text": "a"}, POINT, POINT) == f"messages.0.content.2.cachePoint: {stands}"
    assert refusal(content, {"text": "a"}, {"cachePoint": {"type": "default", "ttl": "2h"}}) == (
        "messages.0.content.1.cachePoint.ttl: Input should be '5m' or '1h'"
    )


def test_documents() -> None:
    text = "größer\n"
    for format in ("txt", "md", "html", "csv"):
        (read_in,) = content(document(encoded(text.encode()), format=format))
        assert read_in == Document(PlainText(text), "notes")
    assert content(document(encoded(b"%PDF-"), format="pdf")) == (Document(Pdf(b"%PDF-"), "notes"),)
    full = document({"text": "T"}, context="C", citations={"enabled": True})
    assert content(full, POINT) == (Document(PlainText("T"), "notes", "C", True, CacheControl(300)),)
    chunks = document({"content": [{"text": "a"}, {"text": "b"}]})
    assert content(chunks) == (Document(Chunks(("a", "b")), "notes"),)

    def wrong(source: Any, **fields: Any) -> str:
        return refusal(content, document(source, **fields))

    path = "messages.0.content.0.document"
    for format in ("doc", "docx", "xls", "xlsx"):
        assert wrong(encoded(b"x"), format=format) == (
            f"{path}.format: this server reads no {format} files. Send the document as pdf, txt, md, html or csv."
        )
    assert wrong(encoded(b"x")) == f"{path}.format: Field required"
    assert wrong(encoded(b"\xff"), format="csv").startswith(f"{path}.source.bytes: a document of format 'csv' must be text")
    assert wrong({"bytes": "?"}, format="txt") == f"{path}.source.bytes: Invalid base64 data"
    s3 = {"s3Location": {"uri": "s3://bucket/key"}}
    assert wrong(s3, format="txt") == f"{path}.source.s3Location: members `s3Location` are {BEYOND}"
    assert wrong({"text": "x"}, format="rtf").startswith(f"{path}.format: Input should be 'pdf', ")


def test_calls_and_results() -> None:
    (use,) = content({"toolUse": {"toolUseId": "a.b:c", "name": "weather", "input": {"city": "Kyoto"}}}, role="assistant")
    assert use == ToolUse("a.b:c", "weather", {"city": "Kyoto"})
    parts = [
        {"text": "t"},
        {"json": {"degrees": 18, "sky": "晴"}},
        document({"text": "d"}),
        {"searchResult": {"source": "s", "title": "t", "content": [{"text": "x"}]}},
    ]
    (result,) = content({"toolResult": {"toolUseId": "a", "content": parts, "status": "error"}})
    inner = (Text("t"), Text('{"degrees":18,"sky":"晴"}'), Document(PlainText("d"), "notes"), SearchResult("s", "t", ("x",)))
    assert result == ToolResult("a", inner, is_error=True)  # type: ignore[arg-type]
    (empty,) = content({"toolResult": {"toolUseId": "a", "content": [], "status": "success"}})
    assert empty == ToolResult("a")
    path = "messages.0.content.0.toolResult"
    image = {"toolResult": {"toolUseId": "a", "content": [{"image": {}}]}}
    assert refusal(content, image) == f"{path}.content.0.image: members `image` are {BEYOND}"
    assert refusal(content, {"toolResult": {"toolUseId": "a"}}) == f"{path}.content: Field required"
    served = {"toolUse": {"toolUseId": "a", "name": "b", "input": {}, "type": "server_tool_use"}}
    assert refusal(content, served, role="assistant") == (
        f"messages.0.content.0.toolUse.type: calls of tools that a server runs are {BEYOND}"
    )


def test_search_results_and_citations() -> None:
    result = {"source": "s", "title": "t", "content": [{"text": "x"}, {"text": "y"}], "citations": {"enabled": True}}
    assert content({"searchResult": result}) == (SearchResult("s", "t", ("x", "y"), True),)
    citations = [
        {
            "title": "notes",
            "sourceContent": [{"text": "so"}, {"text": "urce"}],
            "location": {"documentPage": {"documentIndex": 1, "start": 2, "end": 3}},
        },
        {"source": "s", "location": {"searchResultLocation": {"searchResultIndex": 0, "start": 0, "end": 1}}},
        {"title": "of no place"},
    ]
    block = {"citationsContent": {"content": [{"text": "An "}, {"text": "answer"}], "citations": citations}}
    assert content(block, role="assistant") == (
        Text(
            "An answer",
            citations=(
                Citation("page_location", "source", 1, 2, 3, "notes"),
                Citation("search_result_location", "", 0, 0, 1, None, "s"),
            ),
        ),
    )
    web = {"citationsContent": {"content": [], "citations": [{"location": {"web": {"url": "u"}}}]}}
    assert refusal(content, web, role="assistant").endswith(f"location.web: members `web` are {BEYOND}")


@pytest.mark.parametrize("kind", ["image", "video", "audio", "guardContent", "reasoningContent", "toolAddition", "toolRemoval"])
def test_blocks_that_are_not_here(kind: str) -> None:
    message = f"messages.0.content.0.{kind}: members `{kind}` are {BEYOND}"
    assert refusal(content, {kind: {}}) == message
    assert refusal(content, {kind: {}}, role="assistant") == message


def test_unions_have_one_member() -> None:
    one = "messages.0.content.0: exactly one of these members should be set: text, document, searchResult, "
    for block in ({}, {"text": "a", "toolUse": {}}, {"nothing": 1}, {"text": None}):
        assert refusal(content, block).startswith(one)
    assert refusal(content, "text") == "messages.0.content.0: Input should be a valid dictionary"
    assert content({"text": "a", "image": None}) == (Text("a"),)


def test_fields_that_are_not_here() -> None:
    guard = {"guardrailIdentifier": "abc", "guardrailVersion": "1"}
    assert refusal(read, guardrailConfig=guard) == f"guardrailConfig: guardrails are {BEYOND}"
    assert refusal(read, promptVariables={"a": {"text": "b"}}).startswith("promptVariables: variables of managed prompts are")
    assert refusal(read, nonsense=1) == "nonsense: Extra inputs are not permitted"
    assert refusal(read, messages=[{"role": "system", "content": []}]) == (
        "messages.0.role: Input should be 'user' or 'assistant'"
    )


def test_what_the_answer_echoes() -> None:
    asked = read(
        performanceConfig={"latency": "optimized"},
        serviceTier={"type": "flex"},
        additionalModelResponseFieldPaths=["/stop_sequence", "/a~1b/c"],
        requestMetadata={"team": "a"},
    )
    assert (asked.latency, asked.tier, asked.pointers) == ("optimized", "flex", ("/stop_sequence", "/a~1b/c"))
    assert refusal(read, performanceConfig={"latency": "x"}) == (
        "performanceConfig.latency: Input should be 'standard' or 'optimized'"
    )
    assert refusal(read, serviceTier={"type": "x"}).startswith("serviceTier.type: Input should be 'priority', ")
    for pointer in ("stop_sequence", "", "/a~2"):
        path = "additionalModelResponseFieldPaths.0: String should match pattern"
        assert refusal(read, additionalModelResponseFieldPaths=[pointer]).startswith(path)
    assert refusal(read, requestMetadata={"a": 1}) == "requestMetadata.a: Input should be a valid string"
    many = {str(n): "x" for n in range(17)}
    assert refusal(read, requestMetadata=many).startswith("requestMetadata: List should have at most 16 items")


def test_the_lenient_profile_passes_over_thoughts_and_names_them() -> None:
    lenient = reader(lenient=True)
    thought = {"reasoningContent": {"reasoningText": {"text": "hm"}}}
    turn = lenient.create(
        {
            "messages": [*MESSAGES, {"role": "assistant", "content": [thought, {"text": "A"}]}],
            "additionalModelRequestFields": {"thinking": {"type": "adaptive"}},
            "outputConfig": {"effort": "low"},
            "tomorrow": 1,
        }
    ).turn
    assert turn.messages[1].content == (Text("A"),)
    assert set(lenient.headers["senryu-ignored"].split(", ")) == {
        "messages.1.content.0.reasoningContent",
        "additionalModelRequestFields.thinking",
        "outputConfig.effort",
        "tomorrow",
    }
    with pytest.raises(SenryuError, match=r"content\.0\.image: members `image`"):
        reader(lenient=True).create({"messages": [{"role": "user", "content": [{"image": {}}]}]})


def test_counting_reads_the_same_fields() -> None:
    body = {"messages": MESSAGES, "system": [{"text": "S"}], "toolConfig": {"tools": [SPEC]}}
    counted, asked = reader().count(body, "input.converse"), read(**body).turn
    assert (counted.messages, counted.system, counted.tools) == (asked.messages, asked.system, asked.tools)
    assert refusal(reader().count, {**body, "inferenceConfig": {}}, path="input.converse") == (
        "input.converse.inferenceConfig: Extra inputs are not permitted"
    )
