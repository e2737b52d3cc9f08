"""Events as server-sent events.

Order of one stream:

    message_start
    [content_block_start -> ping -> content_block_delta+ -> content_block_stop]     not for an empty answer
    message_delta -> message_stop

A `ping` also whenever nothing was sent for a while; `error` in place of the rest when the answer fails midway.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from starlette.types import Receive, Scope, Send

from senryu.api.lifetime import CallerGone, Drain, while_wanted
from senryu.api.wire import encode_json, envelope, new_message, usage_of
from senryu.errors import SenryuError
from senryu.types import Event, Started, TextDelta

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
BLOCK_START = frame({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}})
BLOCK_STOP = frame({"type": "content_block_stop", "index": 0})
MESSAGE_STOP = frame({"type": "message_stop"})


def frames(event: Event, first_text: bool) -> bytes:
    """The frames that one event of a turn becomes. `first_text`: no text was sent before it."""
    if isinstance(event, Started):
        return frame({"type": "message_start", "message": new_message(event)})
    if isinstance(event, TextDelta):
        delta = frame({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": event.text}})
        return BLOCK_START + PING + delta if first_text else delta
    end = {"stop_reason": event.stop_reason, "stop_sequence": event.stop_sequence}
    finish = frame({"type": "message_delta", "delta": end, "usage": usage_of(event.usage)})
    return (b"" if first_text else BLOCK_STOP) + finish + MESSAGE_STOP


class EventStream:
    """An ASGI response: a turn's events as they come, closed when the caller hangs up or the server is cut."""

    def __init__(self, started: Started, events: AsyncGenerator[Event, None], drain: Drain, request_id: str) -> None:
        self.started, self.events, self.drain, self.request_id = started, events, drain, request_id
        self.last_sent = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        last = b""
        async with aclosing(self.events):
            await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
            try:
                await while_wanted(self._write_all(send), receive, self.drain)
            except CallerGone:
                return
            except SenryuError as error:
                last = frame(envelope(error, self.request_id))
            except Exception:
                logger.exception("%s failed midway", self.request_id)
                last = frame(envelope(SenryuError("internal"), self.request_id))
        await send({"type": "http.response.body", "body": last, "more_body": False})

    async def _write_all(self, send: Send) -> None:
        pinger = asyncio.create_task(self._keep_alive(send))
        try:
            first_text = True
            await self._write(send, frames(self.started, first_text))
            async for event in self.events:
                await self._write(send, frames(event, first_text))
                first_text = first_text and not isinstance(event, TextDelta)
        finally:
            pinger.cancel()

    async def _write(self, send: Send, data: bytes) -> None:
        """Waits while the caller takes nothing, until the server drops it."""
        self.last_sent = asyncio.get_running_loop().time()
        await send({"type": "http.response.body", "body": data, "more_body": True})

    async def _keep_alive(self, send: Send) -> None:
        """A ping whenever the stream was silent, as during a long prefill: proxies cut silent connections."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(PING_SECONDS)
            if loop.time() - self.last_sent >= PING_SECONDS:
                await self._write(send, PING)
