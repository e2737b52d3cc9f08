"""Answers and events as Converse has them."""

from __future__ import annotations

from typing import Any

from senryu.api.bedrock import eventstream
from senryu.api.bedrock.converse_in import ConverseRequest
from senryu.api.bedrock.exceptions import failure
from senryu.api.bedrock.metrics import Stopwatch, written
from senryu.api.desk import Answer
from senryu.api.messages import message_json
from senryu.api.wire import new_message, usage_of
from senryu.errors import SenryuError
from senryu.types import (
    BlockStarted,
    BlockStopped,
    Citation,
    CitationDelta,
    Event,
    Finished,
    InputDelta,
    Started,
    Text,
    TextDelta,
    ToolUse,
    Usage,
)

PLACES = {  # our kind of a citation's place -> Converse's, and what counts its sources
    "char_location": ("documentChar", "documentIndex"),
    "page_location": ("documentPage", "documentIndex"),
    "content_block_location": ("documentChunk", "documentIndex"),
    "search_result_location": ("searchResultLocation", "searchResultIndex"),
}


def answer_json(asked: ConverseRequest, answer: Answer, watch: Stopwatch) -> dict[str, Any]:
    """A whole answer."""
    message = {"role": "assistant", "content": [_block(block) for block in answer.blocks]}
    return {
        "output": {"message": message},
        "stopReason": answer.finished.stop_reason,
        **_selected(asked, message_json(answer)),
        **_metadata(asked, answer.finished.usage, watch),
    }


class ConverseFramer:
    """One stream: messageStart, for each block its start (of a call), deltas and stop, messageStop, metadata."""

    content_type = eventstream.CONTENT_TYPE
    keep_alive = b""

    def __init__(self, asked: ConverseRequest, watch: Stopwatch) -> None:
        self._asked, self._watch = asked, watch
        self._index = -1
        self._message: dict[str, Any] = {}

    def frames(self, event: Event) -> bytes:
        """The frames that one event of a turn becomes."""
        self._watch.see(event)
        match event:
            case Started():
                self._message = new_message(event)
                return eventstream.event("messageStart", {"role": "assistant"})
            case BlockStarted():
                self._index += 1
                return self._start(event.block)
            case TextDelta():
                return self._delta({"text": event.text})
            case InputDelta():
                return self._delta({"toolUse": {"input": event.json}})
            case CitationDelta():
                return self._delta({"citation": _citation(event.citation)})
            case BlockStopped():
                return eventstream.event("contentBlockStop", {"contentBlockIndex": self._index})
            case Finished():
                return self._finish(event)

    def failure(self, error: SenryuError, request_id: str) -> bytes:
        """An exception frame."""
        return failure(error)

    def _start(self, block: Text | ToolUse) -> bytes:
        """Only calls have a start."""
        if isinstance(block, Text):
            return b""
        start = {"toolUse": {"toolUseId": block.id, "name": block.name}}
        return eventstream.event("contentBlockStart", {"start": start, "contentBlockIndex": self._index})

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return eventstream.event("contentBlockDelta", {"delta": delta, "contentBlockIndex": self._index})

    def _finish(self, event: Finished) -> bytes:
        end = {"stop_reason": event.stop_reason, "stop_sequence": event.stop_sequence, "usage": usage_of(event.usage)}
        message = {name: value for name, value in (self._message | end).items() if name != "content"}  # that was streamed
        stop = {"stopReason": event.stop_reason, **_selected(self._asked, message)}
        metadata = _metadata(self._asked, event.usage, self._watch)
        return eventstream.event("messageStop", stop) + eventstream.event("metadata", metadata)


def _block(block: Text | ToolUse) -> dict[str, Any]:
    if isinstance(block, ToolUse):
        return {"toolUse": {"toolUseId": block.id, "name": block.name, "input": block.input}}
    if not block.citations:
        return {"text": block.text}
    cited = [_citation(citation) for citation in block.citations]
    return {"citationsContent": {"content": [{"text": block.text}], "citations": cited}}


def _citation(citation: Citation) -> dict[str, Any]:
    kind, counter = PLACES[citation.kind]
    named = {"title": citation.title, "source": citation.source}
    return {
        **{name: value for name, value in named.items() if value is not None},
        "sourceContent": [{"text": citation.text}],
        "location": {kind: {counter: citation.index, "start": citation.start, "end": citation.end}},
    }


def _metadata(asked: ConverseRequest, usage: Usage, watch: Stopwatch) -> dict[str, Any]:
    """Usage, time, and how the request wanted to be served."""
    prompt = usage.input_tokens + usage.cache_read + written(usage)
    metadata: dict[str, Any] = {
        "usage": {
            "inputTokens": usage.input_tokens,
            "outputTokens": usage.output_tokens,
            "totalTokens": prompt + usage.output_tokens,
            "cacheReadInputTokens": usage.cache_read,
            "cacheWriteInputTokens": written(usage),
            "cacheDetails": [
                {"ttl": ttl, "inputTokens": count}
                for ttl, count in (("1h", usage.cache_write_1h), ("5m", usage.cache_write_5m))
                if count
            ],
        },
        "metrics": {"latencyMs": watch.latency_ms()},
    }
    if asked.latency:
        metadata["performanceConfig"] = {"latency": asked.latency}
    if asked.tier:
        metadata["serviceTier"] = {"type": asked.tier}
    return metadata


def _selected(asked: ConverseRequest, message: dict[str, Any]) -> dict[str, Any]:
    """`additionalModelResponseFields`: what JSON Pointers find in the Message; those to nothing are ignored."""
    selected: dict[str, Any] = {}
    for pointer in asked.pointers:
        keys = [key.replace("~1", "/").replace("~0", "~") for key in pointer.split("/")[1:]]
        found: Any = message
        for key in keys:
            found = found.get(key, _NOTHING) if isinstance(found, dict) else _NOTHING
        if found is _NOTHING:
            continue
        inner = selected
        for key in keys[:-1]:
            inner = inner.setdefault(key, {})
        inner[keys[-1]] = found
    return {"additionalModelResponseFields": selected} if selected else {}


_NOTHING: Any = object()
