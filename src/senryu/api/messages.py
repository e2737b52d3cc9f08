"""POST /v1/messages and /v1/messages/count_tokens: translates bodies to turns and events to answers, nothing else."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from senryu.api.betas import read_betas
from senryu.api.body import parse_body
from senryu.api.desk import Answer, Desk
from senryu.api.parse import MessagesRequest, Parser
from senryu.api.sse import EventStream, MessageFramer
from senryu.api.wire import api_version, block_json, full_usage, json_response, new_message
from senryu.errors import SenryuError
from senryu.ledger.prices import usd


class Messages:
    """The two endpoints."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    async def create(self, request: Request) -> Response | EventStream:
        """The answer as a Message, or as a stream of events."""
        parser = self._parser(request)
        asked = await parse_body(await self.desk.body(request), parser.create)
        return await message_response(self.desk, request, asked, parser.headers)

    async def count_tokens(self, request: Request) -> Response:
        """Tokens of the prompt, counted by the path that an answer takes."""
        parser = self._parser(request)
        turn = await parse_body(await self.desk.body(request), parser.count)
        return json_response({"input_tokens": await self.desk.count(request, turn)}, headers=parser.headers)

    def _parser(self, request: Request) -> Parser:
        """What reads the body of this request."""
        return Parser(
            api_version(request),
            self.desk.service.registry.canonical,
            betas=read_betas(request.headers.getlist("anthropic-beta")),
            lenient=self.desk.lenient,
            tenant=request.state.tenant,
        )


async def complete(request: Request) -> Response:
    """POST /v1/complete, the API before Messages. Raises SenryuError("no_completions")."""
    raise SenryuError("no_completions")


async def message_response(
    desk: Desk, request: Request, asked: MessagesRequest, headers: dict[str, str]
) -> Response | EventStream:
    """The answer to a request that was read, as a Message or as a stream of events. Raises as `Desk`."""
    diagnose = asked.turn.diagnose is not None
    if asked.stream:
        return await desk.stream(request, asked.turn, MessageFramer(diagnose), headers)
    answer = await desk.answer(request, asked.turn)
    response = json_response(message_json(answer, diagnose=diagnose), headers=headers)
    if request.headers.get("senryu-cost", "").lower() == "true":
        response.headers["senryu-cost-usd"] = usd(answer.finished.cost_nano)
    return response


def message_json(answer: Answer, *, tier: str = "standard", diagnose: bool = False) -> dict[str, Any]:
    """A whole answer as a Message. diagnose: see `new_message`."""
    return {
        **new_message(answer.started, diagnose),
        "content": [block_json(block) for block in answer.blocks],
        "stop_reason": answer.finished.stop_reason,
        "stop_sequence": answer.finished.stop_sequence,
        "usage": full_usage(answer.finished.usage, tier),
    }
