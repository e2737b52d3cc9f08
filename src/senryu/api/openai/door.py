"""The OpenAI-compatible door: its addresses, and the routes that lead to chat completions, completions, responses, models."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from senryu.api.body import parse_body
from senryu.api.desk import Desk
from senryu.api.doors import Door, speaks_claude
from senryu.api.openai.chat import ChatParser
from senryu.api.openai.chunks import ChatFramer, completion_json
from senryu.api.openai.completions import CompletionFramer, CompletionParser, text_completion_json
from senryu.api.openai.errors import VERSION_HEADERS, refusal
from senryu.api.openai.options import OPENAI, ChatOptions
from senryu.api.openai.response_events import ResponseFramer, response_json
from senryu.api.openai.responses import ResponseParser
from senryu.api.ratelimits import openai_rates
from senryu.api.sse import EventStream
from senryu.api.wire import json_response
from senryu.service.registry import Registry, Served

PATHS = ("/v1/chat/completions", "/v1/completions", "/v1/responses")
Answered = Response | EventStream
Endpoint = Callable[[Request], Awaitable[Any]]


def owns(path: str) -> bool:
    """Whether a path is OpenAI's alone."""
    return path.startswith("/openai/") or any(path == own or path.startswith(f"{own}/") for own in PATHS)


def shares(path: str, headers: Headers) -> bool:
    """The list of models has one address in both APIs."""
    return (path == "/v1/models" or path.startswith("/v1/models/")) and not speaks_claude(headers)


OPENAI_DOOR = Door("openai", owns, refusal, id_header="x-request-id", shares=shares, rates=openai_rates)


def by_headers(claude: Endpoint, openai: Endpoint) -> Endpoint:
    """An endpoint that answers every caller in the caller's own shape."""
    return partial(_by_headers, claude, openai)


async def _by_headers(claude: Endpoint, openai: Endpoint, request: Request) -> Any:
    return await (claude if speaks_claude(request.headers) else openai)(request)


class Chat:
    """POST /v1/chat/completions, in the shape that `options` make of it."""

    def __init__(self, desk: Desk, options: ChatOptions = OPENAI) -> None:
        self.desk, self.options = desk, options

    async def create(self, request: Request) -> Answered:
        """A completion, or a stream of chunks."""
        desk, options = self.desk, self.options
        parser = ChatParser(desk.service.registry, lenient=desk.lenient, tenant=request.state.tenant, options=options)
        asked = await parse_body(await desk.body(request), parser.create)
        headers = VERSION_HEADERS | parser.headers
        with asked.places.named():
            if asked.stream:
                return await desk.stream(request, asked.turn, ChatFramer(asked, options), headers)
            answer = await desk.answer(request, asked.turn)
        return json_response(completion_json(answer, asked, options), headers=headers)


class ModelList:
    """GET /v1/models and /v1/models/{id}."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry

    async def list(self, request: Request) -> Response:
        """Every model, newest first."""
        models = [_model_json(served) for served in self.registry.served()]
        return json_response({"object": "list", "data": models}, headers=VERSION_HEADERS)

    async def retrieve(self, request: Request) -> Response:
        """One model, by id or alias."""
        served = self.registry.resolve(request.path_params["model_id"])
        return json_response(_model_json(served), headers=VERSION_HEADERS)


class OpenAI:
    """All endpoints of the door."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.chat = Chat(desk)
        self.models = ModelList(desk.service.registry)

    def routes(self) -> list[Route]:
        """Those whose addresses nobody else has."""
        return [
            Route("/v1/chat/completions", self.chat.create, methods=["POST"]),
            Route("/v1/completions", self.complete, methods=["POST"]),
            Route("/v1/responses", self.respond, methods=["POST"]),
            Route("/v1/responses/input_tokens", self.count, methods=["POST"]),
        ]

    def model_routes(self) -> list[Route]:
        """Those whose addresses are the Claude API's, too."""
        return [
            Route("/v1/models", self.models.list, methods=["GET"]),
            Route("/v1/models/{model_id:path}", self.models.retrieve, methods=["GET"]),
        ]

    async def complete(self, request: Request) -> Answered:
        """POST /v1/completions: the text behind a prompt that has no template."""
        registry, desk = self.desk.service.registry, self.desk
        parser = CompletionParser(registry, lenient=desk.lenient, tenant=request.state.tenant)
        asked = await parse_body(await desk.body(request), parser.create)
        headers = VERSION_HEADERS | parser.headers
        model = registry.resolve(asked.turn.model).model
        with asked.places.named():
            if asked.stream:
                return await desk.stream(request, asked.turn, CompletionFramer(asked, model.text_of), headers)
            answer = await desk.answer(request, asked.turn)
        return json_response(text_completion_json(answer, asked, model.text_of), headers=headers)

    async def respond(self, request: Request) -> Answered:
        """POST /v1/responses."""
        desk = self.desk
        parser = ResponseParser(desk.service.registry, lenient=desk.lenient, tenant=request.state.tenant)
        asked = await parse_body(await desk.body(request), parser.create)
        headers = VERSION_HEADERS | parser.headers
        with asked.places.named():
            if asked.stream:
                return await desk.stream(request, asked.turn, ResponseFramer(asked), headers)
            answer = await desk.answer(request, asked.turn)
        return json_response(response_json(answer, asked), headers=headers)

    async def count(self, request: Request) -> Response:
        """POST /v1/responses/input_tokens: tokens of the prompt that such a body makes."""
        desk = self.desk
        parser = ResponseParser(desk.service.registry, lenient=desk.lenient, tenant=request.state.tenant)
        asked = await parse_body(await desk.body(request), parser.count)
        with asked.places.named():
            counted = await desk.count(request, asked.turn)
        told = {"object": "response.input_tokens", "input_tokens": counted}
        return json_response(told, headers=VERSION_HEADERS | parser.headers)


def _model_json(served: Served) -> dict[str, Any]:
    return {"id": served.id, "object": "model", "created": int(served.created.timestamp()), "owned_by": "senryu"}
