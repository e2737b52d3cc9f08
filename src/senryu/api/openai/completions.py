"""POST /v1/completions: bodies -> turns with a raw prompt, events -> text completions."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from senryu.api.desk import Answer
from senryu.api.fields import Fields, boolean, natural, optional, string
from senryu.api.openai.chunks import DONE, data, fingerprint, finish_reason, renamed
from senryu.api.openai.errors import Places, error_json
from senryu.api.openai.options import usage_json
from senryu.api.openai.reading import QUIET, Quiet, Reading
from senryu.api.sse import EVENT_STREAM
from senryu.errors import SenryuError
from senryu.service.registry import Registry
from senryu.types import Event, Finished, Started, Text, TextDelta, Turn

MAX_TOKENS = 16  # where a body names none, as in the original
UNHEARD: Quiet = {
    **QUIET,
    "n": ("several choices are", (1,)),
    "best_of": ("several candidates are", (1,)),
    "logprobs": ("log probabilities are", ()),
    "logit_bias": ("biases of tokens are", ({},)),
    "frequency_penalty": ("penalties are", (0,)),
    "presence_penalty": ("penalties are", (0,)),
}
Raw = str | tuple[int, ...]
TextOf = Callable[[Raw], str]  # what a raw prompt says


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """A turn, and how its answer is to be written. echo: with the prompt before it. places: of what the service refuses."""

    turn: Turn
    raw: Raw
    echo: bool
    stream: bool
    include_usage: bool
    places: Places


class CompletionParser:
    """Parses one body. After `create`, `headers` name what the lenient profile passed over."""

    def __init__(self, registry: Registry, *, lenient: bool = False, tenant: str = "") -> None:
        self.reading = Reading(registry, lenient, tenant)

    @property
    def headers(self) -> dict[str, str]:
        """What the response says of the reading."""
        return self.reading.dialect.headers()

    def create(self, body: Any) -> CompletionRequest:
        """Raises SenryuError."""
        fields, reading = Fields(body), self.reading
        model = reading.model(fields)
        raw = fields.take("prompt", _prompt)
        max_tokens = fields.take_or("max_tokens", optional(natural), None)
        turn = Turn(
            model=model,
            messages=(),
            raw=raw,
            max_tokens=MAX_TOKENS if max_tokens is None else max_tokens,
            stop_sequences=reading.stops(fields),
            seed=reading.seed(fields),
            tenant=reading.tenant,
            **reading.sampling(fields),
        )
        echo = fields.take_or("echo", optional(boolean), None) or False
        if fields.take_or("suffix", optional(partial(string)), None):
            raise SenryuError("unsupported", path="suffix", what="texts to be filled in between two others are")
        stream, include_usage = reading.stream(fields)
        reading.hints(fields)
        reading.quiet(fields, UNHEARD)
        reading.dialect.finish(fields)
        return CompletionRequest(turn, raw, echo, stream, include_usage, Places("prompt"))


def text_completion_json(answer: Answer, asked: CompletionRequest, text_of: TextOf) -> dict[str, Any]:
    """A whole answer."""
    text = "".join(block.text for block in answer.blocks if isinstance(block, Text))
    echo = text_of(asked.raw) if asked.echo else ""
    return {
        **_head(answer.started, int(time.time())),
        "choices": [_choice(echo + text, answer.finished)],
        "usage": usage_json(answer.finished),
    }


class CompletionFramer:
    """Writes one stream."""

    content_type = EVENT_STREAM
    keep_alive = b": ping\n\n"

    def __init__(self, asked: CompletionRequest, text_of: TextOf) -> None:
        self._asked, self._text_of = asked, text_of
        self._head: dict[str, Any] = {}

    def frames(self, event: Event) -> bytes:
        """The chunks that one event of a turn becomes."""
        match event:
            case Started():
                self._head = _head(event, int(time.time()))
                return self._chunk(self._text_of(self._asked.raw)) if self._asked.echo else b""
            case TextDelta():
                return self._chunk(event.text)
            case Finished():
                usage = {**self._head, "choices": [], "usage": usage_json(event)}
                return self._chunk("", event) + (data(usage) if self._asked.include_usage else b"") + DONE
        return b""

    def failure(self, error: SenryuError, request_id: str) -> bytes:
        """An event with the error, where a chunk would be."""
        return data(error_json(error))

    def _chunk(self, text: str, finished: Finished | None = None) -> bytes:
        usage = {"usage": None} if self._asked.include_usage else {}
        return data({**self._head, "choices": [_choice(text, finished)], **usage})


def _head(started: Started, created: int) -> dict[str, Any]:
    return {
        "id": renamed(started.id, "cmpl-"),
        "object": "text_completion",
        "created": created,
        "model": started.model,
        "system_fingerprint": fingerprint(started.model),
    }


def _choice(text: str, finished: Finished | None) -> dict[str, Any]:
    return {"text": text, "index": 0, "logprobs": None, "finish_reason": finish_reason(finished) if finished else None}


def _prompt(value: Any, path: str) -> Raw:
    """A text, token ids, or a list with one of these."""
    if isinstance(value, list) and value and isinstance(value[0], str | list):
        if len(value) > 1:
            raise SenryuError("several_prompts", path=path)
        value, path = value[0], f"{path}.0"
    if not isinstance(value, list):
        return string(value, path)
    if all(type(item) is int and item >= 0 for item in value):
        return tuple(value)
    return tuple(natural(item, f"{path}.{index}") for index, item in enumerate(value))
