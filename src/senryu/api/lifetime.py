"""How long an answer is wanted: until the caller hangs up, or the server is told twice to stop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from starlette.types import Receive

from senryu.errors import SenryuError

T = TypeVar("T")


class CallerGone(Exception):
    """The caller hung up, or was dropped for taking nothing: nobody is left to answer."""


class Drain:
    """A stop in two steps. `begin`: no new requests, running answers finish. `cut`: running answers end now."""

    def __init__(self) -> None:
        self.begun = False
        self.cut = asyncio.Event()

    def begin(self) -> None:
        """From here on new requests are refused."""
        self.begun = True


async def while_wanted(work: Awaitable[T], receive: Receive, drain: Drain) -> T:
    """The result of `work`, which is cancelled as soon as nobody wants it.

    Raises CallerGone when the caller hangs up first, SenryuError("overloaded") when the server is cut. The body of the
    request must have been read: `receive` is watched for the disconnect here, whatever the server above would do.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.create_task(_hang_up(receive))
    cut = asyncio.create_task(drain.cut.wait())
    try:
        await asyncio.wait({task, gone, cut}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise CallerGone if gone.done() else SenryuError("overloaded")
    finally:
        for pending in (task, gone, cut):
            pending.cancel()
        await asyncio.gather(task, gone, cut, return_exceptions=True)


async def _hang_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
