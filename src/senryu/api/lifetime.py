"""How long an answer is wanted: until the caller hangs up, or the server is told twice to stop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from starlette.types import Receive

from senryu.errors import SenryuError

T = TypeVar("T")


class CallerGone(Exception):
    """The caller hung up, or was dropped for taking nothing: nobody is left to answer."""


class Drain:
    """A stop in two steps. `begin`: no new requests, running answers finish. `cut`: running answers end now.

    watchers: what `cut` calls, each once.
    """

    def __init__(self) -> None:
        self.begun = False
        self.was_cut = False
        self.watchers: set[Callable[[], None]] = set()

    def begin(self) -> None:
        """From here on new requests are refused."""
        self.begun = True

    def cut(self) -> None:
        """On the event loop's thread. An answer whose end has come already is still finished."""
        self.was_cut = True
        for watcher in self.watchers:
            asyncio.get_running_loop().call_soon(watcher)


async def while_wanted(work: Awaitable[T], receive: Receive, drain: Drain) -> T:
    """The result of `work`, which is cancelled as soon as nobody wants it.

    Raises CallerGone when the caller hangs up first, SenryuError("overloaded") when the server is cut. The body of the
    request must have been read: `receive` is watched for the disconnect here, whatever the server above would do.
    """
    watch = _Watch(receive, drain)
    try:
        return await work
    except asyncio.CancelledError:
        if watch.why is None or watch.cancelled_by_others:
            raise
        raise watch.why from None
    finally:
        watch.end()


class _Watch:
    """Cancels the task that it is made in when its work is wanted no more, and says why.

    It does so between two steps of the task, hence inside of the work and never behind it: `end` comes before any other await.
    """

    def __init__(self, receive: Receive, drain: Drain) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.why: Exception | None = None
        self._task, self._before, self._drain = task, task.cancelling(), drain
        self._watching = True
        self._caller = asyncio.create_task(_hang_up(receive))
        self._caller.add_done_callback(self._gone)
        drain.watchers.add(self._cut)
        if drain.was_cut:
            asyncio.get_running_loop().call_soon(self._cut)

    @property
    def cancelled_by_others(self) -> bool:
        return self._task.cancelling() > self._before + 1

    def end(self) -> None:
        """The work is over, one way or another."""
        self._watching = False
        self._drain.watchers.discard(self._cut)
        self._caller.cancel()
        if self.why is not None:
            self._task.uncancel()

    def _gone(self, caller: asyncio.Task[None]) -> None:
        if not caller.cancelled():
            caller.exception()  # a server that cannot tell has no caller either
            self._stop(CallerGone())

    def _cut(self) -> None:
        self._stop(SenryuError("overloaded"))

    def _stop(self, why: Exception) -> None:
        if self._watching and self.why is None:
            self.why = why
            self._task.cancel()


async def _hang_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
