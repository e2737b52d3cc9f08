"""What another shape may add to chat completions: hooks over the parser, the completion and its chunks. No logic of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from senryu.api.dialect import Dialect
from senryu.api.fields import Fields
from senryu.api.openai.errors import error_json
from senryu.errors import SenryuError
from senryu.types import Finished, Started, Usage

USAGE_DETAILS = ("reasoning_tokens", "audio_tokens", "accepted_prediction_tokens", "rejected_prediction_tokens")


def usage_json(finished: Finished) -> dict[str, Any]:
    """Tokens of a turn. `cached_tokens` of the prompt were not computed again, whether or not anything was marked."""
    usage = finished.usage
    prompt = prompt_tokens(usage)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": usage.output_tokens,
        "total_tokens": prompt + usage.output_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.reused_tokens, "audio_tokens": 0},
        "completion_tokens_details": dict.fromkeys(USAGE_DETAILS, 0),
    }


def prompt_tokens(usage: Usage) -> int:
    """Tokens of the whole prompt."""
    return usage.input_tokens + usage.cache_write_5m + usage.cache_write_1h + usage.cache_read


def _no_fields(fields: Fields, dialect: Dialect) -> dict[str, Any]:
    return {}


def _served_model(asked: str, started: Started) -> str:
    return started.model


def _no_keys(finished: Finished | None) -> dict[str, Any]:
    return {}


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """The default is OpenAI's own shape.

    read: takes further fields of the body, and gives what they set of the Turn, by its names; it comes before the parser's own
    fields, so it may take those too. cache_control: texts, tools and the body may carry Claude's marker.
    id_prefix: of a completion's id. model: its name in the answer, from the one that was asked for. extra: in every completion
    and chunk. choice: further keys of a choice; of None in a chunk before the last.
    usage: the answer's. always_usage: a stream ends with it whether asked or not. failure: an error in a stream, as JSON.
    keep_alive: a comment of the stream.
    """

    read: Callable[[Fields, Dialect], dict[str, Any]] = _no_fields
    cache_control: bool = False
    id_prefix: str = "chatcmpl-"
    model: Callable[[str, Started], str] = _served_model
    extra: Mapping[str, Any] = field(default_factory=dict)
    choice: Callable[[Finished | None], dict[str, Any]] = _no_keys
    usage: Callable[[Finished], dict[str, Any]] = usage_json
    always_usage: bool = False
    failure: Callable[[SenryuError], dict[str, Any]] = error_json
    keep_alive: bytes = b": ping\n\n"


OPENAI = ChatOptions()
