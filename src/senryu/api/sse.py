"""Events as server-sent events.

Order of one stream:

    message_start
    (content_block_start -> content_block_delta+ -> content_block_stop)*     a ping after the first start
    message_delta -> message_stop

A `ping` also whenever nothing was sent for a while; `error` in place of the rest when the answer fails midway.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

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
HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # nginx would hold events back
]


def frame(data: dict[str, Any]) -> bytes:
    """One event; its name is the data's type."""
    return b"event: %b\ndata: %b\n\n" % (data["type"].encode(), encode_json(data))


PING = frame({"type": "ping"})
MESSAGE_STOP = frame({"type": "message_stop"})
_TEXT_HEAD = b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%d,"delta":{"type":"text_delta","text":'
_TEXT_END = b"}}\n\n"


class Framer:
    """The frames of one stream: blocks are numbered as they come. `diagnose`: see `new_message`."""

    def __init__(self, diagnose: bool = False) -> None:
        self._index = -1
        self._diagnose = diagnose
        self._text_head = b""  # of a delta of the block that is open

    def frames(self, event: Event) -> bytes:
        """The frames that one event of a turn becomes."""
        if type(event) is TextDelta:  # nearly all of them: what is the same in each is written once
            return self._text_head + encode_json(event.text) + _TEXT_END
        match event:
            case Started():
                return frame({"type": "message_start", "message": new_message(event, self._diagnose)})
            case BlockStarted():
                self._index += 1
                self._text_head = _TEXT_HEAD % self._index
                start = {"type": "content_block_start", "index": self._index, "content_block": block_json(event.block)}
                return frame(start) + (PING if self._index == 0 else b"") + self._first_delta(event.block)
            case InputDelta():
                return self._delta({"type": "input_json_delta", "partial_json": event.json})
            case CitationDelta():
                return self._delta({"type": "citations_delta", "citation": citation_json(event.citation)})
            case BlockStopped():
                return frame({"type": "content_block_stop", "index": self._index})
            case Finished():
                end = {"stop_reason": event.stop_reason, "stop_sequence": event.stop_sequence}
                return frame({"type": "message_delta", "delta": end, "usage": usage_of(event.usage)}) + MESSAGE_STOP
        raise AssertionError(f"no event: {event!r}")

    def _first_delta(self, block: Text | ToolUse) -> bytes:
        """A call's input begins with an empty piece."""
        return self._delta({"type": "input_json_delta", "partial_json": ""}) if isinstance(block, ToolUse) else b""

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return frame({"type": "content_block_delta", "index": self._index, "delta": delta})


class EventStream:
    """An ASGI response: a turn's events as they come, those of a group in one piece; closed when the caller hangs up or the
    server is cut.

    What goes wrong before the turn has started is raised, for an answer of its own kind.
    """

    def __init__(
        self,
        groups: AsyncGenerator[Sequence[Event], None],
        framer: Framer,
        drain: Drain,
        request_id: str,
        headers: Mapping[str, str],
    ) -> None:
        self.groups, self.framer, self.drain, self.request_id = groups, framer, drain, request_id
        self.headers = [*HEADERS, *((name.encode(), value.encode()) for name, value in headers.items())]
        self.begun = self.ended = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        last = b""
        async with aclosing(self.groups):
            try:
                await while_wanted(self._write_all(send, scope["state"].get(BARE_SEND, send)), receive, self.drain)
            except CallerGone:
                return
            except Exception as error:
                if not self.begun:
                    raise
                if not isinstance(error, SenryuError):
                    logger.exception("%s failed midway", self.request_id)
                    error = SenryuError("internal")
                last = frame(envelope(error, self.request_id))
        if not self.ended:
            await send({"type": "http.response.body", "body": last, "more_body": False})

    async def _write_all(self, send: Send, write: Send) -> None:
        """Waits while the caller takes nothing, until the server drops it."""
        group = await anext(self.groups)
        await send({"type": "http.response.start", "status": 200, "headers": self.headers})
        self.begun = True
        pings = _Pings(write)
        try:
            await self._write_group(group, write)
            async for group in self.groups:
                pings.silent = False
                await self._write_group(group, write)
        finally:
            pings.stop()

    async def _write_group(self, group: Sequence[Event], write: Send) -> None:
        body = b"".join(map(self.framer.frames, group))
        self.ended = isinstance(group[-1], Finished)
        await write({"type": "http.response.body", "body": body, "more_body": not self.ended})


class _Pings:
    """A ping whenever the stream was silent, as during a long prefill: proxies cut silent connections.

    silent: nothing was written since the last look.
    """

    def __init__(self, write: Send) -> None:
        self.silent = True
        self._write, self._loop = write, asyncio.get_running_loop()
        self._ping: asyncio.Task[None] | None = None
        self._timer = self._loop.call_later(PING_SECONDS, self._look)

    def stop(self) -> None:
        self._timer.cancel()
        if self._ping:
            self._ping.cancel()

    def _look(self) -> None:
        if self.silent and (self._ping is None or self._ping.done()):
            self._ping = self._loop.create_task(self._send())
        self.silent = True
        self._timer = self._loop.call_later(PING_SECONDS, self._look)

    async def _send(self) -> None:
        await self._write({"type": "http.response.body", "body": PING, "more_body": True})
