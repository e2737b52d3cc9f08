"""The Bedrock runtime's endpoints: checks who calls, reads the body, has the turn run and writes the answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route

from senryu.api.bedrock.converse_blocks import union
from senryu.api.bedrock.converse_in import LATENCIES, TIERS, ConverseReader, ConverseRequest
from senryu.api.bedrock.converse_out import ConverseFramer, answer_json
from senryu.api.bedrock.credentials import Credentials
from senryu.api.bedrock.exceptions import refusal
from senryu.api.bedrock.invoke import InvokeFramer, read_invoke
from senryu.api.bedrock.metrics import COUNTS, Stopwatch, count_headers
from senryu.api.bedrock.sigv4 import is_signed
from senryu.api.body import decode_json, parse_body
from senryu.api.desk import Desk
from senryu.api.doors import Door
from senryu.api.fields import Fields, base64_bytes, choice
from senryu.api.messages import message_json
from senryu.api.parse import MessagesRequest, Parser
from senryu.api.sse import EventStream
from senryu.api.wire import json_response
from senryu.config import Settings
from senryu.errors import SenryuError
from senryu.types import Turn

BODY_BYTES = 25_000_000
PREFIX = "bedrock"
MESSAGES = f"/{PREFIX}/anthropic/"  # the Messages API on Bedrock: its plain routes
ELSEWHERE = (  # first parts of addresses that Amazon Bedrock has and this server has not
    "async-invoke",
    "custom-models",
    "evaluation-jobs",
    "foundation-models",
    "guardrail",
    "guardrail-checks",
    "guardrails",
    "imported-models",
    "inference-profiles",
    "model-copy-jobs",
    "model-customization-jobs",
    "model-import-jobs",
    "model-invocation-job",
    "model-invocation-jobs",
    "prompt-routers",
    "provisioned-model-throughput",
    "provisioned-model-throughputs",
)
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")
ARN = re.compile(
    r"arn:aws(?:-[a-z-]+)?:bedrock:[a-z0-9-]{1,20}:(?:[0-9]{12})?:"
    r"(?:foundation-model|inference-profile|application-inference-profile)/([a-zA-Z0-9.:-]+)"
)
ECHOED = {"PerformanceConfig-Latency": LATENCIES, "Service-Tier": TIERS}


def _owns(path: str) -> bool:
    head = path.split("/", 2)[1] if "/" in path else ""
    return head in (PREFIX, "model", *ELSEWHERE) and not path.startswith(MESSAGES)


BEDROCK = Door("bedrock", _owns, refusal, "x-amzn-requestid", is_signed)


def model_of(sent: str) -> str:
    """The model that an address names: as it is, or the last part of an ARN. Raises SenryuError("aws_model_id")."""
    if not sent.startswith("arn:"):
        return sent
    if not (found := ARN.fullmatch(sent)):
        raise SenryuError("aws_model_id")
    return found[1]


class Bedrock:
    """The endpoints; every one checks the caller's credentials itself."""

    def __init__(self, desk: Desk, settings: Settings) -> None:
        self.desk = desk
        self._credentials = Credentials(settings)

    def routes(self, messages: Sequence[BaseRoute]) -> list[BaseRoute]:
        """Under /bedrock, with the Messages API's routes under /bedrock/anthropic, and at the root."""
        runtime = [
            Route(f"/model/{{model_id:path}}/{operation}", endpoint, methods=["POST"])
            for operation, endpoint in (
                ("invoke", self.invoke),
                ("invoke-with-response-stream", self.invoke_stream),
                ("converse", self.converse),
                ("converse-stream", self.converse_stream),
                ("count-tokens", self.count_tokens),
            )
        ]
        others = [
            Route(f"/{head}{tail}", self.elsewhere, methods=METHODS)
            for head in ("model", *ELSEWHERE)
            for tail in ("", "/{rest:path}")
        ]
        anywhere = Route("/{rest:path}", self.elsewhere, methods=METHODS)
        under = Mount(f"/{PREFIX}", routes=[Mount("/anthropic", routes=messages), *runtime, anywhere])
        return [under, *runtime, *others]

    async def invoke(self, request: Request) -> Response:
        """InvokeModel."""
        watch, asked, headers = await self._read_invoke(request, stream=False)
        answer = await self.desk.answer(request, asked.turn)
        message = message_json(answer, diagnose=asked.turn.diagnose is not None)
        return json_response(message, headers={**headers, **count_headers(answer.finished.usage, watch)})

    async def invoke_stream(self, request: Request) -> EventStream:
        """InvokeModelWithResponseStream."""
        watch, asked, headers = await self._read_invoke(request, stream=True)
        headers[f"{COUNTS}Content-Type"] = "application/json"
        framer = InvokeFramer(watch, asked.turn.diagnose is not None)
        return await self.desk.stream(request, asked.turn, framer, headers)

    async def converse(self, request: Request) -> Response:
        """Converse."""
        watch, asked, headers = await self._read_converse(request)
        answer = await self.desk.answer(request, asked.turn)
        return json_response(answer_json(asked, answer, watch), headers=headers)

    async def converse_stream(self, request: Request) -> EventStream:
        """ConverseStream."""
        watch, asked, headers = await self._read_converse(request)
        return await self.desk.stream(request, asked.turn, ConverseFramer(asked, watch), headers)

    async def count_tokens(self, request: Request) -> Response:
        """CountTokens, of a body of either kind."""
        body = await self._body(request)
        turn, headers = await parse_body(body, partial(self._counted, request))
        return json_response({"inputTokens": await self.desk.count(request, turn)}, headers=headers)

    async def elsewhere(self, request: Request) -> Response:
        """Raises SenryuError("aws_elsewhere")."""
        path = request.scope["path"][:128]
        hint = " Batches run at POST /v1/messages/batches." if "/model-invocation-job" in path else ""
        raise SenryuError("aws_elsewhere", what=f"{request.method} {path}", hint=hint)

    async def _body(self, request: Request) -> bytes:
        """The body of a caller who may call."""
        claim = self._credentials.begin(request)
        body = await self.desk.body(request, BODY_BYTES)
        await self._credentials.finish(request, claim, body)
        return body

    async def _read_invoke(self, request: Request, stream: bool) -> tuple[Stopwatch, MessagesRequest, dict[str, str]]:
        watch = Stopwatch()
        if request.headers.get(f"{COUNTS}GuardrailIdentifier"):
            raise SenryuError("unsupported", path=f"{COUNTS}GuardrailIdentifier", what="guardrails are")
        echoed = {}
        for name, options in ECHOED.items():
            if (sent := request.headers.get(COUNTS + name)) is not None:
                echoed[COUNTS + name] = choice(sent, COUNTS + name, options)
        body = await self._body(request)
        read = partial(read_invoke, partial(self._parser, request), model_of(request.path_params["model_id"]), stream)
        asked, headers = await parse_body(body, read)
        return watch, asked, headers | echoed

    async def _read_converse(self, request: Request) -> tuple[Stopwatch, ConverseRequest, dict[str, str]]:
        watch = Stopwatch()
        body = await self._body(request)
        reader = self._converse_reader(request)
        return watch, await parse_body(body, reader.create), reader.headers

    def _converse_reader(self, request: Request) -> ConverseReader:
        resolve = self.desk.service.registry.resolve
        model = model_of(request.path_params["model_id"])
        return ConverseReader(partial(self._parser, request), model, lambda name: resolve(name).model.limits.output)

    def _counted(self, request: Request, body: Any) -> tuple[Turn, dict[str, str]]:
        fields = Fields(body)
        kind, inner, path = union(fields.take("input", lambda value, path: value), "input", ("invokeModel", "converse"))
        fields.finish()
        if kind == "converse":
            reader = self._converse_reader(request)
            return reader.count(inner, path), reader.headers
        invoked = Fields(inner, path)
        data = invoked.take("body", base64_bytes)
        invoked.finish()
        model = model_of(request.path_params["model_id"])
        asked, headers = read_invoke(partial(self._parser, request), model, False, decode_json(data))
        return asked.turn, headers

    def _parser(self, request: Request, version: str, betas: frozenset[str]) -> Parser:
        return Parser(
            version,
            self.desk.service.registry.canonical,
            betas=betas,
            lenient=self.desk.lenient,
            tenant=request.state.tenant,
            files=False,
        )
