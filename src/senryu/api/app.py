"""The route table on one screen."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.types import Receive, Scope, Send

from senryu.api.batches import BatchRoutes, messages_shape
from senryu.api.bedrock.routes import BEDROCK, Bedrock
from senryu.api.desk import Desk
from senryu.api.doors import Door
from senryu.api.edge import Edge
from senryu.api.files import FileRoutes
from senryu.api.health import Health
from senryu.api.lifetime import Drain
from senryu.api.messages import Messages, complete
from senryu.api.models import Models
from senryu.api.openai.door import OPENAI_DOOR, OpenAI, by_headers
from senryu.api.openapi.served import Description
from senryu.api.openrouter import OPENROUTER, OpenRouter
from senryu.api.server import DrainServer, check_bind, listen
from senryu.api.vertex import VERTEX, Vertex
from senryu.config import Settings
from senryu.errors import SenryuError
from senryu.ledger.batches import BatchStore
from senryu.ledger.database import Database
from senryu.ledger.files import FileTable
from senryu.service.batch_runner import BatchRunner
from senryu.service.batches import RESULTS_KEPT, Batches
from senryu.service.files import Files
from senryu.service.rates import rates_of
from senryu.service.registry import Registry
from senryu.service.turn import Service
from senryu.service.usage_reader import UsageReader
from senryu.service.usage_writer import UsageWriter

__all__ = ["check_start", "create_app", "serve_model"]

DOORS: tuple[Door, ...] = (BEDROCK, VERTEX, OPENROUTER, OPENAI_DOOR)  # beside the Claude API, first match first


def create_app(registry: Registry, settings: Settings, drain: Drain | None = None) -> Starlette:
    """The ASGI application over the models of `registry`.

    Its lifespan opens the database and runs batches, and in the end closes database and engines. It raises SenryuError when the
    database cannot be opened.
    """
    drain = drain or Drain()
    database = Database(settings)
    usage = UsageWriter(database)
    uploaded = Files(FileTable(database), settings.files)
    service = Service(registry, settings, usage.add, uploaded, rates_of(settings))
    store = BatchStore(database)
    how: dict[str, Any] = {"concurrency": settings.batch_concurrency, "kept": RESULTS_KEPT, "stopping": lambda: drain.begun}
    runner = BatchRunner(service, store, messages_shape(registry, settings), **how)
    desk = Desk(service, settings, drain)
    messages = Messages(desk)
    batches = BatchRoutes(Batches(store, runner), settings)
    files = FileRoutes(uploaded, settings)
    models, bedrock = Models(registry), Bedrock(desk, settings)
    vertex, openai, openrouter = Vertex(desk), OpenAI(desk), OpenRouter(desk, UsageReader(database, usage))

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(registry.close)
            await stack.enter_async_context(database)
            await stack.enter_async_context(usage.writing())
            await stack.enter_async_context(uploaded.sweeping())
            await stack.enter_async_context(runner.running())
            yield

    claude = claude_routes(messages, batches, files, models)
    routes = [
        *message_routes(messages),  # most asked, so tried first
        Route("/health", Health(registry, drain).get, methods=["GET"]),
        Route("/openapi.json", Description(settings, DOORS).get, methods=["GET"]),
        Mount("/anthropic", routes=claude),  # where SDKs of hosted services look for them
        *bedrock.routes(messages=claude),
        Mount("/vertex", routes=[*vertex.routes(), Mount("/", nowhere)]),
        *vertex.routes(),
        Mount("/openai", routes=[*openai.routes(), *openai.model_routes(), Mount("/", nowhere)]),
        *openai.routes(),
        Route("/v1/models", by_headers(models.list, openai.models.list), methods=["GET"]),
        Route("/v1/models/{model_id:path}", by_headers(models.retrieve, openai.models.retrieve), methods=["GET"]),
        Mount("/api", routes=[*openrouter.routes(), *message_routes(messages), Mount("/", nowhere)]),
        *claude,
    ]
    edge = Middleware(Edge, api_key=settings.api_key, drain=drain, doors=DOORS)
    return Starlette(routes=routes, middleware=[edge], lifespan=lifespan, exception_handlers={HTTPException: unmatched})


def message_routes(messages: Messages) -> list[Route]:
    """A conversation's, without anything that is kept."""
    return [
        Route("/v1/messages", messages.create, methods=["POST"]),
        Route("/v1/messages/count_tokens", messages.count_tokens, methods=["POST"]),
    ]


def claude_routes(messages: Messages, batches: BatchRoutes, files: FileRoutes, models: Models) -> list[BaseRoute]:
    """The Claude API, and in the end whatever leads nowhere."""
    return [
        *message_routes(messages),
        Route("/v1/messages/batches", batches.create, methods=["POST"]),
        Route("/v1/messages/batches", batches.list, methods=["GET"]),
        Route("/v1/messages/batches/{batch_id}", batches.retrieve, methods=["GET"]),
        Route("/v1/messages/batches/{batch_id}", batches.delete, methods=["DELETE"]),
        Route("/v1/messages/batches/{batch_id}/cancel", batches.cancel, methods=["POST"]),
        Route("/v1/messages/batches/{batch_id}/results", batches.results, methods=["GET"]),
        Route("/v1/files", files.create, methods=["POST"]),
        Route("/v1/files", files.list, methods=["GET"]),
        Route("/v1/files/{file_id}", files.retrieve, methods=["GET"]),
        Route("/v1/files/{file_id}", files.delete, methods=["DELETE"]),
        Route("/v1/files/{file_id}/content", files.content, methods=["GET"]),
        Route("/v1/models", models.list, methods=["GET"]),
        Route("/v1/models/{model_id:path}", models.retrieve, methods=["GET"]),
        Route("/v1/complete", complete, methods=["POST"]),
        Mount("/", nowhere),  # any other address or method
    ]


async def nowhere(scope: Scope, receive: Receive, send: Send) -> None:
    """Where no route leads. Raises SenryuError("no_route")."""
    raise SenryuError("no_route", method=scope["method"], path=scope["path"][:128])


async def unmatched(request: Request, error: Exception) -> Response:
    """Where not even a catch-all leads: a newline in the address, a method that HTTP has not. Raises as `nowhere`."""
    raise SenryuError("no_route", method=request.method, path=request.scope["path"][:128])


def check_start(settings: Settings) -> None:
    """Before a model is loaded: can we listen, and open the database? Raises SenryuError."""
    check_bind(settings)

    async def open_and_close() -> None:
        async with Database(settings):
            pass

    asyncio.run(open_and_close())


def serve_model(registry: Registry, settings: Settings, *, ready: Callable[[str], None] | None = None) -> None:
    """Serve `registry` until SIGTERM or Ctrl-C, then finish running answers and close the engines.

    `ready` is called with the base URL when requests are accepted. Raises SenryuError when it cannot listen, or open
    its database.
    """
    check_bind(settings)
    drain = Drain()
    server = DrainServer(create_app(registry, settings, drain), settings, drain, ready)
    server.run_until_stopped(listen(settings.host, settings.port))
