"""What every answer of ours shares: ids, JSON bytes, the error envelope, the API version of a request."""

from __future__ import annotations

import secrets
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from senryu.errors import SenryuError
from senryu.types import Started, Usage

encode_json = msgspec.json.Encoder().encode
_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"

V2023 = "2023-06-01"
V2026 = "2026-10-21"


def new_id(prefix: str) -> str:
    """`prefix` and 24 characters that nobody guesses."""
    return prefix + "01" + "".join(secrets.choice(_ALPHABET) for _ in range(22))


def api_version(request: Request) -> str:
    """The version that the caller speaks. Raises SenryuError when it is missing or not one of ours."""
    version = request.headers.get("anthropic-version")
    if not version:
        raise SenryuError("version_missing")
    if version not in (V2023, V2026):
        raise SenryuError("version_unknown", version=version[:64])
    return version


def json_response(value: Any, status: int = 200) -> Response:
    """`value` as JSON."""
    return Response(encode_json(value), status_code=status, media_type="application/json")


def envelope(error: SenryuError, request_id: str) -> dict[str, Any]:
    """The one shape of every error, in a body or in an `error` event."""
    return {"type": "error", "error": {"type": error.type, "message": error.message}, "request_id": request_id}


def usage_of(usage: Usage) -> dict[str, Any]:
    """Tokens of a turn as the Messages API reports them. The cache counters are what is billed."""
    return {
        "input_tokens": usage.input_tokens,
        "cache_creation_input_tokens": usage.cache_creation_input_tokens,
        "cache_read_input_tokens": usage.cache_read_input_tokens,
        "output_tokens": usage.output_tokens,
    }


def new_message(started: Started) -> dict[str, Any]:
    """A Message as it stands before its first token; `content`, `stop_reason` and `usage` fill up."""
    return {
        "id": new_id("msg_"),
        "type": "message",
        "role": "assistant",
        "model": started.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": full_usage(started.usage),
    }


def full_usage(usage: Usage) -> dict[str, Any]:
    """`usage_of` with the split by time to live and the tier, as in a Message."""
    return {
        **usage_of(usage),
        "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
        "service_tier": "standard",
        "inference_geo": "not_available",
    }
