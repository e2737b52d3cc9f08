"""The body of a request: bytes within a limit, then strict JSON. Nothing that Python merely tolerates gets past here."""

from __future__ import annotations

import asyncio
import json
import math
import re
from collections.abc import AsyncGenerator, Callable
from typing import Any, TypeVar

from starlette.requests import Request

from senryu.api.lifetime import CallerGone
from senryu.errors import SenryuError

T = TypeVar("T")
BODY_BYTES = 32 * 1024 * 1024
INLINE_BYTES = 128 * 1024  # a longer body is decoded off the event loop
SLOW = (b"input_examples", b"\\u")  # examples are compared with schemas; an escape may hide the word
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_ESCAPE = re.compile(r"\\(?:u([dD][89abAB]..)(\\u[dD][c-fC-F]..)?|u([dD][c-fC-F]..)|.)", re.DOTALL)


async def read_body(request: Request, stall_timeout: float, most: int = BODY_BYTES) -> bytes:
    """The whole body, of at most so many bytes. Raises as `body_chunks`."""
    return b"".join([chunk async for chunk in body_chunks(request, stall_timeout, most)])


async def body_chunks(request: Request, stall_timeout: float, most: int) -> AsyncGenerator[bytes, None]:
    """The body as it comes.

    Raises SenryuError when it is too large or stops coming for `stall_timeout` seconds, CallerGone when the caller hangs up.
    """
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length[:20]) > most:
        raise SenryuError("too_large")
    size, more = 0, True
    while more:
        try:
            async with asyncio.timeout(stall_timeout):
                message = await request.receive()
        except TimeoutError as error:
            raise SenryuError("body_stalled") from error
        if message["type"] == "http.disconnect":
            raise CallerGone
        chunk, more = message.get("body", b""), message.get("more_body", False)
        size += len(chunk)
        if size > most:
            raise SenryuError("too_large")
        yield chunk


async def parse_body(body: bytes, parse: Callable[[Any], T]) -> T:
    """Decode `body` and make something of it with `parse`; off the event loop when that may take long."""
    if len(body) <= INLINE_BYTES and not any(word in body for word in SLOW):
        return parse(decode_json(body))
    return await asyncio.to_thread(lambda: parse(decode_json(body)))


def decode_json(body: bytes) -> Any:
    """Strict JSON: UTF-8, no NaN or infinity, no repeated key, no lone surrogate, bounded depth and digits.

    Raises SenryuError("bad_json").
    """
    try:
        text = body.decode("utf-8")
        if _SURROGATE.search(text):
            _check_surrogates(text)
        if text.startswith("\ufeff"):
            raise json.JSONDecodeError("Unexpected UTF-8 BOM (decode using utf-8-sig)", text, 0)
        return _decoder.decode(text)
    except RecursionError:
        raise SenryuError("bad_json", why="nested too deeply") from None
    except UnicodeDecodeError as error:
        raise SenryuError("bad_json", why=f"{error.reason} (byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise SenryuError("bad_json", why=error) from None
    except ValueError as error:
        why = "a number has too many digits" if "digits" in str(error) else error
        raise SenryuError("bad_json", why=why) from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        seen: set[str] = set()
        repeated = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f'repeated key "{repeated[:128]}"')
    return result


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError("a number is out of range")
    return value


_decoder = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant, parse_float=_float)


def _check_surrogates(text: str) -> None:
    for match in _ESCAPE.finditer(text):
        high, low, lone = match.groups()
        if (high and not low) or lone:
            why = "invalid high surrogate in string" if lone else "no low surrogate in string"
            raise json.JSONDecodeError(why, text, match.start())
