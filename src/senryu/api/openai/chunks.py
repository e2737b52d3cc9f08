"""Answers of POST /v1/chat/completions: an Answer -> a completion, events -> the chunks of a stream."""

from __future__ import annotations

import hashlib
import time
from functools import cache
from typing import Any

from senryu import __version__
from senryu.api.desk import Answer
from senryu.api.openai.chat import ChatRequest
from senryu.api.openai.options import OPENAI, ChatOptions
from senryu.api.sse import EVENT_STREAM
from senryu.api.wire import encode_json
from senryu.errors import SenryuError
from senryu.types import BlockStarted, Event, Finished, InputDelta, Started, StopReason, Text, TextDelta, ToolUse

DONE = b"data: [DONE]\n\n"
REASONS: dict[StopReason, str] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
}


def completion_json(answer: Answer, asked: ChatRequest, options: ChatOptions = OPENAI) -> dict[str, Any]:
    """A whole answer."""
    text = "".join(block.text for block in answer.blocks if isinstance(block, Text))
    calls = [block for block in answer.blocks if isinstance(block, ToolUse)]
    message: dict[str, Any] = {"role": "assistant", "content": text or (None if calls else ""), "refusal": None}
    if calls and asked.legacy:
        message["function_call"] = _function(calls[0])
    elif calls:
        message["tool_calls"] = [_call(call) for call in calls]
    choice = {
        "index": 0,
        "message": message,
        "logprobs": None,
        "finish_reason": finish_reason(answer.finished, asked.legacy),
        **options.choice(answer.finished),
    }
    head = _head(answer.started, asked, options, "chat.completion", int(time.time()))
    return {**head, "choices": [choice], "usage": options.usage(answer.finished)}


def finish_reason(finished: Finished, legacy: bool = False) -> str:
    """Why the answer ends."""
    reason = REASONS[finished.stop_reason]
    return "function_call" if legacy and reason == "tool_calls" else reason


def renamed(id: str, prefix: str) -> str:
    """An id of ours as another shape writes it; what follows the prefix stays, so that logs can be compared."""
    return prefix + id.partition("_")[2]


def data(value: dict[str, Any]) -> bytes:
    """One event that has no name."""
    return b"data: %b\n\n" % encode_json(value)


@cache
def fingerprint(model: str) -> str:
    """Names what answers: another version of the server, or another model, may write other tokens for the same seed."""
    return "fp_" + hashlib.sha256(f"{__version__} {model}".encode()).hexdigest()[:10]


class ChatFramer:
    """Writes one stream."""

    content_type = EVENT_STREAM

    def __init__(self, asked: ChatRequest, options: ChatOptions = OPENAI) -> None:
        self.keep_alive = options.keep_alive
        self._asked, self._options = asked, options
        self._usage = asked.include_usage or options.always_usage
        self._head: dict[str, Any] = {}
        self._calls = -1

    def frames(self, event: Event) -> bytes:
        """The chunks that one event of a turn becomes."""
        match event:
            case Started():
                self._head = _head(event, self._asked, self._options, "chat.completion.chunk", int(time.time()))
                return self._chunk({"role": "assistant", "content": "", "refusal": None})
            case BlockStarted(ToolUse() as call):
                self._calls += 1
                if self._asked.legacy:
                    return self._chunk({"function_call": _function(call, "")})
                return self._chunk({"tool_calls": [{"index": self._calls, **_call(call, "")}]})
            case TextDelta():
                return self._chunk({"content": event.text})
            case InputDelta():
                arguments = {"arguments": event.json}
                if self._asked.legacy:
                    return self._chunk({"function_call": arguments})
                return self._chunk({"tool_calls": [{"index": self._calls, "function": arguments}]})
            case Finished():
                last = self._chunk({}, event)
                usage = {**self._head, "choices": [], "usage": self._options.usage(event)}
                return last + (data(usage) if self._usage else b"") + DONE
        return b""

    def failure(self, error: SenryuError, request_id: str) -> bytes:
        """An event with the error, where a chunk would be."""
        return data(self._options.failure(error))

    def _chunk(self, delta: dict[str, Any], finished: Finished | None = None) -> bytes:
        choice = {
            "index": 0,
            "delta": delta,
            "logprobs": None,
            "finish_reason": finish_reason(finished, self._asked.legacy) if finished else None,
            **self._options.choice(finished),
        }
        return data({**self._head, "choices": [choice], **({"usage": None} if self._usage else {})})


def _head(started: Started, asked: ChatRequest, options: ChatOptions, kind: str, created: int) -> dict[str, Any]:
    return {
        "id": renamed(started.id, options.id_prefix),
        "object": kind,
        "created": created,
        "model": options.model(asked.turn.model, started),
        "system_fingerprint": fingerprint(started.model),
        **options.extra,
    }


def _call(call: ToolUse, arguments: str | None = None) -> dict[str, Any]:
    return {"id": renamed(call.id, "call_"), "type": "function", "function": _function(call, arguments)}


def _function(call: ToolUse, arguments: str | None = None) -> dict[str, Any]:
    """arguments: None for those that the call has."""
    return {"name": call.name, "arguments": encode_json(call.input).decode() if arguments is None else arguments}
