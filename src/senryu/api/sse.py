"""Events as they are streamed: the response that carries them in any wire shape, and the Messages API's server-sent events.

Order of one stream:

    message_start
    (content_block_start -> content_block_delta+ -> content_block_stop)*     a ping after the first start
    message_delta -> message_stop

A `ping` also whenever nothing was sent for a while; `error` in place of the rest when the answer fails midway.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing
from typing import Any, Protocol

from starlette.types import Receive, Scope, Send

from senryu.api.lifetime import CallerGone, Drain, while_wanted
from senryu.api.wire import block_json, citation_json, encode_json, envelope, new_message, usage_of
from senryu.errors import SenryuError
from senryu.types import (
    BlockStarted,
    BlockStopped,
    CitationDelta,
    Event,
    Finished,
    InputDelta,
    Started,
    Text,
    TextDelta,
    ToolUse,
)

logger = logging.getLogger("senryu.api")
PING_SECONDS = 10.0
EVENT_STREAM = "text/event-stream; charset=utf-8"
HEADERS = [
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # nginx would hold events back
]


def frame(data: dict[str, Any]) -> bytes:
    """One event; its name is the data's type."""
    return b"event: %b\ndata: %b\n\n" % (data["type"].encode(), encode_json(data))


PING = frame({"type": "ping"})


class Framer(Protocol):
    """How one wire shape writes a stream. One for each stream: it may count what it has written."""

    content_type: str
    keep_alive: bytes  # what may be sent at any time and says nothing; empty where the shape has no such thing

    def frames(self, event: Event) -> bytes:
        """What one event of a turn becomes; may be empty."""

    def failure(self, error: SenryuError, request_id: str) -> bytes:
        """The end of a stream whose answer failed midway."""


class MessageEvents:
    """A turn's events as the Messages API names them: blocks are numbered as they come. `diagnose`: see `new_message`."""

    def __init__(self, diagnose: bool = False) -> None:
        self._index = -1
        self._diagnose = diagnose

    def of(self, event: Event) -> list[dict[str, Any]]:
        """What one event of a turn becomes."""
        match event:
            case Started():
                return [{"type": "message_start", "message": new_message(event, self._diagnose)}]
            case BlockStarted():
                self._index += 1
                return [*self._start(event.block)]
            case TextDelta():
                return [self._delta({"type": "text_delta", "text": event.text})]
            case InputDelta():
                return [self._delta({"type": "input_json_delta", "partial_json": event.json})]
            case CitationDelta():
                return [self._delta({"type": "citations_delta", "citation": citation_json(event.citation)})]
            case BlockStopped():
                return [{"type": "content_block_stop", "index": self._index}]
            case Finished():
                end = {"stop_reason": event.stop_reason, "stop_sequence": event.stop_sequence}
                delta = {"type": "message_delta", "delta": end, "usage": usage_of(event.usage)}
                return [delta, {"type": "message_stop"}]

    def _start(self, block: Text | ToolUse) -> Iterator[dict[str, Any]]:
        """The first one is followed by a ping; a call's input begins with an empty piece."""
        yield {"type": "content_block_start", "index": self._index, "content_block": block_json(block)}
        if self._index == 0:
            yield {"type": "ping"}
        if isinstance(block, ToolUse):
            yield self._delta({"type": "input_json_delta", "partial_json": ""})

    def _delta(self, delta: dict[str, Any]) -> dict[str, Any]:
        return {"type": "content_block_delta", "index": self._index, "delta": delta}


class MessageFramer:
    """The Messages API's server-sent events. `diagnose`: see `new_message`."""

    content_type = EVENT_STREAM
    keep_alive = PING

    def __init__(self, diagnose: bool = False) -> None:
        self._events = MessageEvents(diagnose)

    def frames(self, event: Event) -> bytes:
        """The frames that one event of a turn becomes."""
        return b"".join(map(frame, self._events.of(event)))

    def failure(self, error: SenryuError, request_id: str) -> bytes:
        """An `error` event."""
        return frame(envelope(error, request_id))


class EventStream:
    """An ASGI response: a turn's events as they come, closed when the caller hangs up or the server is cut."""

    def __init__(
        self,
        started: Started,
        events: AsyncGenerator[Event, None],
        framer: Framer,
        drain: Drain,
        request_id: str,
        headers: Mapping[str, str],
    ) -> None:
        self.started, self.events, self.framer, self.drain, self.request_id = started, events, framer, drain, request_id
        self.headers = [
            (b"content-type", framer.content_type.encode()),
            *HEADERS,
            *((name.encode(), value.encode()) for name, value in headers.items()),
        ]
        self.last_sent = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        last = b""
        async with aclosing(self.events):
            await send({"type": "http.response.start", "status": 200, "headers": self.headers})
            try:
                await while_wanted(self._write_all(send), receive, self.drain)
            except CallerGone:
                return
            except SenryuError as error:
                last = self.framer.failure(error, self.request_id)
            except Exception:
                logger.exception("%s failed midway", self.request_id)
                last = self.framer.failure(SenryuError("internal"), self.request_id)
        await send({"type": "http.response.body", "body": last, "more_body": False})

    async def _write_all(self, send: Send) -> None:
        pinger = asyncio.create_task(self._keep_alive(send)) if self.framer.keep_alive else None
        try:
            await self._write(send, self.framer.frames(self.started))
            async for event in self.events:
                await self._write(send, self.framer.frames(event))
        finally:
            if pinger:
                pinger.cancel()

    async def _write(self, send: Send, data: bytes) -> None:
        """Waits while the caller takes nothing, until the server drops it."""
        if not data:
            return
        self.last_sent = asyncio.get_running_loop().time()
        await send({"type": "http.response.body", "body": data, "more_body": True})

    async def _keep_alive(self, send: Send) -> None:
        """A ping whenever the stream was silent, as during a long prefill: proxies cut silent connections."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(PING_SECONDS)
            if loop.time() - self.last_sent >= PING_SECONDS:
                await self._write(send, self.framer.keep_alive)
