"""GET /health: whether requests are answered. Needs no key."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from senryu import __version__
from senryu.api.lifetime import Drain
from senryu.api.wire import json_response
from senryu.service.registry import Registry


class Health:
    """The endpoint."""

    def __init__(self, registry: Registry, drain: Drain) -> None:
        self.registry, self.drain = registry, drain

    async def get(self, request: Request) -> Response:
        """200, or 503 while the server is stopping. Raises SenryuError("engine_closed") where an engine has failed."""
        if not self.drain.begun:
            self.registry.check()
        status = "draining" if self.drain.begun else "ok"
        return json_response({"status": status, "version": __version__}, 503 if self.drain.begun else 200)
