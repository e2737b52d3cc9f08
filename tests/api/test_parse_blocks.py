"""Blocks of messages: tool calls and results, documents, search results, citations, and the markers inside of them."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from test_parse import EPHEMERAL, HAIKU, USER, body, parser, refusal, said, text

from senryu.api.parse import Parser
from senryu.api.wire import V2023, V2026
from senryu.errors import SenryuError
from senryu.types import (
    Block,
    CacheControl,
    Chunks,
    Citation,
    Document,
    FileReference,
    Message,
    Pdf,
    PlainText,
    SearchResult,
    Text,
    ToolResult,
    ToolUse,
)

HOUR = {"type": "ephemeral", "ttl": "1h"}
PLAIN = {"type": "text", "media_type": "text/plain", "data": "Grass is green."}
USE = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"x": [1, {"y": None}]}}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1"}
FOUND = {"type": "search_result", "source": "https://x", "title": "X", "content": [text("a"), text("b")]}


def document(source: Any = PLAIN, **fields: Any) -> dict[str, Any]:
    return {"type": "document", "source": source, **fields}


def read(*blocks: Any, role: str = "user", version: str = V2023) -> tuple[Block, ...]:
    return parser(version).create(said(list(blocks), role)).turn.messages[0].content


def after_call(result: dict[str, Any]) -> dict[str, Any]:
    return body(messages=[USER, {"role": "assistant", "content": [USE]}, {"role": "user", "content": [result]}])


def result(**fields: Any) -> ToolResult:
    block = parser().create(after_call({**RESULT, **fields})).turn.messages[2].content[0]
    assert isinstance(block, ToolResult)
    return block


def test_a_call() -> None:
    assert read({**USE, "cache_control": HOUR}, role="assistant") == (
        ToolUse("toolu_1", "look", {"x": [1, {"y": None}]}, CacheControl(3600)),
    )
    as_given = {**USE, "caller": {"type": "direct"}, "toolset_name": None, "cache_control": None}
    assert read(as_given, role="assistant") == read({**USE, "caller": None}, role="assistant")


def test_results() -> None:
    assert result() == result(content=None) == result(content="") == result(content=[]) == ToolResult("toolu_1")
    assert result(content="x", is_error=True) == ToolResult("toolu_1", (Text("x"),), is_error=True)
    rich = result(content=[text("a"), document(), FOUND], is_error=None)
    assert rich == ToolResult(
        "toolu_1", (Text("a"), Document(PlainText("Grass is green.")), SearchResult("https://x", "X", ("a", "b")))
    )


def test_documents() -> None:
    pdf = {"type": "base64", "media_type": "application/pdf", "data": base64.b64encode(b"%PDF-1.4").decode()}
    assert read(
        document(pdf, title="T", context="C", citations={"enabled": True}, cache_control=EPHEMERAL),
        document(),
        document({"type": "content", "content": "one"}, title=None, context=None, citations=None),
        document({"type": "content", "content": [text("a"), text("b")]}, citations={}),
        document({"type": "file", "file_id": "file_1"}),
    ) == (
        Document(Pdf(b"%PDF-1.4"), "T", "C", True, CacheControl(300)),
        Document(PlainText("Grass is green.")),
        Document(Chunks(("one",))),
        Document(Chunks(("a", "b"))),
        Document(FileReference("file_1"), file_id="file_1"),
    )


def test_a_search_result() -> None:
    assert read({**FOUND, "citations": {"enabled": True}, "cache_control": EPHEMERAL}) == (
        SearchResult("https://x", "X", ("a", "b"), True, CacheControl(300)),
    )


@pytest.mark.parametrize(
    ("wire", "citation"),
    [
        (
            {
                "type": "char_location",
                "cited_text": "c",
                "document_index": 0,
                "document_title": "T",
                "start_char_index": 1,
                "end_char_index": 2,
                "file_id": None,
            },
            Citation("char_location", "c", 0, 1, 2, "T"),
        ),
        (
            {
                "type": "page_location",
                "cited_text": "c",
                "document_index": 3,
                "document_title": None,
                "start_page_number": 1,
                "end_page_number": 2,
                "file_id": "file_1",
            },
            Citation("page_location", "c", 3, 1, 2, file_id="file_1"),
        ),
        (
            {
                "type": "content_block_location",
                "cited_text": "c",
                "document_index": 0,
                "start_block_index": 0,
                "end_block_index": 1,
            },
            Citation("content_block_location", "c", 0, 0, 1),
        ),
        (
            {
                "type": "search_result_location",
                "cited_text": "c",
                "search_result_index": 2,
                "source": "s",
                "title": "T",
                "start_block_index": 0,
                "end_block_index": 1,
            },
            Citation("search_result_location", "c", 2, 0, 1, "T", "s"),
        ),
    ],
)
@pytest.mark.parametrize("version", [V2023, V2026])
def test_citations_of_an_answer_that_comes_back(wire: dict[str, Any], citation: Citation, version: str) -> None:
    assert read(text("x", citations=[wire]), role="assistant", version=version) == (Text("x", citations=(citation,)),)


def test_what_the_new_version_refuses() -> None:
    cited = {"type": "char_location", "cited_text": "c", "document_index": 0, "start_char_index": 1, "end_char_index": 2}
    assert (
        refusal(said([text(citations=[cited])]), V2026) == "messages.0.content.0.text.citations: Extra inputs are not permitted"
    )
    assert isinstance(read(text(citations=[cited]))[0], Text)
    assert refusal(said([document()], "assistant"), V2026) == (
        "messages.0.content.0: `document` blocks can only be in `user` messages"
    )
    assert read(document(), role="assistant") == (Document(PlainText("Grass is green.")),)
    assert read(document(), version=V2026) == (Document(PlainText("Grass is green.")),)


def test_a_marker_on_the_last_inner_block_is_the_parents() -> None:
    hoisted = result(content=[text("a"), text("b", cache_control=HOUR)])
    assert hoisted == ToolResult("toolu_1", (Text("a"), Text("b")), cache=CacheControl(3600))
    assert result(content=[text("b", cache_control=HOUR)], cache_control=HOUR).cache == CacheControl(3600)
    chunks = document({"type": "content", "content": [text("a"), text("b", cache_control=EPHEMERAL)]})
    assert read(chunks) == (Document(Chunks(("a", "b")), cache=CacheControl(300)),)
    assert result(content=[chunks]).cache == CacheControl(300)
    marked = {**FOUND, "content": [text("a", cache_control=EPHEMERAL)]}
    assert read(marked) == (SearchResult("https://x", "X", ("a",), cache=CacheControl(300)),)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            after_call({**RESULT, "content": [text("a", cache_control=EPHEMERAL), text("b")]}),
            "messages.2.content.0.tool_result.content.0.cache_control: blocks inside of tool_result cannot be cached on their "
            "own. Put cache_control on the tool_result itself.",
        ),
        (
            after_call({**RESULT, "content": [text("a", cache_control=EPHEMERAL)], "cache_control": HOUR}),
            "messages.2.content.0.tool_result.content.0.cache_control: blocks inside of tool_result cannot be cached on their "
            "own. Put cache_control on the tool_result itself.",
        ),
        (
            said([document({"type": "content", "content": [text("a", cache_control=EPHEMERAL), text("b")]})]),
            "messages.0.content.0.document.source.content.content.0.cache_control: blocks inside of document cannot be cached "
            "on their own. Put cache_control on the document itself.",
        ),
        (
            said([{**USE, "id": "a b"}], "assistant"),
            "messages.0.content.0.tool_use.id: String should match pattern '^[a-zA-Z0-9_-]+$'",
        ),
        (
            said([{**USE, "id": "a\n"}], "assistant"),
            "messages.0.content.0.tool_use.id: String should match pattern '^[a-zA-Z0-9_-]+$'",
        ),
        (
            said([{**USE, "input": "{}"}], "assistant"),
            "messages.0.content.0.tool_use.input: Input should be a valid dictionary",
        ),
        (said([{"type": "tool_use", "id": "a"}], "assistant"), "messages.0.content.0.tool_use.name: Field required"),
        (
            said([{**USE, "name": ""}], "assistant"),
            "messages.0.content.0.tool_use.name: String should have at least 1 character",
        ),
        (
            said([{**USE, "caller": {"type": "code_execution_20250825"}}], "assistant"),
            "messages.0.content.0.tool_use.caller: callers of type 'code_execution_20250825' are not supported by this server "
            "yet. Remove it and try again.",
        ),
        (after_call({"type": "tool_result"}), "messages.2.content.0.tool_result.tool_use_id: Field required"),
        (
            after_call({**RESULT, "is_error": "no"}),
            "messages.2.content.0.tool_result.is_error: Input should be a valid boolean",
        ),
        (after_call({**RESULT, "content": 7}), "messages.2.content.0.tool_result.content: Input should be a valid list"),
        (after_call({**RESULT, "content": [{"type": "image", "source": {}}]}), f"'{HAIKU}' does not support image input."),
        (
            after_call({**RESULT, "content": [USE]}),
            "messages.2.content.0.tool_result.content.0: Input tag 'tool_use' found using 'type' does not match any of the "
            "expected tags: 'bash_code_execution_tool_result',",
        ),
        (
            said([document({"type": "url", "url": "https://x/y.pdf"})]),
            "messages.0.content.0.document.source: this server fetches nothing. ",
        ),
        (
            said([document({"type": "ftp"})]),
            "messages.0.content.0.document.source: Input tag 'ftp' found using 'type' does not match",
        ),
        (
            said([document({**PLAIN, "media_type": "text/html"})]),
            "messages.0.content.0.document.source.text.media_type: Input should be 'text/plain'",
        ),
        (
            said([document({"type": "base64", "media_type": "application/pdf", "data": "a-"})]),
            "messages.0.content.0.document.source.base64.data: Invalid base64 data",
        ),
        (
            said([document({"type": "content", "content": [{"type": "image", "source": {}}]})]),
            f"'{HAIKU}' does not support image input.",
        ),
        (said([document(title="")]), "messages.0.content.0.document.title: String should have at least 1 character"),
        (
            said([document(citations={"enabled": True, "x": 1})]),
            "messages.0.content.0.document.citations.x: Extra inputs are not permitted",
        ),
        (said([document(x=1)]), "messages.0.content.0.document.x: Extra inputs are not permitted"),
        (said([{"type": "document"}]), "messages.0.content.0.document.source: Field required"),
        (said([{**FOUND, "content": "x"}]), "messages.0.content.0.search_result.content: Input should be a valid list"),
        (said([{**FOUND, "title": None}]), "messages.0.content.0.search_result.title: Input should be a valid string"),
        (
            said([text(citations=[{"type": "web_search_result_location"}])], "assistant"),
            "messages.0.content.0.text.citations.0: citations of type 'web_search_result_location' are not supported by this "
            "server yet. Remove it and try again.",
        ),
        (
            said([text(citations=[{"type": "char_location", "cited_text": "c", "document_index": -1}])], "assistant"),
            "messages.0.content.0.text.citations.0.char_location.document_index: Input should be greater than or equal to 0",
        ),
        (
            body(system=[text(citations=[{}])]),
            "system.0.citations: citations of the system prompt are not supported by this server yet. Remove it and try again.",
        ),
        (
            said([{"type": "thinking", "thinking": "x", "signature": "y"}], "assistant"),
            "messages.0.content.0: blocks of type 'thinking' are not supported by this server yet. Remove it and try again.",
        ),
    ],
)
def test_refusals(value: Any, message: str) -> None:
    assert refusal(value).startswith(message)


def test_an_input_of_any_depth_is_read_up_to_a_bound() -> None:
    deep: Any = {}
    for _ in range(127):
        deep = {"a": deep}
    assert read({**USE, "input": deep}, role="assistant")
    assert refusal(said([{**USE, "input": {"a": deep}}], "assistant")) == (
        "messages.0.content.0.tool_use.input: nested more than 128 levels deep"
    )


def lenient(value: Any) -> tuple[tuple[Message, ...], str]:
    reader = Parser(V2023, lambda name: HAIKU, lenient=True)
    return reader.create(value).turn.messages, reader.headers.get("senryu-ignored", "")


def test_the_lenient_profile_leaves_out_thoughts_but_nothing_that_a_user_says() -> None:
    thought = {"type": "thinking", "thinking": "x", "signature": "y"}
    messages, ignored = lenient(said([thought, text("a", y=1)], "assistant"))
    assert messages == (Message("assistant", (Text("a"),)),)
    assert ignored == "messages.0.content.0, messages.0.content.1.text.y"
    for block in (thought, {"type": "image", "source": {}}, document({"type": "url", "url": "x"}), {"type": "hologram"}):
        with pytest.raises(SenryuError):
            lenient(said([block]))


def test_the_lenient_profile_folds_system_messages_into_the_users_turn() -> None:
    def system(content: Any) -> dict[str, Any]:
        return {"role": "system", "content": content}

    call = {"role": "assistant", "content": [USE]}
    answered = {"role": "user", "content": [{**RESULT, "content": "x"}, text("and?")]}
    messages, ignored = lenient(body(messages=[USER, system("s1"), call, system([text("s2")]), system("s3"), answered]))
    assert messages == (
        Message("user", (Text("Hi"),)),
        Message("user", (Text("s1"),)),
        Message("assistant", (ToolUse("toolu_1", "look", USE["input"]),)),  # type: ignore[arg-type]
        Message("user", (ToolResult("toolu_1", (Text("x"),)),)),
        Message("user", (Text("s2"),)),
        Message("user", (Text("s3"), Text("and?"))),
    )
    assert ignored == "messages.1.role, messages.3.role, messages.4.role"
