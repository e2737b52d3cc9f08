"""GET /openapi.json. Needs no key: what it says, the source says too."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response

from senryu.api.doors import Door
from senryu.api.wire import encode_json
from senryu.config import Settings


class Description:
    """The endpoint."""

    def __init__(self, settings: Settings, doors: Sequence[Door]) -> None:
        self._settings, self._doors = settings, doors
        self._body = b""

    async def get(self, request: Request) -> Response:
        """The document, as JSON; made when it is first asked for."""
        if not self._body:
            from senryu.api.openapi.document import document  # here, for a start need not import it

            self._body = encode_json(document(request.app.routes, self._doors, self._settings))
        return Response(self._body, media_type="application/json")
