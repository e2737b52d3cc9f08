"""The Messages API's content blocks, tools and markers as `api.blocks` and `api.toolfields` read them, as schemas."""

from __future__ import annotations

from senryu.api.blocks import ID, MOST_NAME, MOST_TITLE, PLACES
from senryu.api.openapi.words import (
    FLAG,
    FREE,
    Schema,
    base64,
    either,
    exactly,
    list_of,
    maybe,
    nothing,
    one_of,
    ref,
    said,
    takes,
    taking,
    text,
    whole,
)
from senryu.api.toolfields import NAME

MARKER: dict[str, Schema] = {"cache_control?": maybe(ref("CacheControl"))}
CITED: dict[str, Schema] = {"citations?": maybe(takes({"enabled?": maybe(FLAG)}))}
TOOLSET: dict[str, Schema] = {"toolset_name?": nothing()}
TEXT: dict[str, Schema] = {"type": exactly("text"), "text": text(), **MARKER}
PARALLEL: dict[str, Schema] = {"disable_parallel_tool_use?": maybe(FLAG)}
INPUT_SCHEMA: Schema = {
    "type": "object",
    "properties": {"type": exactly("object")},
    "required": ["type"],
    "description": "A JSON Schema of an object.",
}


def citation(kind: str, complete: bool) -> dict[str, Schema]:
    """The fields of a citation of this kind. complete: as in an answer, where none is left out."""
    may = "" if complete else "?"
    start, end = PLACES[kind]
    fields = {"cited_text": text(), start: whole(), end: whole()}
    if kind == "search_result_location":
        return fields | {"search_result_index": whole(), "source": text(), f"title{may}": maybe(text())}
    named = {f"document_title{may}": maybe(text()), f"file_id{may}": maybe(text())}
    return fields | {"document_index": whole()} | named


def _content(*kinds: str) -> Schema:
    return either(text(), list_of(either(*map(ref, kinds))))


SCHEMAS: dict[str, Schema] = {
    "CacheControl": takes(
        {"type": exactly("ephemeral"), "ttl?": maybe(one_of("5m", "1h"))},
        "A cache breakpoint: the prompt up to here is kept for five minutes or an hour.",
    ),
    "Citation": taking({kind: citation(kind, complete=False) for kind in PLACES}),
    "TextBlock": takes({**TEXT, "citations?": maybe(list_of(ref("Citation")))}),
    "SystemBlock": takes({**TEXT, "citations?": maybe(list_of(ref("Citation"), high=0))}),
    "Source": {
        "oneOf": [
            takes({"type": exactly("base64"), "media_type": exactly("application/pdf"), "data": base64()}),
            takes({"type": exactly("text"), "media_type": exactly("text/plain"), "data": text()}),
            takes({"type": exactly("content"), "content": _content("TextBlock")}),
            takes(
                {"type": exactly("file"), "file_id": text(1, MOST_NAME)},
                "A file of POST /v1/files; not at the addresses of Bedrock and Vertex AI.",
            ),
        ]
    },
    "DocumentBlock": takes(
        {
            "type": exactly("document"),
            "source": ref("Source"),
            "title?": maybe(text(1, MOST_TITLE)),
            "context?": maybe(text(1)),
            **CITED,
            **MARKER,
        },
        "Only in what the user says.",
    ),
    "SearchResultBlock": takes(
        {
            "type": exactly("search_result"),
            "source": text(),
            "title": text(),
            "content": list_of(ref("TextBlock")),
            **CITED,
            **MARKER,
        }
    ),
    "ToolUseBlock": takes(
        {
            "type": exactly("tool_use"),
            "id": text(pattern=ID),
            "name": text(1, MOST_NAME),
            "input": FREE,
            "caller?": maybe(takes({"type": exactly("direct")})),
            **TOOLSET,
            **MARKER,
        },
        "Only in what the assistant says.",
    ),
    "ToolResultBlock": takes(
        {
            "type": exactly("tool_result"),
            "tool_use_id": text(pattern=ID),
            "content?": maybe(_content("TextBlock", "DocumentBlock", "SearchResultBlock")),
            "is_error?": maybe(FLAG),
            **TOOLSET,
            **MARKER,
        },
        "Only in what the user says.",
    ),
    "InputMessage": takes(
        {
            "role": one_of("user", "assistant"),
            "content": _content("TextBlock", "DocumentBlock", "SearchResultBlock", "ToolUseBlock", "ToolResultBlock"),
        }
    ),
    "Tool": takes(
        {
            "type?": maybe(exactly("custom")),
            "name": text(pattern=NAME),
            "description?": maybe(text()),
            "input_schema": INPUT_SCHEMA,
            "input_examples?": maybe(list_of(FREE)),
            "strict?": maybe(FLAG),
            "eager_input_streaming?": maybe(FLAG),
            "defer_loading?": nothing(False),
            "allowed_callers?": nothing([], ["direct"]),
            **MARKER,
        }
    ),
    "ToolChoice": taking({"auto": PARALLEL, "any": PARALLEL, "tool": {"name": text(1), **PARALLEL}, "none": {}}),
    "OutputFormat": takes(
        {"type": exactly("json_schema"), "schema": said(FREE, "A JSON Schema that the answer's text will match.")}
    ),
    "OutputConfig": takes({"format?": maybe(ref("OutputFormat")), "effort?": nothing()}),
    "Thinking": takes({"type": exactly("disabled")}, "This model has no thinking: only its absence can be asked for."),
}
