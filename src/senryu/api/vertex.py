"""The Claude models as Google's Vertex AI serves them: the Messages API's bodies and answers under addresses of its own.

What is wrong with an address or a credential, and a rate that is used up, is answered in Google's shape; what is wrong with a
request in the Messages API's.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from senryu.api.betas import read_betas
from senryu.api.body import parse_body
from senryu.api.desk import Desk
from senryu.api.doors import Door
from senryu.api.hosted import open_body, placed
from senryu.api.messages import message_response
from senryu.api.parse import MessagesRequest, Parser
from senryu.api.sse import EventStream
from senryu.api.wire import V2023, V2026, envelope, json_response
from senryu.errors import SenryuError
from senryu.types import Turn

LOCATION = "/v1/projects/{project}/locations/{location}"
FIRST = "vertex-2023-10-16"
VERSIONS = {FIRST: V2023, V2023: V2023, V2026: V2026}
BODY_BYTES = 30 * 1024 * 1024
COUNTER = "count-tokens"  # stands where a model's name would
METHODS = ("rawPredict", "streamRawPredict")  # whether an answer is streamed is said in the body
GOOGLE: dict[str, tuple[str, str]] = {  # code -> Google's name of the status; the message where ours names other headers
    "no_route": ("NOT_FOUND", ""),
    "publisher_unknown": ("NOT_FOUND", ""),
    "publisher_model": ("NOT_FOUND", ""),
    "no_batch_prediction": ("NOT_FOUND", ""),
    "origin": ("PERMISSION_DENIED", ""),
    "rate_limited": ("RESOURCE_EXHAUSTED", ""),
    "rate_never": ("RESOURCE_EXHAUSTED", ""),
    "key_missing": (
        "UNAUTHENTICATED",
        "Request is missing required authentication credential. Send this server's API key as `Authorization: Bearer KEY`.",
    ),
    "key_wrong": (
        "UNAUTHENTICATED",
        "Request had invalid authentication credentials. Send this server's API key as `Authorization: Bearer KEY`.",
    ),
}


def _refusal(error: SenryuError, request_id: str) -> Response:
    if error.code not in GOOGLE:
        return json_response(envelope(error, request_id), error.status)
    status, message = GOOGLE[error.code]
    wrapped = {"code": error.status, "message": message or error.message, "status": status}
    return json_response({"error": wrapped}, error.status)


VERTEX = Door("vertex", lambda path: path.startswith(("/vertex/", "/v1/projects/")), _refusal)


class Vertex:
    """The endpoints."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk

    def routes(self) -> list[Route]:
        """To be mounted at the root and under a prefix."""
        return [
            Route(LOCATION + "/publishers/{publisher}/models/{called:path}", self.predict, methods=["POST"]),
            Route(LOCATION + "/batchPredictionJobs{rest:path}", self.batches, methods=["POST", "GET"]),
        ]

    async def predict(self, request: Request) -> Response | EventStream:
        """models/MODEL:rawPredict, models/MODEL:streamRawPredict and models/count-tokens:rawPredict."""
        params = request.path_params
        if params["publisher"] != "anthropic":
            raise SenryuError("publisher_unknown", publisher=params["publisher"][:128])
        model, _, method = params["called"].rpartition(":")
        if not model or method not in METHODS:
            raise SenryuError("no_route", method=request.method, path=request.scope["path"][:128])
        if model == COUNTER:
            return await self._count(request)
        self._check(model, params)
        body = await self.desk.body(request, BODY_BYTES)
        asked, headers = await parse_body(body, partial(self._read, request, model))
        return await message_response(self.desk, request, asked, headers)

    async def batches(self, request: Request) -> Response:
        """Raises SenryuError("no_batch_prediction")."""
        raise SenryuError("no_batch_prediction")

    async def _count(self, request: Request) -> Response:
        body = await self.desk.body(request, BODY_BYTES)
        turn, headers = await parse_body(body, partial(self._read_count, request))
        return json_response({"input_tokens": await self.desk.count(request, turn)}, headers=headers)

    def _read(self, request: Request, model: str, body: Any) -> tuple[MessagesRequest, dict[str, str]]:
        parser, rest = open_body(body, VERSIONS, partial(self._parser, request))
        return parser.create(placed(parser, rest, model=model)), parser.headers

    def _read_count(self, request: Request, body: Any) -> tuple[Turn, dict[str, str]]:
        """The body names the model; of its version Google's own examples say nothing."""
        parser, rest = open_body(body, VERSIONS, partial(self._parser, request), default=FIRST)
        return parser.count(rest), parser.headers

    def _parser(self, request: Request, version: str, betas: frozenset[str]) -> Parser:
        return Parser(
            version,
            self.desk.service.registry.canonical,
            betas=betas | read_betas(request.headers.getlist("anthropic-beta")),
            lenient=self.desk.lenient,
            tenant=request.state.tenant,
            files=False,
        )

    def _check(self, model: str, params: dict[str, str]) -> None:
        """Raises SenryuError("publisher_model") for a model that is not here."""
        try:
            self.desk.service.registry.resolve(model)
        except SenryuError as error:
            where = f"projects/{params['project']}/locations/{params['location']}"
            name = f"{where}/publishers/anthropic/models/{model}"
            raise SenryuError("publisher_model", name=name[:256]) from error
