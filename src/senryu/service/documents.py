"""The documents of a turn: files and PDFs become text before anything else sees them, and sources become plain prompt text.

The form that the model reads, with parts that are absent left out:

    <document index="1">              <search_result index="1">
    <title>...</title>                <source>...</source>
    <context>...</context>            <title>...</title>
    <content>                         <content>
    ...                               ...
    </content>                        </content>
    </document>                       </search_result>

Indices count from 1 over the whole conversation. Blocks of a Chunks document are apart by a blank line; pages of a PDF stand
in <page number="1"> ... </page>.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

from senryu.errors import SenryuError
from senryu.service.pdf import MOST_PAGES, extract
from senryu.types import (
    Chunks,
    Document,
    FileReference,
    Message,
    Pages,
    Pdf,
    PlainText,
    SearchResult,
    Text,
    ToolResult,
    Turn,
)

MOST_BYTES = 32 * 1024 * 1024  # of all its files, as much as a body may hold
KEPT_CHARACTERS = 4_000_000  # of PDFs read before: every turn of a conversation sends them again


@dataclass(frozen=True, slots=True)
class FileData:
    """What an uploaded file holds."""

    data: bytes
    mime_type: str


class FileSource(Protocol):
    """Where uploaded files come from."""

    async def read(self, tenant: str, id: str, most: int) -> FileData | None:
        """The file, or its first `most` + 1 bytes. None for an id that this tenant does not have, or no longer."""
        ...


class Documents:
    """Reads the documents of turns. `files` are the uploaded ones."""

    def __init__(self, files: FileSource | None = None) -> None:
        self._files = files
        self._one = asyncio.Semaphore(1)  # reading a PDF takes a core, which the engine lacks meanwhile
        self._kept: OrderedDict[bytes, tuple[str, ...]] = OrderedDict()

    async def resolve(self, turn: Turn) -> Turn:
        """The same turn with PlainText, Chunks and Pages as its only sources.

        Raises SenryuError for a PDF without readable text, for a file that is not there or no text, and past the limits.
        """
        found: list[Document | SearchResult] = []
        files: dict[str, FileData] = {}
        pages = 0
        for path, block in sources(turn):
            if isinstance(block, Document):
                if isinstance(block.source, FileReference):
                    block = await self._file(turn.tenant, block, block.source.id, files, f"{path}.source")
                if isinstance(block.source, Pdf):
                    source = await self._pdf(block.source.data, f"{path}.source", MOST_PAGES - pages)
                    pages += len(source.texts)
                    block = replace(block, source=source)
            found.append(block)
        return _replaced(turn, iter(found)) if found else turn

    async def _file(self, tenant: str, block: Document, id: str, files: dict[str, FileData], path: str) -> Document:
        """`files` holds those that this turn has read so far."""
        if id not in files:
            room = MOST_BYTES - sum(len(file.data) for file in files.values())
            file = await self._files.read(tenant, id, room) if self._files else None
            if file is None:
                raise SenryuError("file_unknown", id=id)
            if len(file.data) > room:
                raise SenryuError("documents_large", path=path, most=MOST_BYTES)
            files[id] = file
        data, mime = files[id].data, files[id].mime_type
        if data.startswith(b"%PDF-") or mime == "application/pdf":
            return replace(block, source=Pdf(data), file_id=id)
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError:
            text = "\0"
        if "\0" in text:
            raise SenryuError("file_kind", path=path, id=id, mime=mime)
        return replace(block, source=PlainText(text), file_id=id)

    async def _pdf(self, data: bytes, path: str, most: int) -> Pages:
        """`most`: pages that may still come."""
        if len(data) > MOST_BYTES:
            raise SenryuError("documents_large", path=path, most=MOST_BYTES)
        key = await asyncio.to_thread(lambda: hashlib.sha256(data).digest())
        async with self._one:
            texts = self._kept.get(key) or await extract(data, path)
            self._kept[key] = texts
            self._kept.move_to_end(key)
            while sum(len(text) for kept in self._kept.values() for text in kept) > KEPT_CHARACTERS:
                self._kept.popitem(last=False)
        if len(texts) > most:
            raise SenryuError("pdf_pages", path=path, most=MOST_PAGES, count=MOST_PAGES - most + len(texts))
        return Pages(texts)


def sources(turn: Turn) -> Iterator[tuple[str, Document | SearchResult]]:
    """Every document and search result of the conversation in order, those in tool results too, with where it stands."""
    for number, message in enumerate(turn.messages):
        for index, block in enumerate(message.content):
            if isinstance(block, Document | SearchResult):
                yield f"messages.{number}.content.{index}", block
            elif isinstance(block, ToolResult):
                for inner, part in enumerate(block.content):
                    if isinstance(part, Document | SearchResult):
                        yield f"messages.{number}.content.{index}.content.{inner}", part


def plain(turn: Turn) -> Turn:
    """A resolved turn as the model reads it: each document and search result as a Text in its place, breakpoints kept."""
    texts: list[Text] = []
    counts: dict[type, int] = {}
    for _, block in sources(turn):
        counts[type(block)] = counts.get(type(block), 0) + 1
        texts.append(Text(document_text(block, counts[type(block)]), cache=block.cache))
    return _replaced(turn, iter(texts)) if texts else turn


def document_text(block: Document | SearchResult, index: int) -> str:
    """The prompt text of a document or search result; `index` counts its kind from 1."""
    if isinstance(block, SearchResult):
        tag, head = "search_result", [("source", block.source), ("title", block.title)]
        content = "\n\n".join(block.texts)
    else:
        tag, head = "document", [("title", block.title or ""), ("context", block.context or "")]
        content = _content(block)
    lines = [f'<{tag} index="{index}">']
    lines += [f"<{name}>{value}</{name}>" for name, value in head if value]
    return "\n".join([*lines, "<content>", content, "</content>", f"</{tag}>"])


def _content(block: Document) -> str:
    match block.source:
        case PlainText(text):
            return text
        case Chunks(texts):
            return "\n\n".join(texts)
        case Pages(texts):
            return "\n".join(f'<page number="{number}">\n{text}\n</page>' for number, text in enumerate(texts, start=1))
        case _:
            raise AssertionError("documents are resolved before they are rendered")


def _replaced(turn: Turn, blocks: Iterator[Any]) -> Turn:
    """The turn with the next of `blocks` in place of each of its sources."""

    def of(block: Any) -> Any:
        if isinstance(block, ToolResult):
            return replace(block, content=tuple(of(part) for part in block.content))
        return next(blocks) if isinstance(block, Document | SearchResult) else block

    messages = tuple(Message(message.role, tuple(of(block) for block in message.content)) for message in turn.messages)
    return replace(turn, messages=messages)
