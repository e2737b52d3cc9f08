"""The route table on one screen."""

from __future__ import annotations

from collections.abc import Callable

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.types import Receive, Scope, Send

from senryu import __version__
from senryu.api.edge import Edge
from senryu.api.lifetime import Drain
from senryu.api.messages import Messages
from senryu.api.models import Models
from senryu.api.server import DrainServer, check_bind, listen
from senryu.api.wire import json_response
from senryu.config import Settings
from senryu.errors import SenryuError
from senryu.service.registry import Registry
from senryu.service.turn import Service

__all__ = ["check_bind", "create_app", "serve_model"]


def create_app(registry: Registry, settings: Settings, drain: Drain | None = None) -> Starlette:
    """The ASGI application over the models of `registry`."""
    drain = drain or Drain()
    messages = Messages(Service(registry, settings), settings, drain)
    models = Models(registry)

    async def health(request: Request) -> Response:
        if not drain.begun:
            registry.check()
        status = "draining" if drain.begun else "ok"
        return json_response({"status": status, "version": __version__}, 503 if drain.begun else 200)

    routes = [
        Route("/v1/messages", messages.create, methods=["POST"]),
        Route("/v1/messages/count_tokens", messages.count_tokens, methods=["POST"]),
        Route("/v1/models", models.list, methods=["GET"]),
        Route("/v1/models/{model_id:path}", models.retrieve, methods=["GET"]),
        Route("/v1/complete", complete, methods=["POST"]),
        Mount("/", nowhere),  # any other address or method
    ]
    everywhere = [
        Route("/health", health, methods=["GET"]),
        Mount("/anthropic", routes=routes),  # where SDKs of hosted services look for them
        *routes,
    ]
    return Starlette(routes=everywhere, middleware=[Middleware(Edge, api_key=settings.api_key, drain=drain)])


async def complete(request: Request) -> Response:
    """The API before Messages. Raises SenryuError("no_completions")."""
    raise SenryuError("no_completions")


async def nowhere(scope: Scope, receive: Receive, send: Send) -> None:
    """Where no route leads. Raises SenryuError("no_route")."""
    raise SenryuError("no_route", method=scope["method"], path=scope["path"][:128])


def serve_model(registry: Registry, settings: Settings, *, ready: Callable[[str], None] | None = None) -> None:
    """Serve `registry` until SIGTERM or Ctrl-C, then finish running answers and close the engines.

    `ready` is called with the base URL when requests are accepted. Raises SenryuError when it cannot listen.
    """
    check_bind(settings)
    drain = Drain()
    server = DrainServer(create_app(registry, settings, drain), settings, drain, ready)
    server.run_until_stopped(listen(settings.host, settings.port), registry.close)
