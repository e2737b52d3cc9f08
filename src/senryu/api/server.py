"""Listening, dropping callers who take nothing or send endless headers, and stopping well: the first SIGTERM lets running
answers finish, the second ends them with an error event."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import sys
from collections.abc import Callable
from contextlib import closing
from types import FrameType
from typing import Any

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from senryu.api.lifetime import Drain
from senryu.api.tls import TlsProtocol, tls_context
from senryu.api.wire import bad_http
from senryu.config import Settings
from senryu.errors import SenryuError

HEAD_BYTES = 64 * 1024  # of a request's first line and headers


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_bind(settings: Settings) -> None:
    """Before a model is loaded: may we listen there, and can we?

    Raises SenryuError when anyone could call without a key, when the address is taken, and for TLS files that cannot be used.
    """
    if settings.api_key is None and not is_loopback(settings.host):
        raise SenryuError("open_bind", host=settings.host)
    tls_context(settings)
    listen(settings.host, settings.port).close()


def listen(host: str, port: int) -> socket.socket:
    """A socket bound to the address. Raises SenryuError("port_taken")."""
    sock: socket.socket | None = None
    try:
        family, kind, proto, _, address = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, proto)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
    except (OSError, OverflowError) as error:
        if sock is not None:
            sock.close()
        raise SenryuError("port_taken", host=host, port=port, why=getattr(error, "strerror", None) or error) from error
    return sock


class Http(HttpToolsProtocol):
    """uvicorn's HTTP with an end to headers: its parser collects them in quadratic time, and as many as come."""

    _in_head = False
    _read = _fields = 0  # bytes of the head that is being read: as they came, and in whole headers

    def data_received(self, data: bytes) -> None:
        begun = self._in_head
        super().data_received(data)
        if begun and self._in_head:
            self._read += len(data)
            if self._read > HEAD_BYTES and not self.transport.is_closing():
                self.send_400_response("Request headers are too large")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head, self._read, self._fields = True, 0, 0

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._fields += len(name) + len(value)
        if self._fields > HEAD_BYTES:
            raise ValueError("the parser stops, and uvicorn calls send_400_response")

    def on_headers_complete(self) -> None:
        self._in_head = False
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP is answered in the API's shape, too."""
        self.transport.write(bad_http(msg))
        self.transport.close()


class DrainServer(uvicorn.Server):
    """uvicorn with our own signals: begin the drain, then cut it, then leave at once; and without callers who stall."""

    def __init__(self, app: Starlette, settings: Settings, drain: Drain, ready: Callable[[str], None] | None = None) -> None:
        """ready: called with the base URL as soon as requests are accepted. Raises SenryuError for TLS files that fail."""
        context = tls_context(settings)
        self.scheme = "https" if context else "http"

        def encrypted(**how: Any) -> TlsProtocol:
            assert context is not None
            return TlsProtocol(Http(**how), context, settings.stall_timeout_s)

        http: Any = encrypted if context else Http
        config = uvicorn.Config(
            app,
            http=http,
            loop="asyncio" if sys.platform == "win32" else "uvloop",
            ws="none",
            lifespan="off",  # entered by ourselves, so that its errors are ours
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=75,  # longer than the SDKs keep idle connections, so that they close first
            timeout_graceful_shutdown=int(settings.drain_timeout_s),
        )
        super().__init__(config)
        self.app, self.drain, self.ready = app, drain, ready
        self.stall_timeout = settings.stall_timeout_s
        self.loop: asyncio.AbstractEventLoop | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self.loop = asyncio.get_running_loop()
        await super().startup(sockets)
        if self.ready is not None and sockets:
            host, port = sockets[0].getsockname()[:2]
            self.ready(f"{self.scheme}://{f'[{host}]' if ':' in host else host}:{port}")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if not self.should_exit:
            self.drain.begin()
            self.should_exit = True
        elif not self.drain.was_cut and self.loop is not None:
            self.loop.call_soon_threadsafe(self.drain.cut)
        else:
            self.force_exit = True

    def run_until_stopped(self, sock: socket.socket) -> None:
        """Serve on `sock` until told to stop, within the application's lifespan: that ends when the last answer is out."""

        async def main() -> None:
            async with self.app.router.lifespan_context(self.app):
                stalls = asyncio.create_task(self._drop_stalled())
                try:
                    await self.serve(sockets=[sock])
                finally:
                    stalls.cancel()

        with closing(sock), asyncio.Runner(loop_factory=self.config.get_loop_factory()) as runner:
            runner.run(main())

    async def _drop_stalled(self) -> None:
        """Abort every connection whose caller has taken nothing of what waits for it for `stall_timeout`.

        Whoever sends there then sees a caller who hung up. Finished answers count too: uvicorn closes a connection only
        when all is taken, so that one which nobody reads would hold up a stop until the drain's end.
        """
        loop = asyncio.get_running_loop()
        seen: dict[Any, tuple[int, float]] = {}  # connection -> bytes that wait, since when they have not become fewer
        while True:
            await asyncio.sleep(self.stall_timeout / 4)
            now = loop.time()
            before, seen = seen, {}
            for connection in list(self.server_state.connections):
                size = connection.transport.get_write_buffer_size()
                most, since = before.get(connection, (size, now))
                if size == 0:
                    continue
                seen[connection] = (size, now if size < most else since)
                if now - seen[connection][1] >= self.stall_timeout:
                    connection.transport.abort()
