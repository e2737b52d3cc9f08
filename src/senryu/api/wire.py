"""What every answer of ours shares: JSON bytes, the error envelope, the API version of a request."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from senryu.errors import SenryuError
from senryu.service.ids import new_id
from senryu.types import CacheMiss, Citation, Started, Text, ToolUse, Usage

encode_json = msgspec.json.Encoder().encode

BARE_SEND = "bare_send"  # in a scope's state: the server's own `send`, for bodies, which nobody on the way looks at
V2023 = "2023-06-01"
V2026 = "2026-10-21"


def api_version(request: Request) -> str:
    """The version that the caller speaks. Raises SenryuError when it is missing or not one of ours."""
    version = request.headers.get("anthropic-version")
    if not version:
        raise SenryuError("version_missing")
    if version not in (V2023, V2026):
        raise SenryuError("version_unknown", version=version[:64])
    return version


def json_response(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """`value` as JSON."""
    return Response(encode_json(value), status_code=status, media_type="application/json", headers=headers)


def envelope(error: SenryuError, request_id: str) -> dict[str, Any]:
    """The one shape of every error, in a body or in an `error` event."""
    what: dict[str, Any] = {"type": error.type, "message": error.message}
    if error.detail:
        what["details"] = {"error_code": error.detail}
    return {"type": "error", "error": what, "request_id": request_id}


def bad_http(why: str) -> bytes:
    """A whole response, for what no application was asked about."""
    id = new_id("req_")
    body = encode_json(envelope(SenryuError("bad_http", why=why), id))
    head = f"HTTP/1.1 400 Bad Request\r\nrequest-id: {id}\r\ncontent-type: application/json\r\nconnection: close\r\n"
    return head.encode() + b"content-length: %d\r\n\r\n" % len(body) + body


def usage_of(usage: Usage) -> dict[str, Any]:
    """Tokens of a turn as the Messages API reports them, as they are billed."""
    return {
        "input_tokens": usage.input_tokens,
        "cache_creation_input_tokens": usage.cache_write_5m + usage.cache_write_1h,
        "cache_read_input_tokens": usage.cache_read,
        "output_tokens": usage.output_tokens,
    }


def full_usage(usage: Usage, tier: str = "standard") -> dict[str, Any]:
    """`usage_of` with the split by time to live and the tier, as in a Message."""
    return {
        **usage_of(usage),
        "cache_creation": {
            "ephemeral_5m_input_tokens": usage.cache_write_5m,
            "ephemeral_1h_input_tokens": usage.cache_write_1h,
        },
        "service_tier": tier,
        "inference_geo": "not_available",
    }


def block_json(block: Text | ToolUse) -> dict[str, Any]:
    """A block of an answer."""
    if isinstance(block, ToolUse):
        return {"type": "tool_use", "id": block.id, "name": block.name, "input": block.input}
    text: dict[str, Any] = {"type": "text", "text": block.text}
    if block.citations:
        text["citations"] = [citation_json(citation) for citation in block.citations]
    return text


def citation_json(citation: Citation) -> dict[str, Any]:
    """A citation; its kind decides how the place in the source is named."""
    place: dict[str, Any]
    match citation.kind:
        case "char_location":
            place = {"start_char_index": citation.start, "end_char_index": citation.end}
        case "page_location":
            place = {"start_page_number": citation.start, "end_page_number": citation.end}
        case _:
            place = {"start_block_index": citation.start, "end_block_index": citation.end}
    if citation.kind == "search_result_location":
        origin = {"source": citation.source, "search_result_index": citation.index, "title": citation.title}
    else:
        origin = {"document_index": citation.index, "document_title": citation.title, "file_id": citation.file_id}
    return {"type": citation.kind, "cited_text": citation.text, **origin, **place}


def diagnostics_json(miss: CacheMiss | None) -> dict[str, Any] | None:
    """Why the cache was missed; null where it was not."""
    if miss is None:
        return None
    reason: dict[str, Any] = {"type": miss.reason}
    if miss.missed_tokens is not None:
        reason["cache_missed_input_tokens"] = miss.missed_tokens
    return {"cache_miss_reason": reason}


def new_message(started: Started, diagnose: bool = False) -> dict[str, Any]:
    """A Message as it stands before its first token; `content`, `stop_reason` and `usage` fill up.

    diagnose: whether the caller asked for diagnostics.
    """
    message: dict[str, Any] = {
        "id": started.id,
        "type": "message",
        "role": "assistant",
        "model": started.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": full_usage(started.usage),
    }
    if diagnose:
        message["diagnostics"] = diagnostics_json(started.miss)
    return message
