"""What happens to every request before and after its route: request id, key, web origins, the error envelope. Pure ASGI.

Every key is a tenant: requests without one share the tenant "". How a refusal looks is the door's business.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from senryu.api.doors import Door, door_of, sent_key
from senryu.api.lifetime import CallerGone, Drain
from senryu.api.ratelimits import EXPOSED, retry_headers
from senryu.api.server import is_loopback
from senryu.api.wire import BARE_SEND
from senryu.errors import SenryuError
from senryu.service.ids import new_id

logger = logging.getLogger("senryu.api")
EXPOSED_NAMES = ", ".join(("request-id", "x-request-id", "senryu-ignored", "senryu-cost-usd", *EXPOSED)).encode()
OPEN_PATHS = frozenset({"/health", "/openapi.json"})


class Edge:
    """Wraps the routes of all doors."""

    def __init__(self, app: ASGIApp, api_key: str | None, drain: Drain, doors: Sequence[Door] = ()) -> None:
        self.app, self.doors = app, doors
        self.key = api_key.encode() if api_key else None
        self.drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = new_id("req_")
        headers = Headers(scope=scope)
        door = door_of(self.doors, scope["path"], headers)
        state = {"request_id": request_id, "tenant": tenant_of(sent_key(headers)), BARE_SEND: send}
        scope.setdefault("state", {}).update(state)
        extra = [(name.encode(), request_id.encode()) for name in {"request-id", door.id_header}] + _cors(headers)
        started = False

        async def send_with(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                rates = door.rates(told()) if (told := scope["state"].get("standing")) else {}
                told_rates = [(name.encode(), value.encode()) for name, value in rates.items()]
                message = {**message, "headers": [*message.get("headers", ()), *extra, *told_rates]}
            await send(message)

        try:
            self._check_origin(headers)
            if scope["method"] == "OPTIONS":
                response: Response = Response(status_code=204)
            else:
                self._admit(scope, headers, door)
                await self.app(scope, receive, send_with)
                return
        except CallerGone:
            return
        except SenryuError as error:
            response = door.refusal(error, request_id)
            response.headers.update(retry_headers(error))
            if error.status == 408:
                response.headers["connection"] = "close"  # the rest of the body is not worth waiting for
        except Exception:
            logger.exception("%s failed", request_id)
            if started:
                raise
            response = door.refusal(SenryuError("internal"), request_id)
        await response(scope, receive, send_with)

    def _admit(self, scope: Scope, headers: Headers, door: Door) -> None:
        """Raises SenryuError unless the caller's key is right, or for the route to check, and the server is not stopping."""
        if scope["path"] in OPEN_PATHS:
            return
        if self.key is not None and not door.signed(headers):
            sent = sent_key(headers)
            if not sent:
                raise SenryuError("key_missing")
            if not hmac.compare_digest(sent.encode(), self.key):
                raise SenryuError("key_wrong")
        if self.drain.begun:
            raise SenryuError("overloaded")

    def _check_origin(self, headers: Headers) -> None:
        """Without a key, only pages of this machine may call: a web page elsewhere must not use the visitor's server."""
        origin = headers.get("origin")
        if self.key is None and origin and not is_loopback(_host(origin)):
            raise SenryuError("origin", origin=origin[:128])


def _host(origin: str) -> str:
    """Of a web origin; "" where it has none."""
    try:
        return urlsplit(origin).hostname or ""
    except ValueError:
        return ""


def tenant_of(key: str) -> str:
    """A name for the caller of this key that does not give the key away; the same after a restart."""
    return hashlib.sha256(key.encode()).hexdigest()[:32] if key else ""


def _cors(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Headers for browsers; which origins may call at all is decided elsewhere."""
    if "origin" not in headers:
        return []
    asked = headers.get("access-control-request-headers", "*")
    return [
        (b"access-control-allow-origin", b"*"),
        (b"access-control-allow-methods", b"GET, POST, DELETE, OPTIONS"),
        (b"access-control-allow-headers", asked.encode("latin-1", "replace")),
        (b"access-control-expose-headers", EXPOSED_NAMES),
        (b"access-control-max-age", b"3600"),
    ]
