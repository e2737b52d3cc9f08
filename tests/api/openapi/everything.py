"""Of every operation that takes JSON: a body with all of its fields, and how its parser is reached without a server."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from openai_bodies import CHAT, COMPLETION, MARKER, MODEL, OPENROUTER, OTHER_CHATS, OTHER_RESPONSE, RESPONSE, SCHEMA, Body

from senryu.api import vertex
from senryu.api.batches import new_requests
from senryu.api.bedrock import invoke
from senryu.api.bedrock.converse_in import ConverseReader
from senryu.api.betas import CONTEXT_EXCEEDED, MESSAGE_THREADS, STRUCTURED_OUTPUTS
from senryu.api.hosted import open_body, placed
from senryu.api.openai.chat import ChatParser
from senryu.api.openai.completions import CompletionParser
from senryu.api.openai.options import ChatOptions
from senryu.api.openai.responses import COUNTED, ResponseParser
from senryu.api.openrouter import _read
from senryu.api.parse import Parser
from senryu.api.wire import V2023
from senryu.service.registry import Registry

BETAS = [CONTEXT_EXCEEDED, MESSAGE_THREADS, STRUCTURED_OUTPUTS]
VERSION = {"anthropic-version": V2023, "anthropic-beta": ",".join(BETAS)}
CITED = {"enabled": True}
DOCUMENT = {"title": "t", "context": "c", "citations": CITED}
PDF = base64.b64encode(b"%PDF-1.4").decode()


def _place(kind: str, start: str, end: str, **fields: Any) -> Body:
    return {"type": kind, "cited_text": "c", start: 0, end: 1, "document_index": 0, **fields}


CITATIONS = [
    _place("char_location", "start_char_index", "end_char_index", document_title=None, file_id=None),
    _place("page_location", "start_page_number", "end_page_number", document_title="t"),
    _place("content_block_location", "start_block_index", "end_block_index"),
    {
        "type": "search_result_location",
        "cited_text": "c",
        "search_result_index": 0,
        "source": "s",
        "title": "t",
        "start_block_index": 0,
        "end_block_index": 1,
    },
]
TEXT = {"type": "text", "text": "x"}
PROMPT: Body = {
    "system": [{**TEXT, "cache_control": {"type": "ephemeral", "ttl": "1h"}, "citations": []}],
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "d"}, **DOCUMENT},
                {"type": "document", "source": {"type": "content", "content": [{**TEXT, "cache_control": None}]}, **DOCUMENT},
                {"type": "search_result", "source": "s", "title": "t", "content": [TEXT], "citations": CITED},
                {**TEXT, "citations": None, "cache_control": MARKER},
            ],
        },
        {
            "role": "assistant",
            "content": [
                {**TEXT, "citations": CITATIONS},
                {
                    "type": "tool_use",
                    "id": "toolu_1",
                    "name": "look",
                    "input": {"x": 1},
                    "caller": {"type": "direct"},
                    "toolset_name": None,
                },
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "toolu_1",
                    "content": [TEXT],
                    "is_error": False,
                    "toolset_name": None,
                    "cache_control": MARKER,
                }
            ],
        },
    ],
    "tools": [
        {
            "type": "custom",
            "name": "look",
            "description": "d",
            "input_schema": SCHEMA,
            "input_examples": [{"x": 1}],
            "strict": True,
            "eager_input_streaming": False,
            "defer_loading": False,
            "allowed_callers": ["direct"],
            "cache_control": None,
        }
    ],
    "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
    "output_config": {"format": None, "effort": None},
    "output_format": None,
    "thinking": {"type": "disabled"},
    **{key: [] for key in ("mcp_servers", "context_management")},
    **dict.fromkeys(("container", "inference_geo", "speed", "user_profile_id")),
}
ANSWERED: Body = {
    "max_tokens": 4,
    **PROMPT,
    "temperature": 0.5,
    "top_p": 0.5,
    "top_k": 3,
    "stop_sequences": ["z"],
    "metadata": {"user_id": "u"},
    "service_tier": "auto",
    "diagnostics": {"previous_message_id": None},
    "thread": {"type": "create"},
}
SIMPLE: Body = {"max_tokens": 4, "messages": [{"role": "user", "content": "x"}]}
FORMAT = {"type": "json_schema", "schema": SCHEMA}
OTHERS: list[Body] = [  # what one body has no room for
    SIMPLE | {"system": "s", "output_config": {"format": FORMAT}, "thread": None, "diagnostics": None},
    SIMPLE | {"output_format": FORMAT, "tools": None, "tool_choice": None, "thinking": None},
    {"max_tokens": 4, "messages": [{"role": "assistant",
                                    "content": [{"type": "tool_use", "id": "a", "name": "b", "input": {}}]},
                                   {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "content": "r"}]}]},
    SIMPLE | {"tools": PROMPT["tools"], "tool_choice": {"type": "tool", "name": "look", "disable_parallel_tool_use": None}},
    SIMPLE | {"tools": PROMPT["tools"], "tool_choice": {"type": "none"}},
    {"max_tokens": 4, "messages": [{"role": "user", "content": [
        {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": PDF}},
        {"type": "document", "source": {"type": "content", "content": "c"}},
    ]}]},
]  # fmt: skip
FILED = SIMPLE | {"messages": [{"role": "user", "content": [{"type": "document", "source": {"type": "file", "file_id": "f"}}]}]}

POINT = {"cachePoint": {"type": "default", "ttl": "5m"}}
CONVERSED: Body = {
    "system": [{"text": "s"}, {"cachePoint": {"type": "default", "ttl": None}}],
    "messages": [
        {
            "role": "user",
            "content": [
                {
                    "document": {
                        "format": None,
                        "name": "n",
                        "source": {"text": "d"},
                        "context": "c",
                        "citations": {"enabled": True},
                    }
                },
                {"document": {"name": "n", "source": {"content": [{"text": "d"}]}, "citations": {"enabled": True}}},
                {"searchResult": {"source": "s", "title": "t", "content": [{"text": "r"}], "citations": {"enabled": True}}},
                {"text": "x"},
                POINT,
            ],
        },
        {
            "role": "assistant",
            "content": [
                {
                    "citationsContent": {
                        "content": [{"text": "d"}],
                        "citations": [
                            {
                                "location": {"documentChar": {"documentIndex": 0, "start": 0, "end": 1}},
                                "sourceContent": [{"text": "d"}],
                                "title": "n",
                                "source": None,
                            },
                            {"location": {"searchResultLocation": {"searchResultIndex": 0, "start": 0, "end": 1}}},
                        ],
                    }
                },
                {"toolUse": {"toolUseId": "t1", "name": "look", "input": {"x": 1}, "type": None}},
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "toolResult": {
                        "toolUseId": "t1",
                        "content": [{"text": "z"}, {"json": [1]}, {"searchResult": {"source": "s", "title": "t", "content": [],
                                                                                    "citations": {"enabled": True}}}],
                        "status": "success",
                        "type": None,
                    }
                }
            ],
        },
    ],
    "toolConfig": {
        "tools": [
            {"toolSpec": {"name": "look", "description": "d", "inputSchema": {"json": SCHEMA}, "strict": True}},
            POINT,
        ],
        "toolChoice": {"auto": {}},
    },
    "additionalModelRequestFields": {
        "anthropic_beta": [],
        "tool_choice": {"type": "auto"},
        "thinking": {"type": "disabled"},
        "top_k": 3,
        "output_config": {"format": None},
    },
    "guardrailConfig": None,
    "promptVariables": {},
}  # fmt: skip
CONVERSE: Body = {
    **CONVERSED,
    "inferenceConfig": {"maxTokens": 4, "temperature": 0.5, "topP": 0.5, "stopSequences": ["z"]},
    "outputConfig": {"textFormat": None, "effort": ""},
    "performanceConfig": {"latency": "standard"},
    "serviceTier": {"type": "default"},
    "additionalModelResponseFieldPaths": ["/usage"],
    "requestMetadata": {"a": "b"},
}
STRUCTURE = {"jsonSchema": {"schema": json.dumps(SCHEMA), "name": "n", "description": None}}
OTHER_CONVERSE: list[Body] = [
    {
        "messages": [{"role": "user", "content": [{"text": "x"}]}],
        "inferenceConfig": {"maxTokens": 4},
        "outputConfig": {"textFormat": {"type": "json_schema", "structure": STRUCTURE}},
        "toolConfig": None,
    },
    {
        "messages": [{"role": "user", "content": [{"document": {"format": "txt", "name": "n", "source": {"bytes": "ZA=="}}}]}],
        "inferenceConfig": {"maxTokens": 4},
        "toolConfig": {**CONVERSED["toolConfig"], "toolChoice": {"tool": {"name": "look"}}},
    },
]


def _new_parser(registry: Registry, files: bool = False) -> Callable[[str, frozenset[str]], Parser]:
    return lambda version, betas: Parser(version, registry.canonical, betas=betas | frozenset(BETAS), files=files)


def _vertex(registry: Registry, body: Any) -> Any:
    parser, rest = open_body(body, vertex.VERSIONS, _new_parser(registry))
    return parser.create(placed(parser, rest, model=MODEL))


def _vertex_count(registry: Registry, body: Any) -> Any:
    parser, rest = open_body(body, vertex.VERSIONS, _new_parser(registry), default=vertex.FIRST)
    return parser.count(rest)


def _converse(registry: Registry) -> ConverseReader:
    return ConverseReader(_new_parser(registry), MODEL, lambda name: 8192)


@dataclass(frozen=True, slots=True)
class Taken:
    """One body's schema, an address that takes it, and what reads it, of a body that is right down to `depth`.

    bodies: the first has every field. said: fields of the parser's that the address says, or that are refused at it.
    """

    schema: str
    path: str
    bodies: list[Body]
    read: Callable[[Registry, Any], Any]
    said: frozenset[str] = frozenset()
    depth: int = 0


INSIDE: Body = {"anthropic_version": V2023, "anthropic_beta": BETAS}
PLACE = "/vertex/v1/projects/p/locations/l/publishers/anthropic/models"
BEDROCK = "/bedrock/model/us.anthropic.claude-3-5-haiku-20241022-v1:0"
NAMED = {"model": MODEL}
TO_COUNT = NAMED | PROMPT | {"cache_control": None}
TAKEN = [
    Taken(
        "CreateMessage",
        "/v1/messages",
        [NAMED | ANSWERED | {"stream": False, "cache_control": None}, *(NAMED | other for other in (*OTHERS, FILED))],
        lambda registry, body: _new_parser(registry, files=True)(V2023, frozenset()).create(body),
    ),
    Taken(
        "CountTokens",
        "/v1/messages/count_tokens",
        [TO_COUNT],
        lambda registry, body: _new_parser(registry, files=True)(V2023, frozenset()).count(body),
    ),
    Taken(
        "CreateMessageBatch",
        "/v1/messages/batches",
        [{"requests": [{"custom_id": "a", "params": NAMED | SIMPLE}]}],
        lambda registry, body: new_requests(json.dumps(body).encode()),
    ),
    Taken(
        "VertexMessage",
        f"{PLACE}/{MODEL}:rawPredict",
        [INSIDE | ANSWERED | {"stream": False, "cache_control": None}],
        _vertex,
        frozenset({"model"}),
    ),
    Taken("VertexCountTokens", f"{PLACE}/count-tokens:rawPredict", [INSIDE | TO_COUNT], _vertex_count),
    Taken(
        "InvokeModel",
        f"{BEDROCK}/invoke",
        [INSIDE | ANSWERED],
        lambda registry, body: invoke.read_invoke(_new_parser(registry), MODEL, False, body),
        frozenset({"model", "stream", "cache_control"}),
    ),
    Taken(
        "Converse",
        f"{BEDROCK}/converse",
        [CONVERSE, *OTHER_CONVERSE],
        lambda registry, body: _converse(registry).create(body),
    ),
    Taken(
        "BedrockCountTokens",
        f"{BEDROCK}/count-tokens",
        [{"input": {"converse": CONVERSED}}],
        lambda registry, body: _converse(registry).count(body["input"]["converse"], "input.converse"),
        depth=2,
    ),
    Taken(
        "ChatRequest",
        "/v1/chat/completions",
        [CHAT, *OTHER_CHATS],
        lambda registry, body: ChatParser(registry).create(body),
    ),
    Taken(
        "OpenRouterChatRequest",
        "/api/v1/chat/completions",
        [OPENROUTER],
        lambda registry, body: ChatParser(registry, options=ChatOptions(read=_read, cache_control=True)).create(body),
    ),
    Taken(
        "CompletionRequest",
        "/v1/completions",
        [COMPLETION, {"model": MODEL, "prompt": ["x"]}, {"model": MODEL, "prompt": [[1, 2]], "max_tokens": None}],
        lambda registry, body: CompletionParser(registry).create(body),
    ),
    Taken(
        "ResponseRequest",
        "/v1/responses",
        [RESPONSE, OTHER_RESPONSE],
        lambda registry, body: ResponseParser(registry).create(body),
    ),
    Taken(
        "ResponseCount",
        "/v1/responses/input_tokens",
        [{name: value for name, value in RESPONSE.items() if name in COUNTED}],
        lambda registry, body: ResponseParser(registry).count(body),
        frozenset(RESPONSE) - frozenset(COUNTED),  # the same parser reads what was kept
    ),
]
