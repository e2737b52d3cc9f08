"""Where every wire shape has its turns run: a turn in; the whole answer, a stream of it or a count of tokens out.

Work ends as soon as the caller hangs up or the server is cut.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial

from starlette.requests import Request

from senryu.api.body import BODY_BYTES, read_body
from senryu.api.lifetime import Drain, while_wanted
from senryu.api.sse import EventStream, Framer
from senryu.config import Settings
from senryu.service.turn import Service
from senryu.types import BlockStopped, Event, Finished, Started, Text, ToolUse, Turn


@dataclass(frozen=True, slots=True)
class Answer:
    """All events of a turn, summed up."""

    started: Started
    blocks: tuple[Text | ToolUse, ...]
    finished: Finished


async def gather(events: AsyncGenerator[Event, None]) -> Answer:
    """The whole answer. Raises SenryuError when the turn cannot be run or fails midway."""
    async with aclosing(events):
        started = await anext(events)
        assert isinstance(started, Started)
        blocks: list[Text | ToolUse] = []
        async for event in events:
            if isinstance(event, BlockStopped):
                blocks.append(event.block)
            elif isinstance(event, Finished):
                return Answer(started, tuple(blocks), event)
    raise AssertionError("a turn ended without Finished")


class Desk:
    """One for all doors. Every method raises SenryuError for what is refused, CallerGone when nobody waits any more."""

    def __init__(self, service: Service, settings: Settings, drain: Drain) -> None:
        self.service, self.drain = service, drain
        self.lenient = settings.profile == "lenient"
        self._stall_timeout = settings.stall_timeout_s

    async def body(self, request: Request, most: int = BODY_BYTES) -> bytes:
        """The request's body, of at most so many bytes."""
        return await read_body(request, self._stall_timeout, most)

    async def answer(self, request: Request, turn: Turn) -> Answer:
        """The whole answer."""
        self._tell_rates(request, turn)
        return await while_wanted(gather(self.service.run(turn)), request.receive, self.drain)

    async def stream(
        self, request: Request, turn: Turn, framer: Framer, headers: Mapping[str, str] | None = None
    ) -> EventStream:
        """A response that streams the answer: refusals up to its first event are raised here, so that they get a status."""
        self._tell_rates(request, turn)
        groups = self.service.run_grouped(turn)
        first = await while_wanted(anext(groups), request.receive, self.drain)
        return EventStream(first, groups, framer, self.drain, request.state.request_id, headers or {})

    async def count(self, request: Request, turn: Turn) -> int:
        """Tokens of the prompt, counted by the path that an answer takes."""
        return await while_wanted(self.service.count_tokens(turn), request.receive, self.drain)

    def _tell_rates(self, request: Request, turn: Turn) -> None:
        """The edge writes them into the answer, or the refusal, when it goes out."""
        request.state.standing = partial(self.service.rates.standing, turn.tenant)
