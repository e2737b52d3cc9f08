"""What the Claude API answers, as schemas: messages and their events, batches, files, models, refusals."""

from __future__ import annotations

from typing import get_args

from senryu.api.blocks import PLACES
from senryu.api.openapi.blocks import citation
from senryu.api.openapi.words import (
    FLAG,
    FREE,
    Schema,
    exactly,
    gives,
    giving,
    list_of,
    maybe,
    one_of,
    ref,
    text,
    whole,
)
from senryu.types import StopReason

TIME: Schema = {"type": "string", "format": "date-time"}
REASON = one_of(*get_args(StopReason))
COUNTS = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens", "output_tokens")
USAGE = {name: whole() for name in COUNTS}
ENDED: dict[str, Schema] = {"stop_reason": maybe(REASON), "stop_sequence": maybe(text())}
BATCH_TIMES = ("created_at", "expires_at")
BATCH_EVENTS = ("ended_at", "cancel_initiated_at", "archived_at")
STATES = ("processing", "succeeded", "errored", "canceled", "expired")
METRICS = (
    "inputTokenCount",
    "outputTokenCount",
    "cacheReadInputTokenCount",
    "cacheWriteInputTokenCount",
    "invocationLatency",
    "firstByteLatency",
)


def page_of(name: str) -> Schema:
    """A page of items that have ids."""
    ends = {end: maybe(text()) for end in ("first_id", "last_id")}
    return gives({"data": list_of(ref(name)), "has_more": FLAG, **ends})


SCHEMAS: dict[str, Schema] = {
    "Error": gives(
        {
            "type": exactly("error"),
            "error": gives({"type": text(), "message": text(), "details?": gives({"error_code": text()})}),
            "request_id": text(),
        }
    ),
    "Health": gives({"status": one_of("ok", "draining"), "version": text()}),
    "Usage": gives(
        {
            **USAGE,
            "cache_creation": gives({f"ephemeral_{ttl}_input_tokens": whole() for ttl in ("5m", "1h")}),
            "service_tier": one_of("standard", "batch"),
            "inference_geo": text(),
        }
    ),
    "AnswerCitation": giving({kind: citation(kind, complete=True) for kind in PLACES}),
    "AnswerBlock": giving(
        {
            "text": {"text": text(), "citations?": list_of(ref("AnswerCitation"))},
            "tool_use": {"id": text(), "name": text(), "input": FREE},
        }
    ),
    "Message": gives(
        {
            "id": text(),
            "type": exactly("message"),
            "role": exactly("assistant"),
            "model": text(),
            "content": list_of(ref("AnswerBlock")),
            **ENDED,
            "usage": ref("Usage"),
            "diagnostics?": maybe(
                gives({"cache_miss_reason": gives({"type": text(), "cache_missed_input_tokens?": whole()})}),
            ),
        }
    ),
    "MessageEvent": giving(
        {
            "message_start": {"message": ref("Message")},
            "content_block_start": {"index": whole(), "content_block": ref("AnswerBlock")},
            "content_block_delta": {
                "index": whole(),
                "delta": giving(
                    {
                        "text_delta": {"text": text()},
                        "input_json_delta": {"partial_json": text()},
                        "citations_delta": {"citation": ref("AnswerCitation")},
                    }
                ),
            },
            "content_block_stop": {"index": whole()},
            "message_delta": {"delta": gives(ENDED), "usage": gives(USAGE)},
            "message_stop": {"amazon-bedrock-invocationMetrics?": gives({name: whole() for name in METRICS})},
            "ping": {},
            "error": {"error": gives({"type": text(), "message": text()}), "request_id": text()},
        }
    ),
    "TokenCount": gives({"input_tokens": whole()}),
    "MessageBatch": gives(
        {
            "id": text(),
            "type": exactly("message_batch"),
            "processing_status": one_of("in_progress", "canceling", "ended"),
            "request_counts": gives({state: whole() for state in STATES}),
            **dict.fromkeys(BATCH_TIMES, TIME),
            **{name: maybe(TIME) for name in BATCH_EVENTS},
            "results_url": maybe(text()),
        }
    ),
    "MessageBatchPage": page_of("MessageBatch"),
    "DeletedMessageBatch": gives({"id": text(), "type": exactly("message_batch_deleted")}),
    "BatchResult": gives(
        {
            "custom_id": text(),
            "result": giving(
                {"succeeded": {"message": ref("Message")}, "errored": {"error": ref("Error")}, "canceled": {}, "expired": {}}
            ),
        }
    ),
    "File": gives(
        {
            "type": exactly("file"),
            "id": text(),
            "filename": text(),
            "mime_type": text(),
            "size_bytes": whole(),
            "created_at": TIME,
            "downloadable": FLAG,
            "expires_at": maybe(TIME),
        }
    ),
    "FilePage": gives({"data": list_of(ref("File")), "next_page": maybe(text())}),
    "OlderFilePage": page_of("File"),
    "DeletedFile": gives({"id": text(), "type": exactly("file_deleted")}),
    "Model": gives(
        {
            "type": exactly("model"),
            "id": text(),
            "display_name": text(),
            "created_at": TIME,
            "lifecycle": text(),
            "line": text(),
            "deprecated_at": maybe(TIME),
            "retires_at": maybe(TIME),
            "max_input_tokens": whole(),
            "max_tokens": whole(),
            "capabilities": FREE,
        }
    ),
    "ModelPage": page_of("Model"),
}
