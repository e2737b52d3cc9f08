"""TLS between a socket and an HTTP protocol. What is encrypted waits in the socket's own buffer and nowhere else.

asyncio's own TLS keeps a second buffer that nobody can look into, and closes only when the caller says goodbye or half a minute
has passed. Here a caller who stalls, and one who leaves, is seen exactly as without TLS.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, cast

from senryu.api.wire import bad_http
from senryu.config import Settings
from senryu.errors import SenryuError

RECORD_BYTES = 64 * 1024  # that are decrypted at a time


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """What `tls_cert` and `tls_key` come to; None without them. Raises SenryuError when they cannot be used."""
    cert, key = settings.tls_cert, settings.tls_key
    if not cert and not key:
        return None
    if not cert or not key:
        missing, given = ("tls_key", "tls_cert") if cert else ("tls_cert", "tls_key")
        raise SenryuError("tls_half", given=given, missing=missing, flag="--" + missing.replace("_", "-"))
    for name, path in (("tls_cert", cert), ("tls_key", key)):
        try:
            with open(path, "rb") as file:
                file.read(1)
        except OSError as error:
            raise SenryuError("tls_unreadable", setting=name, path=path, why=error.strerror or error) from error
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(cert, key, password=_no_password)
    except (ssl.SSLError, ValueError) as error:
        raise SenryuError("tls_unusable", cert=cert, key=key, why=_why(error)) from error
    return context


def _no_password() -> str:
    """Asked for only when the key is encrypted: a server that starts by itself has nobody to ask."""
    raise ValueError("the key is encrypted with a password; write it without one")


def _why(error: Exception) -> str:
    if "KEY_VALUES_MISMATCH" in str(error):
        return "the key belongs to another certificate"
    return "one of the two is not in PEM, or not what it should be" if isinstance(error, ssl.SSLError) else str(error)


class TlsProtocol(asyncio.Protocol):
    """Decrypts what a socket brings for `inner`, which learns of the connection when the handshake is done.

    patience: seconds that the handshake may take.
    """

    def __init__(self, inner: asyncio.Protocol, context: ssl.SSLContext, patience: float) -> None:
        self._inner, self._patience = inner, patience
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._open = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._socket = cast(asyncio.Transport, transport)
        self._timer = asyncio.get_running_loop().call_later(self._patience, self._socket.abort)

    def data_received(self, data: bytes) -> None:
        self._incoming.write(data)
        try:
            if not self._open:
                self._tls.do_handshake()
                self._open = True
                self._timer.cancel()
                self._inner.connection_made(TlsTransport(self._socket, self))
            while not self._socket.is_closing() and (piece := self._tls.read(RECORD_BYTES)):
                self._inner.data_received(piece)
        except ssl.SSLWantReadError:
            self.flush()
        except ssl.SSLError as error:  # no TLS at all, none that we speak, or a goodbye
            if not self._open and error.reason == "HTTP_REQUEST":
                self._socket.write(bad_http("This server speaks HTTPS. Write https:// in place of http:// in the address."))
            self.close()
        else:
            self.close()

    def eof_received(self) -> bool | None:
        return self._inner.eof_received() if self._open else None

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        if self._open:
            self._inner.connection_lost(exc)

    def pause_writing(self) -> None:
        if self._open:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        if self._open:
            self._inner.resume_writing()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt and send; what the caller does not take waits in the socket's buffer."""
        left = memoryview(data)
        while left and not self._socket.is_closing():
            left = left[self._tls.write(left) :]
        self.flush()

    def flush(self) -> None:
        """Send what the handshake, answers and goodbyes have come to."""
        if (sent := self._outgoing.read()) and not self._socket.is_closing():
            self._socket.write(sent)

    def close(self) -> None:
        """Say goodbye and close when all is taken; the caller's own goodbye is not waited for."""
        if self._socket.is_closing():
            return
        with suppress(ssl.SSLError):
            if self._open:
                self._tls.unwrap()
        self.flush()
        self._socket.close()

    def info(self) -> dict[str, Any]:
        """What the connection is, by the names of `get_extra_info`."""
        return {"sslcontext": self._tls.context, "ssl_object": self._tls, "cipher": self._tls.cipher()}


class TlsTransport(asyncio.Transport):
    """The encrypted connection as an HTTP protocol sees it: everything but writing and closing is the socket's."""

    def __init__(self, socket: asyncio.Transport, protocol: TlsProtocol) -> None:
        super().__init__()
        self._socket, self._protocol = socket, protocol

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._protocol.info().get(name) or self._socket.get_extra_info(name, default)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._protocol.write(data)

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self._protocol.write(b"".join(list_of_data))

    def close(self) -> None:
        self._protocol.close()

    def abort(self) -> None:
        self._socket.abort()

    def is_closing(self) -> bool:
        return self._socket.is_closing()

    def pause_reading(self) -> None:
        self._socket.pause_reading()

    def resume_reading(self) -> None:
        self._socket.resume_reading()

    def is_reading(self) -> bool:
        return self._socket.is_reading()

    def get_write_buffer_size(self) -> int:
        return self._socket.get_write_buffer_size()

    def can_write_eof(self) -> bool:
        return False
