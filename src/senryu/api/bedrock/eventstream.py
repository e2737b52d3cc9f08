"""AWS event-stream frames: a name and a JSON value -> bytes with both checksums.

    u32 bytes of the frame | u32 bytes of its headers | u32 CRC32 of these eight
    headers, each: u8 length, name | u8 7, a string | u16 length, value
    payload
    u32 CRC32 of all before

Numbers are big-endian.
"""

from __future__ import annotations

import secrets
import struct
from collections.abc import Mapping
from typing import Any
from zlib import crc32

from senryu.api.wire import encode_json

CONTENT_TYPE = "application/vnd.amazon.eventstream"
JSON = "application/json"
STRING = 7
PADDING = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"


def frame(headers: Mapping[str, str], payload: bytes) -> bytes:
    """One frame. A header's name may have 255 bytes, its value 65,535."""
    head = b"".join(_header(name.encode(), value.encode()) for name, value in headers.items())
    prelude = struct.pack(">II", len(head) + len(payload) + 16, len(head))
    whole = b"".join((prelude, struct.pack(">I", crc32(prelude)), head, payload))
    return whole + struct.pack(">I", crc32(whole))


def event(kind: str, value: Mapping[str, Any]) -> bytes:
    """An event of that type. Its padding `p` keeps the sizes of frames from telling the lengths of their texts."""
    padded = {**value, "p": PADDING[: secrets.randbelow(len(PADDING)) + 1]}
    return frame({":event-type": kind, ":content-type": JSON, ":message-type": "event"}, encode_json(padded))


def exception(kind: str, message: str) -> bytes:
    """The end of a stream that failed."""
    return frame(
        {":exception-type": kind, ":content-type": JSON, ":message-type": "exception"}, encode_json({"message": message})
    )


def _header(name: bytes, value: bytes) -> bytes:
    return struct.pack(f">B{len(name)}sBH{len(value)}s", len(name), name, STRING, len(value), value)
