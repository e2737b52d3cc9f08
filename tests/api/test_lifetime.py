"""Work for a caller: its result, or an end as soon as nobody wants it, and in neither case a trace behind it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from senryu.api.lifetime import CallerGone, Drain, while_wanted
from senryu.errors import SenryuError


class Caller:
    """Hangs up when told to. `receive` is what the server offers."""

    def __init__(self) -> None:
        self.left = asyncio.Event()

    async def receive(self) -> dict[str, Any]:
        await self.left.wait()
        return {"type": "http.disconnect"}


async def steps() -> None:
    """Time for whatever was left behind to show."""
    for _ in range(5):
        await asyncio.sleep(0)


async def none_left(drain: Drain) -> None:
    await steps()
    assert not drain.watchers
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert asyncio.current_task().cancelling() == 0  # type: ignore[union-attr]


class Work:
    """Waits until it is let go on; `cancelled` says that it was not."""

    def __init__(self, stubborn: bool = False) -> None:
        self.go, self.cancelled, self.stubborn = asyncio.Event(), False, stubborn

    async def run(self) -> str:
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            if not self.stubborn:
                raise
        return "done"


def run(test: Any) -> None:
    asyncio.run(test())


def test_the_result() -> None:
    async def test() -> None:
        drain, caller, work = Drain(), Caller(), Work()
        asyncio.get_running_loop().call_later(0.01, work.go.set)
        assert await while_wanted(work.run(), caller.receive, drain) == "done"
        drain.cut()
        caller.left.set()
        await none_left(drain)

    run(test)


@pytest.mark.parametrize("stubborn", [False, True])
@pytest.mark.parametrize("how", ["hangs up", "cut", "cut before"])
def test_nobody_wants_it(how: str, stubborn: bool) -> None:
    """Work that does not let itself be stopped is finished."""

    async def test() -> None:
        drain, caller, work = Drain(), Caller(), Work(stubborn)
        loop = asyncio.get_running_loop()
        if how == "cut before":
            drain.cut()
        else:
            loop.call_later(0.01, caller.left.set if how == "hangs up" else drain.cut)
        if stubborn:
            assert await while_wanted(work.run(), caller.receive, drain) == "done"
        else:
            with pytest.raises(CallerGone if how == "hangs up" else SenryuError):
                await while_wanted(work.run(), caller.receive, drain)
        assert work.cancelled
        await none_left(drain)

    run(test)


@pytest.mark.parametrize("also", [False, True])
def test_who_is_cancelled_by_others_stays_so(also: bool) -> None:
    """Also when the caller hangs up at the same moment."""

    async def test() -> None:
        drain, caller, work = Drain(), Caller(), Work()
        task = asyncio.create_task(while_wanted(work.run(), caller.receive, drain))
        await steps()
        if also:
            caller.left.set()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert work.cancelled
        await none_left(drain)

    run(test)


@pytest.mark.parametrize("first", ["work", "caller", "cut"])
@pytest.mark.parametrize("between", [0, 1, 2, 3])
def test_both_at_once_leave_nothing_behind(first: str, between: int) -> None:
    """Whichever comes first, and however close the other: one answer, and the task goes on undisturbed."""

    async def test() -> None:
        drain, caller, work = Drain(), Caller(), Work()
        moves = {"work": work.go.set, "caller": caller.left.set, "cut": drain.cut}
        order = [first, *(name for name in moves if name != first)]

        async def play() -> None:
            for name in order:
                moves[name]()
                for _ in range(between):
                    await asyncio.sleep(0)

        player = asyncio.create_task(play())
        try:
            assert await while_wanted(work.run(), caller.receive, drain) == "done"
        except (CallerGone, SenryuError):
            assert work.cancelled
        await player
        await none_left(drain)

    run(test)


def test_a_server_that_cannot_tell_has_no_caller() -> None:
    async def test() -> None:
        async def receive() -> dict[str, Any]:
            raise OSError("the connection is broken")

        drain, work = Drain(), Work()
        with pytest.raises(CallerGone):
            await while_wanted(work.run(), receive, drain)
        await none_left(drain)

    run(test)
