"""What AWS clients do, written for the tests alone: signing requests, and decoding event streams as they come."""

from __future__ import annotations

import hashlib
import hmac
import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlsplit

import httpx

KEY, SECRET = "AKIDEXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"


def signed_headers(
    url: str,
    body: bytes,
    *,
    key: str = KEY,
    secret: str = SECRET,
    now: datetime | None = None,
    service: str = "bedrock",
    **headers: str,
) -> dict[str, str]:
    """The headers of a POST, its signature among them. Addresses with dot segments are beyond it."""
    stamp = (now or datetime.now(UTC)).strftime("%Y%m%dT%H%M%SZ")
    parts = urlsplit(url)
    sent = {"host": parts.netloc, "x-amz-date": stamp, **headers}
    names = sorted(sent)
    listed = ";".join(names)
    canonical = f"POST\n{quote(parts.path)}\n{parts.query}\n"
    for name in names:
        canonical += f"{name}:{sent[name].strip()}\n"
    canonical += f"\n{listed}\n{hashlib.sha256(body).hexdigest()}"
    scope = f"{stamp[:8]}/us-west-2/{service}/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    signer = f"AWS4{secret}".encode()
    for part in [*scope.split("/"), text]:
        signer = hmac.new(signer, part.encode(), hashlib.sha256).digest()
    sent["authorization"] = f"AWS4-HMAC-SHA256 Credential={key}/{scope}, SignedHeaders={listed}, Signature={signer.hex()}"
    return sent


def post_signed(url: str, value: Any, **how: Any) -> httpx.Response:
    """A signed request."""
    body = json.dumps(value).encode()
    return httpx.post(url, content=body, headers=signed_headers(url, body, **how), timeout=60)


def crc32(data: bytes) -> int:
    """The checksum, bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xEDB88320 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


@dataclass
class Frames:
    """Whole frames out of pieces: (headers, payload) each. Raises AssertionError for one that is damaged."""

    found: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    left: bytes = b""

    def feed(self, data: bytes) -> None:
        """Another piece of the stream."""
        self.left += data
        while len(self.left) >= 12:
            total, head = (int.from_bytes(self.left[at : at + 4], "big") for at in (0, 4))
            assert int.from_bytes(self.left[8:12], "big") == crc32(self.left[:8])
            if len(self.left) < total:
                return
            one, self.left = self.left[:total], self.left[total:]
            assert int.from_bytes(one[-4:], "big") == crc32(one[:-4])
            self.found.append((_headers(one[12 : 12 + head]), one[12 + head : -4]))


def _headers(data: bytes) -> dict[str, str]:
    headers: dict[str, str] = {}
    while data:
        size = data[0]
        name, kind = data[1 : 1 + size].decode(), data[1 + size]
        assert kind == 7
        length = int.from_bytes(data[2 + size : 4 + size], "big")
        headers[name] = data[4 + size : 4 + size + length].decode()
        data = data[4 + size + length :]
    return headers


def read_stream(response: httpx.Response) -> list[tuple[str, dict[str, Any]]]:
    """(type of event or exception, payload without padding) of a whole stream."""
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/vnd.amazon.eventstream"
    frames = Frames()
    frames.feed(response.content)
    assert frames.left == b""
    read = []
    for headers, payload in frames.found:
        value = json.loads(payload)
        kind = headers[":message-type"]
        assert headers[":content-type"] == "application/json"
        assert ("p" in value) == (kind == "event")
        value.pop("p", None)
        read.append((headers[f":{kind}-type"], value))
    return read
