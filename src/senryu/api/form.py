"""multipart/form-data as it streams: one part after the other, of any size, in the pieces in which it comes."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable
from dataclasses import dataclass

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from senryu.errors import SenryuError


@dataclass(frozen=True, slots=True)
class Part:
    """A part begins. filename "" and content_type "" where it names none."""

    name: str
    filename: str
    content_type: str


class _Reader:
    """The parser's callbacks: what it has found since it was last asked."""

    def __init__(self) -> None:
        self.found: list[Part | bytes] = []
        self.complete = False
        self._headers: dict[str, bytes] = {}
        self._name = self._value = b""

    def on_part_begin(self) -> None:
        self._headers = {}

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def on_header_end(self) -> None:
        self._headers[self._name.decode("latin-1").lower()] = self._value
        self._name = self._value = b""

    def on_headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get("content-disposition", b""))
        kind = self._headers.get("content-type", b"").decode("latin-1")
        self.found.append(Part(_text(options.get(b"name", b"")), _text(options.get(b"filename", b"")), kind))

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        self.found.append(data[start:end])

    def on_end(self) -> None:
        self.complete = True


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")


async def read_form(content_type: str, chunks: AsyncIterable[bytes]) -> AsyncGenerator[Part | bytes, None]:
    """The parts of a body, each followed by its bytes in pieces. Raises SenryuError("bad_form")."""
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise SenryuError("bad_form", why="content-type must be multipart/form-data with a boundary")
    reader = _Reader()
    names = ("part_begin", "header_field", "header_value", "header_end", "headers_finished", "part_data", "end")
    try:
        parser = MultipartParser(boundary, {f"on_{name}": getattr(reader, f"on_{name}") for name in names})  # type: ignore[arg-type]
        async for chunk in chunks:
            parser.write(chunk)
            found, reader.found = reader.found, []
            for item in found:
                yield item
    except FormParserError as error:
        raise SenryuError("bad_form", why=str(error)[:200]) from error
    if not reader.complete:
        raise SenryuError("bad_form", why="it ends too early")
