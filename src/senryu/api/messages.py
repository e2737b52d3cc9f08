"""POST /v1/messages and /v1/messages/count_tokens: translates bodies to turns and events to answers, nothing else."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from senryu.api.betas import read_betas
from senryu.api.body import parse_body, read_body
from senryu.api.lifetime import Drain, while_wanted
from senryu.api.parse import Parser
from senryu.api.sse import EventStream, Framer
from senryu.api.wire import api_version, block_json, full_usage, json_response, new_message
from senryu.config import Settings
from senryu.ledger.prices import usd
from senryu.service.turn import Service
from senryu.types import BlockStopped, Event, Finished, Started


class Messages:
    """The two endpoints, over one service."""

    def __init__(self, service: Service, settings: Settings, drain: Drain) -> None:
        self.service, self.drain = service, drain
        self.stall_timeout = settings.stall_timeout_s
        self.lenient = settings.profile == "lenient"

    async def create(self, request: Request) -> Response | EventStream:
        """The answer as a Message, or as a stream of events."""
        parser = self._parser(request)
        asked = await parse_body(await read_body(request, self.stall_timeout), parser.create)
        diagnose = asked.turn.diagnose is not None
        if not asked.stream:
            work = collect(self.service.run(asked.turn), diagnose=diagnose)
            message, cost = await while_wanted(work, request.receive, self.drain)
            response = json_response(message, headers=parser.headers)
            if request.headers.get("senryu-cost", "").lower() == "true":
                response.headers["senryu-cost-usd"] = usd(cost)
            return response
        groups = self.service.run_grouped(asked.turn)
        return EventStream(groups, Framer(diagnose), self.drain, request.state.request_id, headers=parser.headers)

    async def count_tokens(self, request: Request) -> Response:
        """Tokens of the prompt, counted by the path that an answer takes."""
        parser = self._parser(request)
        turn = await parse_body(await read_body(request, self.stall_timeout), parser.count)
        count = await while_wanted(self.service.count_tokens(turn), request.receive, self.drain)
        return json_response({"input_tokens": count}, headers=parser.headers)

    def _parser(self, request: Request) -> Parser:
        """What reads the body of this request."""
        return Parser(
            api_version(request),
            self.service.registry.canonical,
            betas=read_betas(request.headers.getlist("anthropic-beta")),
            lenient=self.lenient,
            tenant=request.state.tenant,
        )


async def collect(
    events: AsyncGenerator[Event, None], *, tier: str = "standard", diagnose: bool = False
) -> tuple[dict[str, Any], int]:
    """All events of a turn as one Message, and what it costs in nano-dollars."""
    message: dict[str, Any] = {}
    cost = 0
    async with aclosing(events):
        async for event in events:
            match event:
                case Started():
                    message = new_message(event, diagnose)
                case BlockStopped():
                    message["content"].append(block_json(event.block))
                case Finished():
                    message["stop_reason"] = event.stop_reason
                    message["stop_sequence"] = event.stop_sequence
                    message["usage"] = full_usage(event.usage, tier)
                    cost = event.cost_nano
    return message, cost
