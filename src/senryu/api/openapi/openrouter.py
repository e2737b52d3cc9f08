"""OpenRouter's operations: chat completions with cache markers and costs, models with prices, what keys and answers came to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from senryu.api.openapi.blocks import MARKER
from senryu.api.openapi.completions import COST, COSTED_USAGE, ENDS, chunk, completion
from senryu.api.openapi.openai import Fields, chat_body, quiet
from senryu.api.openapi.words import (
    ANY,
    EVENTS,
    FLAG,
    FREE,
    NULL,
    Operation,
    Schema,
    either,
    exactly,
    gives,
    json_of,
    list_of,
    maybe,
    nothing,
    number,
    query,
    ref,
    said,
    stream_of,
    takes,
    text,
    whole,
)
from senryu.api.openrouter import ONE_PROVIDER, PROVIDER, UNHEARD, OpenRouter

NATIVE = said(text(), "The stop reason of the Claude API.")
ADDED: Fields = {
    **quiet(UNHEARD),
    "reasoning?": maybe(
        {
            "type": "object",
            "properties": {"enabled": nothing(False), "max_tokens": nothing(0), "effort": nothing("none")},
        }
    ),
    "provider?": said(
        maybe(takes({f"{name}?": ANY for name in ONE_PROVIDER})), "There is one to answer, which keeps what it is told."
    ),
    "usage?": said(maybe(takes({"include?": FLAG})), "It is always told."),
    "structured_outputs?": maybe(FLAG),
    "session_id?": maybe(text(high=256)),
    "trace?": maybe(FREE),
    "top_k?": maybe(whole()),
}
EXTRA: Fields = {"provider": exactly(PROVIDER)}
PERIODS = ("usage", "usage_daily", "usage_weekly", "usage_monthly")
PRICES = ("prompt", "completion", "input_cache_read", "input_cache_write", "request", "image")
COUNTS = (
    "tokens_prompt",
    "tokens_completion",
    "native_tokens_prompt",
    "native_tokens_completion",
    "native_tokens_cached",
    "native_tokens_reasoning",
)
REFUSED: Fields = {"code": whole(), "message": text(), "metadata?": gives({"param": text()})}
SCHEMAS: dict[str, Schema] = {
    "OpenRouterError": gives({"error": gives(REFUSED), "choices?": list_of(FREE)}, "In a stream with a last choice."),
    "OpenRouterChatRequest": takes({**chat_body(MARKER), **ADDED}),
    "OpenRouterCompletion": completion(COSTED_USAGE, EXTRA, {"native_finish_reason": NATIVE}),
    "OpenRouterChunk": chunk(COSTED_USAGE, EXTRA, {"native_finish_reason": maybe(NATIVE)}),
    "OpenRouterModel": gives(
        {
            "id": text(),
            "canonical_slug": text(),
            "name": text(),
            "created": whole(),
            "description": text(),
            "context_length": whole(),
            "architecture": gives(
                {
                    "modality": text(),
                    "input_modalities": list_of(text()),
                    "output_modalities": list_of(text()),
                    "tokenizer": text(),
                    "instruct_type": NULL,
                }
            ),
            "pricing": said(gives({name: text() for name in PRICES}), "Dollars for a token, in plain digits."),
            "top_provider": gives({"context_length": whole(), "max_completion_tokens": whole(), "is_moderated": FLAG}),
            "per_request_limits": NULL,
            "supported_parameters": list_of(text()),
        }
    ),
    "OpenRouterModelList": gives({"data": list_of(ref("OpenRouterModel"))}),
    "OpenRouterKey": gives(
        {
            "data": gives(
                {
                    "label": text(),
                    "limit": NULL,
                    "limit_remaining": NULL,
                    "limit_reset": NULL,
                    **dict.fromkeys(PERIODS, COST),
                    "is_free_tier": FLAG,
                    "rate_limit": gives({"requests": whole(None), "interval": text()}),
                }
            )
        }
    ),
    "OpenRouterGeneration": gives(
        {
            "data": gives(
                {
                    "id": text(),
                    "upstream_id": text(),
                    "created_at": {"type": "string", "format": "date-time"},
                    "model": text(),
                    "provider_name": exactly(PROVIDER),
                    "total_cost": COST,
                    "usage": COST,
                    "cache_discount": maybe(COST),
                    "is_byok": FLAG,
                    "streamed": NULL,
                    "cancelled": FLAG,
                    "latency": maybe(number()),
                    "generation_time": number(),
                    "finish_reason": maybe(ENDS),
                    "native_finish_reason": maybe(NATIVE),
                    **dict.fromkeys(COUNTS, whole()),
                }
            )
        }
    ),
}
KEY = Operation("What the caller's key has used", answers={200: json_of(ref("OpenRouterKey"))})
OPERATIONS: Mapping[Callable[..., Any], Operation] = {
    OpenRouter.complete: Operation(
        "Answer a conversation",
        (),
        json_of(ref("OpenRouterChatRequest")),
        {200: json_of(ref("OpenRouterCompletion")) | stream_of(EVENTS, either(ref("OpenRouterChunk"), ref("OpenRouterError")))},
        "Chunks with `stream`, and [DONE] behind them.",
    ),
    OpenRouter.models: Operation("List models with their prices", answers={200: json_of(ref("OpenRouterModelList"))}),
    OpenRouter.key: KEY,
    OpenRouter.generation: Operation(
        "What one answer used and cost",
        (query("id", "The answer's id, as gen-... or msg_...", text(), required=True),),
        answers={200: json_of(ref("OpenRouterGeneration"))},
    ),
}
