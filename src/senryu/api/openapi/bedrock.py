"""Amazon Bedrock's operations: InvokeModel and Converse, whole and as streams of frames, and CountTokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from senryu.api.bedrock.converse_blocks import ID, MOST_NAME, NAME, OFFICE, PLACES, TEXTS
from senryu.api.bedrock.converse_in import (
    FOREIGN_FIELDS,
    LATENCIES,
    MOST_METADATA,
    MOST_POINTERS,
    MOST_STOPS,
    POINTER,
    TIERS,
)
from senryu.api.bedrock.converse_out import PLACES as PLACES_OUT
from senryu.api.bedrock.invoke import VERSIONS
from senryu.api.bedrock.metrics import COUNTS
from senryu.api.bedrock.routes import ECHOED, Bedrock
from senryu.api.openapi.answers import REASON
from senryu.api.openapi.blocks import INPUT_SCHEMA
from senryu.api.openapi.claude import ANSWERED, STOPS
from senryu.api.openapi.vertex import inside
from senryu.api.openapi.words import (
    FLAG,
    FRAMES,
    FREE,
    Operation,
    Schema,
    base64,
    exactly,
    gives,
    header,
    json_of,
    list_of,
    map_of,
    maybe,
    nothing,
    number,
    one_of,
    path,
    ref,
    said,
    stream_of,
    takes,
    text,
    union,
    whole,
)
from senryu.api.parse import MOST_MESSAGES

CALLED = path("model_id", "The model's id, another name of it, or an ARN that ends with one.")
HOW = tuple(header(COUNTS + name, "Said again in the answer.", one_of(*options)) for name, options in ECHOED.items())
TEXT: Schema = takes({"text": text()})
CITED: dict[str, Schema] = {"citations?": maybe(takes({"enabled": FLAG}))}
NO_TYPE: dict[str, Schema] = {"type?": nothing()}
EXTRA = takes(
    {
        "anthropic_beta?": list_of(text()),
        "tool_choice?": maybe(ref("ToolChoice")),
        "thinking?": maybe(ref("Thinking")),
        "top_k?": whole(),
        "output_config?": maybe(ref("OutputConfig")),
    },
    "Fields of the Messages API that Converse has no name for.",
)
CONVERSED: dict[str, Schema] = {
    "messages": list_of(ref("ConverseMessage"), high=MOST_MESSAGES),
    "system?": maybe(list_of(union({"text": text(), "cachePoint": ref("CachePoint")}))),
    "toolConfig?": maybe(
        takes(
            {
                "tools": list_of(union({"toolSpec": ref("ToolSpec"), "cachePoint": ref("CachePoint")}), 1),
                "toolChoice?": maybe(union({"auto": takes({}), "any": takes({}), "tool": takes({"name": text(1)})})),
            }
        )
    ),
    "additionalModelRequestFields?": maybe(EXTRA),
    **{f"{name}?": nothing([], {}) for name in FOREIGN_FIELDS},
}
JSON_SCHEMA = takes(
    {"schema": said(text(), "A JSON Schema, in a string."), "name?": maybe(text()), "description?": maybe(text())}
)
LATENCY, TIER = one_of(*LATENCIES), one_of(*TIERS)


def _echo(name: str, words: Schema) -> Schema:
    return maybe(takes({f"{name}?": maybe(words)}))


def _members(members: Mapping[str, Schema]) -> Schema:
    """A union in an answer."""
    return {"oneOf": [gives({name: schema}) for name, schema in members.items()]}


REQUESTS: dict[str, Schema] = {
    "CachePoint": takes({"type": exactly("default"), "ttl?": maybe(one_of("5m", "1h"))}, "Caches what stands right before it."),
    "ToolSpec": takes(
        {
            "name": text(pattern=NAME),
            "inputSchema": union({"json": INPUT_SCHEMA}),
            "description?": maybe(text(1)),
            "strict?": maybe(FLAG),
        }
    ),
    "ConverseDocument": takes(
        {
            "name": text(1, MOST_NAME),
            "format?": said(
                maybe(one_of("pdf", *TEXTS, *OFFICE)), f"Needed with `bytes`; {', '.join(OFFICE)} cannot be read as such."
            ),
            "source": union({"bytes": base64(), "text": text(), "content": list_of(TEXT)}),
            "context?": maybe(text(1)),
            **CITED,
        }
    ),
    "ConverseSearchResult": takes({"source": text(), "title": text(), "content": list_of(TEXT), **CITED}),
    "ConverseToolUse": takes({"toolUseId": text(pattern=ID), "name": text(pattern=NAME), "input": FREE, **NO_TYPE}),
    "ConverseToolResult": takes(
        {
            "toolUseId": text(pattern=ID),
            "content": list_of(
                union(
                    {
                        "text": text(),
                        "json": {"not": {"type": "null"}},
                        "document": ref("ConverseDocument"),
                        "searchResult": ref("ConverseSearchResult"),
                    }
                )
            ),
            "status?": maybe(one_of("success", "error")),
            **NO_TYPE,
        }
    ),
    "ConverseCitedText": takes(
        {
            "content?": list_of(TEXT),
            "citations?": maybe(
                list_of(
                    takes(
                        {
                            "location?": maybe(
                                union(
                                    {
                                        kind: takes({counter: whole(), "start": whole(), "end": whole()})
                                        for kind, (_, counter) in PLACES.items()
                                    }
                                )
                            ),
                            "sourceContent?": list_of(TEXT),
                            "title?": maybe(text()),
                            "source?": maybe(text()),
                        }
                    )
                )
            ),
        }
    ),
    "ConverseMessage": takes(
        {
            "role": one_of("user", "assistant"),
            "content": list_of(
                union(
                    {
                        "text": text(),
                        "document": ref("ConverseDocument"),
                        "searchResult": ref("ConverseSearchResult"),
                        "toolUse": ref("ConverseToolUse"),
                        "toolResult": ref("ConverseToolResult"),
                        "citationsContent": ref("ConverseCitedText"),
                        "cachePoint": ref("CachePoint"),
                    }
                )
            ),
        }
    ),
    "InvokeModel": takes({**inside(VERSIONS), **ANSWERED}),
    "Converse": takes(
        {
            **CONVERSED,
            "inferenceConfig?": maybe(
                takes(
                    {
                        "maxTokens?": maybe(whole(1)),
                        "temperature?": maybe(number(0, 1)),
                        "topP?": maybe(number(0, 1)),
                        "stopSequences?": maybe(STOPS | {"maxItems": MOST_STOPS}),
                    }
                )
            ),
            "outputConfig?": maybe(
                takes(
                    {
                        "textFormat?": maybe(
                            takes({"type": exactly("json_schema"), "structure": union({"jsonSchema": JSON_SCHEMA})})
                        ),
                        "effort?": nothing(""),
                    }
                )
            ),
            "performanceConfig?": _echo("latency", LATENCY),
            "serviceTier?": _echo("type", TIER),
            "additionalModelResponseFieldPaths?": list_of(text(pattern=POINTER), high=MOST_POINTERS),
            "requestMetadata?": maybe(map_of(text(high=256), MOST_METADATA)),
        }
    ),
    "BedrockCountTokens": takes({"input": union({"invokeModel": takes({"body": base64()}), "converse": takes(CONVERSED)})}),
}
TOOL_USE = gives({"toolUseId": text(), "name": text(), "input": FREE})
CITATION = gives(
    {
        "title?": text(),
        "source?": text(),
        "sourceContent": list_of(gives({"text": text()})),
        "location": _members(
            {kind: gives({counter: whole(), "start": whole(), "end": whole()}) for kind, counter in PLACES_OUT.values()}
        ),
    }
)
STOPPED: dict[str, Schema] = {"stopReason": REASON, "additionalModelResponseFields?": FREE}
METADATA: dict[str, Schema] = {
    "usage": gives(
        {
            "inputTokens": whole(),
            "outputTokens": whole(),
            "totalTokens": whole(),
            "cacheReadInputTokens": whole(),
            "cacheWriteInputTokens": whole(),
            "cacheDetails": list_of(gives({"ttl": one_of("1h", "5m"), "inputTokens": whole()})),
        }
    ),
    "metrics": gives({"latencyMs": whole()}),
    "performanceConfig?": gives({"latency": LATENCY}),
    "serviceTier?": gives({"type": TIER}),
}
INDEX: dict[str, Schema] = {"contentBlockIndex": whole()}
DELTA = _members({"text": text(), "toolUse": gives({"input": text()}), "citation": ref("ConverseCitation")})
START = gives({"toolUse": gives({"toolUseId": text(), "name": text()})})
ANSWERS: dict[str, Schema] = {
    "BedrockError": gives({"message": text()}, "The exception's name is in the header x-amzn-ErrorType."),
    "InvokeChunk": gives({"bytes": said(base64(), "A MessageEvent.")}, "The payload of a frame, without its padding `p`."),
    "ConverseCitation": CITATION,
    "ConverseAnswer": gives(
        {
            "output": gives(
                {
                    "message": gives(
                        {
                            "role": exactly("assistant"),
                            "content": list_of(
                                _members(
                                    {
                                        "text": text(),
                                        "toolUse": TOOL_USE,
                                        "citationsContent": gives(
                                            {
                                                "content": list_of(gives({"text": text()})),
                                                "citations": list_of(ref("ConverseCitation")),
                                            }
                                        ),
                                    }
                                )
                            ),
                        }
                    )
                }
            ),
            **STOPPED,
            **METADATA,
        }
    ),
    "ConverseEvent": said(
        _members(
            {
                "messageStart": gives({"role": exactly("assistant")}),
                "contentBlockStart": gives({"start": START, **INDEX}),
                "contentBlockDelta": gives({"delta": DELTA, **INDEX}),
                "contentBlockStop": gives(INDEX),
                "messageStop": gives(STOPPED),
                "metadata": gives(METADATA),
            }
        ),
        "The payload of a frame, without its padding `p`, under the name that the frame's header :event-type gives it.",
    ),
    "BedrockTokenCount": gives({"inputTokens": whole()}),
}
SCHEMAS = REQUESTS | ANSWERS
IN_INVOKE, IN_CONVERSE = json_of(ref("InvokeModel")), json_of(ref("Converse"))
OPERATIONS: Mapping[Callable[..., Any], Operation] = {
    Bedrock.invoke: Operation("InvokeModel", (CALLED, *HOW), IN_INVOKE, {200: json_of(ref("Message"))}),
    Bedrock.invoke_stream: Operation(
        "InvokeModelWithResponseStream", (CALLED, *HOW), IN_INVOKE, {200: stream_of(FRAMES, ref("InvokeChunk"))}
    ),
    Bedrock.converse: Operation("Converse", (CALLED,), IN_CONVERSE, {200: json_of(ref("ConverseAnswer"))}),
    Bedrock.converse_stream: Operation(
        "ConverseStream", (CALLED,), IN_CONVERSE, {200: stream_of(FRAMES, ref("ConverseEvent"))}
    ),
    Bedrock.count_tokens: Operation(
        "CountTokens", (CALLED,), json_of(ref("BedrockCountTokens")), {200: json_of(ref("BedrockTokenCount"))}
    ),
}
