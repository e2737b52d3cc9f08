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
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Protocol

from starlette.types import Receive, Scope, Send

from senryu.api.lifetime import CallerGone, Drain, while_wanted
from senryu.api.wire import BARE_SEND, block_json, citation_json, encode_json, envelope, new_message, usage_of
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
_TEXT_HEAD = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":{"type":"text_delta","text":'
_TEXT_END = b"}}\n\n"


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
        self.index = -1
        self._diagnose = diagnose

    def of(self, event: Event) -> list[dict[str, Any]]:
        """What one event of a turn becomes."""
        match event:
            case Started():
                return [{"type": "message_start", "message": new_message(event, self._diagnose)}]
            case BlockStarted():
                self.index += 1
                return [*self._start(event.block)]
            case TextDelta():
                return [self._delta({"type": "text_delta", "text": event.text})]
            case InputDelta():
                return [self._delta({"type": "input_json_delta", "partial_json": event.json})]
            case CitationDelta():
                return [self._delta({"type": "citations_delta", "citation": citation_json(event.citation)})]
            case BlockStopped():
                return [{"type": "content_block_stop", "index": self.index}]
            case Finished():
                end = {"stop_reason": event.stop_reason, "stop_sequence": event.stop_sequence}
                delta = {"type": "message_delta", "delta": end, "usage": usage_of(event.usage)}
                return [delta, {"type": "message_stop"}]
        raise AssertionError(f"no event: {event!r}")

    def _start(self, block: Text | ToolUse) -> Iterator[dict[str, Any]]:
        """The first one is followed by a ping; a call's input begins with an empty piece."""
        yield {"type": "content_block_start", "index": self.index, "content_block": block_json(block)}
        if self.index == 0:
            yield {"type": "ping"}
        if isinstance(block, ToolUse):
            yield self._delta({"type": "input_json_delta", "partial_json": ""})

    def _delta(self, delta: dict[str, Any]) -> dict[str, Any]:
        return {"type": "content_block_delta", "index": self.index, "delta": delta}


class MessageFramer:
    """The Messages API's server-sent events. `diagnose`: see `new_message`."""

    content_type = EVENT_STREAM
    keep_alive = PING

    def __init__(self, diagnose: bool = False) -> None:
        self._events = MessageEvents(diagnose)
        self._text_head = b""  # of a delta of the block that is open

    def frames(self, event: Event) -> bytes:
        """The frames that one event of a turn becomes."""
        if type(event) is TextDelta:  # nearly all of them: what is the same in each is written once
            return self._text_head + encode_json(event.text) + _TEXT_END
        frames = b"".join(map(frame, self._events.of(event)))
        if type(event) is BlockStarted:
            self._text_head = _TEXT_HEAD % self._events.index
        return frames

    def failure(self, error: SenryuError, request_id: str) -> bytes:
        """An `error` event."""
        return frame(envelope(error, request_id))


class EventStream:
    """An ASGI response: a turn's events as they come, those of a group in one piece; closed when the caller hangs up or the
    server is cut. `first`: the group that begins, which is there already.
    """

    def __init__(
        self,
        first: Sequence[Event],
        groups: AsyncGenerator[Sequence[Event], None],
        framer: Framer,
        drain: Drain,
        request_id: str,
        headers: Mapping[str, str],
    ) -> None:
        self.first, self.groups, self.framer, self.drain, self.request_id = first, groups, framer, drain, request_id
        self.headers = [
            (b"content-type", framer.content_type.encode()),
            *HEADERS,
            *((name.encode(), value.encode()) for name, value in headers.items()),
        ]
        self.ended = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        last = b""
        async with aclosing(self.groups):
            await send({"type": "http.response.start", "status": 200, "headers": self.headers})
            try:
                await while_wanted(self._write_all(scope["state"].get(BARE_SEND, send)), receive, self.drain)
            except CallerGone:
                return
            except Exception as error:
                if not isinstance(error, SenryuError):
                    logger.exception("%s failed midway", self.request_id)
                    error = SenryuError("internal")
                last = self.framer.failure(error, self.request_id)
        if not self.ended:
            await send({"type": "http.response.body", "body": last, "more_body": False})

    async def _write_all(self, write: Send) -> None:
        """Waits while the caller takes nothing, until the server drops it."""
        pings = _Pings(write, self.framer.keep_alive)
        try:
            await self._write_group(self.first, write)
            async for group in self.groups:
                pings.silent = False
                await self._write_group(group, write)
        finally:
            pings.stop()

    async def _write_group(self, group: Sequence[Event], write: Send) -> None:
        body = b"".join(map(self.framer.frames, group))
        self.ended = isinstance(group[-1], Finished)
        if body or self.ended:
            await write({"type": "http.response.body", "body": body, "more_body": not self.ended})


class _Pings:
    """A ping whenever the stream was silent, as during a long prefill: proxies cut silent connections.

    keep_alive: the ping; empty where the shape has none. silent: nothing was written since the last look.
    """

    def __init__(self, write: Send, keep_alive: bytes) -> None:
        self.silent = True
        self._write, self._keep_alive, self._loop = write, keep_alive, asyncio.get_running_loop()
        self._ping: asyncio.Task[None] | None = None
        self._timer = self._loop.call_later(PING_SECONDS, self._look)

    def stop(self) -> None:
        self._timer.cancel()
        if self._ping:
            self._ping.cancel()

    def _look(self) -> None:
        if self.silent and self._keep_alive and (self._ping is None or self._ping.done()):
            self._ping = self._loop.create_task(self._send())
        self.silent = True
        self._timer = self._loop.call_later(PING_SECONDS, self._look)

    async def _send(self) -> None:
        await self._write({"type": "http.response.body", "body": self._keep_alive, "more_body": True})
