"""Answers of POST /v1/responses: an Answer -> a response, events -> the typed events of a stream.

Order of one stream, every event with a sequence_number:

    response.created -> response.in_progress
    (response.output_item.added -> response.content_part.added -> response.output_text.delta+ -> response.output_text.done
        -> response.content_part.done -> response.output_item.done                                              a text
     | response.output_item.added -> response.function_call_arguments.delta+ -> response.function_call_arguments.done
        -> response.output_item.done)*                                                                          a call
    response.completed | response.incomplete | response.failed
"""

from __future__ import annotations

import time
from typing import Any

from senryu.api.desk import Answer
from senryu.api.openai.chunks import renamed
from senryu.api.openai.errors import error_json
from senryu.api.openai.options import prompt_tokens
from senryu.api.openai.responses import ResponseRequest
from senryu.api.sse import EVENT_STREAM, frame
from senryu.api.wire import encode_json
from senryu.errors import SenryuError
from senryu.service.ids import new_id
from senryu.types import (
    BlockStarted,
    BlockStopped,
    Event,
    Finished,
    InputDelta,
    Started,
    Text,
    TextDelta,
    ToolUse,
)

CUT = ("max_tokens", "model_context_window_exceeded")
Json = dict[str, Any]


def response_json(answer: Answer, asked: ResponseRequest) -> Json:
    """A whole answer."""
    head = _head(answer.started, asked, int(time.time()))
    last = len(answer.blocks) - 1
    output = [
        item_json(block, item_id(block), _status(answer.finished) if number == last else "completed")
        for number, block in enumerate(answer.blocks)
    ]
    return {**head, **_end(answer.finished), "output": output}


def item_id(block: Text | ToolUse) -> str:
    """The id of an item of the output; a call's goes by its own."""
    return renamed(block.id, "fc_") if isinstance(block, ToolUse) else new_id("msg_")


def item_json(block: Text | ToolUse, id: str, status: str) -> Json:
    """An item of the output."""
    if isinstance(block, ToolUse):
        arguments = encode_json(block.input).decode() if status != "in_progress" else ""
        names = {"call_id": renamed(block.id, "call_"), "name": block.name, "arguments": arguments}
        return {"id": id, "type": "function_call", "status": status, **names}
    content = [] if status == "in_progress" else [_part(block.text)]
    return {"id": id, "type": "message", "status": status, "role": "assistant", "content": content}


class ResponseFramer:
    """Writes one stream."""

    content_type = EVENT_STREAM
    keep_alive = b": ping\n\n"

    def __init__(self, asked: ResponseRequest) -> None:
        self._asked = asked
        self._number = -1  # of the last event
        self._head: Json = {}
        self._output: list[Json] = []
        self._id = ""  # of the item that is open
        self._open: Text | ToolUse | None = None  # a block that is complete, but not its item: what ends it may have cut it

    def frames(self, event: Event) -> bytes:
        """The events that one event of a turn becomes."""
        match event:
            case Started():
                self._head = _head(event, self._asked, int(time.time()))
                created = self._event("response.created", response=self._head)
                return created + self._event("response.in_progress", response=self._head)
            case BlockStarted():
                return self._close("completed") + self._begin(event.block)
            case TextDelta():
                return self._inner("response.output_text.delta", content_index=0, delta=event.text, logprobs=[])
            case InputDelta():
                return self._inner("response.function_call_arguments.delta", delta=event.json)
            case BlockStopped():
                self._open = event.block
            case Finished():
                closed = self._close(_status(event))
                whole = {**self._head, **_end(event), "output": self._output}
                return closed + self._event(f"response.{whole['status']}", response=whole)
        return b""

    def failure(self, error: SenryuError, request_id: str) -> bytes:
        """The response has failed."""
        words = error_json(error)["error"]
        code = words["code"] or "server_error"
        failed = {
            **self._head,
            "status": "failed",
            "output": self._output,
            "error": {"code": code, "message": words["message"]},
        }
        return self._event("response.failed", response=failed)

    def _begin(self, block: Text | ToolUse) -> bytes:
        self._id = item_id(block)
        added = self._event(
            "response.output_item.added",
            output_index=len(self._output),
            item=item_json(block, self._id, "in_progress"),
        )
        if isinstance(block, ToolUse):
            return added
        return added + self._inner("response.content_part.added", content_index=0, part=_part(""))

    def _close(self, status: str) -> bytes:
        """The end of the open item, if there is one."""
        block, self._open = self._open, None
        if block is None:
            return b""
        item = item_json(block, self._id, status)
        if isinstance(block, ToolUse):
            names = {"name": block.name, "arguments": item["arguments"]}
            inner = self._inner("response.function_call_arguments.done", **names)
        else:
            inner = self._inner("response.output_text.done", content_index=0, text=block.text, logprobs=[])
            inner += self._inner("response.content_part.done", content_index=0, part=_part(block.text))
        done = self._event("response.output_item.done", output_index=len(self._output), item=item)
        self._output.append(item)
        return inner + done

    def _inner(self, kind: str, **fields: Any) -> bytes:
        """An event of the open item."""
        return self._event(kind, item_id=self._id, output_index=len(self._output), **fields)

    def _event(self, kind: str, **fields: Any) -> bytes:
        self._number += 1
        return frame({"type": kind, "sequence_number": self._number, **fields})


def _part(text: str) -> Json:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _status(finished: Finished) -> str:
    return "incomplete" if finished.stop_reason in CUT else "completed"


def _end(finished: Finished) -> Json:
    """What the end of an answer changes."""
    usage, status = finished.usage, _status(finished)
    prompt = prompt_tokens(usage)
    return {
        "status": status,
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        "usage": {
            "input_tokens": prompt,
            "input_tokens_details": {"cached_tokens": usage.reused_tokens},
            "output_tokens": usage.output_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": prompt + usage.output_tokens,
        },
    }


def _head(started: Started, asked: ResponseRequest, created: int) -> Json:
    """A response before its first token."""
    return {
        "id": renamed(started.id, "resp_"),
        "object": "response",
        "created_at": created,
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "max_tool_calls": None,
        "model": started.model,
        "output": [],
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "service_tier": "default",
        "store": False,
        "top_logprobs": 0,
        "truncation": "disabled",
        "usage": None,
        **asked.repeated,
    }
