"""The text of PDFs, read in a process of its own: whatever a file makes of the parser, time and memory end with that process.

The parser is pure Python and its input hostile: in the server, a file of a kilobyte could hold the interpreter for minutes.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import logging
import sys
import time
from typing import Any

from senryu.errors import SenryuError

MOST_PAGES = 100  # of all PDFs of a request
PAGE_BYTES = 4 * 1024 * 1024  # of one page's drawing instructions; text of a page takes some 20 KB
MOST_CHARACTERS = 16 * 1024 * 1024  # far past any window; forms that are drawn again and again repeat their text
READ_SECONDS = 60.0  # for one PDF
READ_MEMORY = 2 << 30  # bytes of address space

logging.getLogger("pypdf").setLevel(logging.ERROR)  # it warns of every flaw that it repairs


class Unreadable(Exception):
    """Why there is no text. `code` and `values`: of a SenryuError, but for its path."""

    def __init__(self, code: str, **values: object) -> None:
        super().__init__(code)
        self.code, self.values = code, values


async def extract(data: bytes, path: str) -> tuple[str, ...]:
    """The text of each page of a PDF. Takes up to READ_SECONDS, but no time of ours.

    Raises SenryuError, with `path` as the place, when it is broken, encrypted, too long or slow, or holds no text.
    """
    code = f"import sys; sys.path[:] = sys.argv[1:]; from {__name__} import main; main()"
    pipe, none = asyncio.subprocess.PIPE, asyncio.subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, *sys.path, stdin=pipe, stdout=pipe, stderr=none)
    try:
        async with asyncio.timeout(READ_SECONDS):
            answer, _ = await process.communicate(data)
    except TimeoutError as error:
        raise SenryuError("pdf_heavy", path=path) from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:  # it ran into its limits
        raise SenryuError("pdf_heavy", path=path)
    found = json.loads(answer)
    if "code" in found:
        raise SenryuError(found["code"], path=path, **found["values"])
    return tuple(found["texts"])


def read_pdf(data: bytes) -> tuple[str, ...]:
    """The text of each page, read here and now. Raises Unreadable."""
    from pypdf import PdfReader  # here, since only the reading process needs it, and every start would wait for it

    try:
        reader = PdfReader(io.BytesIO(data))
        if reader.is_encrypted and not reader.decrypt(""):
            raise Unreadable("pdf_encrypted")
        if len(reader.pages) > MOST_PAGES:
            raise Unreadable("pdf_pages", most=MOST_PAGES, count=len(reader.pages))
        end, texts = time.monotonic() + READ_SECONDS, []
        for page in reader.pages:
            texts.append(_page_text(page))
            if time.monotonic() > end or sum(map(len, texts)) > MOST_CHARACTERS:
                raise Unreadable("pdf_heavy")
    except (Unreadable, MemoryError):
        raise
    except Exception as error:  # the parser of a format as loose as this one fails in every way
        if type(error).__name__ in {"DependencyError", "FileNotDecryptedError"}:
            raise Unreadable("pdf_encrypted") from error
        why = (str(error).strip(". ") or type(error).__name__)[:200]
        raise Unreadable("pdf_broken", why=_utf8(why)) from error
    if not any(text.strip() for text in texts):
        raise Unreadable("pdf_textless")
    return tuple(texts)


def _page_text(page: Any) -> str:
    contents = page.get_contents()
    if contents is not None and len(contents.get_data()) > PAGE_BYTES:
        raise Unreadable("pdf_heavy")
    text: str = page.extract_text()
    return _utf8(text.replace("\0", ""))


def _utf8(text: str) -> str:
    """Fonts map to lone surrogates, too."""
    return text.encode("utf-8", "replace").decode("utf-8")


def main() -> None:
    """The process: a PDF comes in, its texts go out."""
    with contextlib.suppress(ImportError, ValueError, OSError):  # not every system has such limits
        import resource

        resource.setrlimit(resource.RLIMIT_CPU, (int(READ_SECONDS), int(READ_SECONDS)))
        resource.setrlimit(resource.RLIMIT_AS, (READ_MEMORY, READ_MEMORY))
    data = sys.stdin.buffer.read()
    try:
        found: dict[str, Any] = {"texts": read_pdf(data)}
    except Unreadable as error:
        found = {"code": error.code, "values": error.values}
    sys.stdout.write(json.dumps(found))
