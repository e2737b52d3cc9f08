"""Content blocks of a request, and the cache markers and citations on them: decoded JSON -> the blocks of `types`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast

from senryu.api.dialect import Dialect
from senryu.api.fields import (
    Fields,
    array,
    base64_bytes,
    boolean,
    choice,
    free,
    matching,
    natural,
    optional,
    string,
    tagged,
    wrong_tag,
)
from senryu.api.wire import V2026
from senryu.errors import SenryuError
from senryu.types import (
    Block,
    CacheControl,
    Chunks,
    Citation,
    Document,
    FileReference,
    Pdf,
    PlainText,
    Role,
    SearchResult,
    Text,
    ToolResult,
    ToolUse,
)

MOST_TITLE, MOST_NAME = 500, 200  # characters
ID = "[a-zA-Z0-9_-]+"
BLOCKS = ("document", "image", "search_result", "text", "tool_result", "tool_use")
THOUGHTS = ("redacted_thinking", "thinking")
FOREIGN_BLOCKS = (  # of server tools and other models
    *THOUGHTS,
    "bash_code_execution_tool_result",
    "browser_state",
    "code_execution_tool_result",
    "compaction",
    "container_upload",
    "mcp_tool_result",
    "mcp_tool_use",
    "server_tool_use",
    "text_editor_code_execution_tool_result",
    "tool_reference",
    "tool_search_tool_result",
    "web_fetch_tool_result",
    "web_search_tool_result",
)
PLACES = {  # kind of citation -> the wire's names of its start and end
    "char_location": ("start_char_index", "end_char_index"),
    "page_location": ("start_page_number", "end_page_number"),
    "content_block_location": ("start_block_index", "end_block_index"),
    "search_result_location": ("start_block_index", "end_block_index"),
}
Marked = tuple[CacheControl | None, str]  # a marker, and where it stands


class Blocks:
    """Reads blocks in one dialect. All methods raise SenryuError."""

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect
        self._readers: dict[str, Callable[[Fields, Role], Block]] = {
            "text": self._text,
            "document": self._document,
            "search_result": self._search_result,
            "tool_use": self._tool_use,
            "tool_result": self._tool_result,
        }

    def system(self, value: Any, path: str) -> tuple[Text, ...]:
        """The system prompt: a string, or blocks of text."""
        if isinstance(value, str):
            return (Text(value),) if value else ()
        return tuple(self._system_text(item, f"{path}.{index}") for index, item in enumerate(array(value, path)))

    def content(self, value: Any, path: str, role: Role) -> tuple[Block, ...]:
        """The content of a message: a string, or blocks. The lenient profile leaves out an assistant's thoughts."""
        if isinstance(value, str):
            return (Text(value),) if value else ()
        kinds = tuple(kind for kind in BLOCKS if not (kind == "document" and role == "assistant" and self._strict_documents))
        blocks = (self._block(item, f"{path}.{index}", role, kinds) for index, item in enumerate(array(value, path)))
        return tuple(block for block in blocks if block is not None)

    def marker(self, fields: Fields) -> CacheControl | None:
        """The `cache_control` of a block, a tool or a request."""
        return fields.take_or("cache_control", optional(self._cache_control), None)

    @property
    def _strict_documents(self) -> bool:
        return self.dialect.version == V2026

    def _block(self, value: Any, path: str, role: Role, kinds: Sequence[str]) -> Block | None:
        """A block of one of `kinds`; None for a thought that is passed over."""
        kind, rest = tagged(value, path)
        if kind == "image":
            raise SenryuError("no_images", model=self.dialect.model)
        if kind in FOREIGN_BLOCKS:
            error = self.dialect.tag_error("blocks", kind, path)
            if kind not in THOUGHTS or role != "assistant":
                raise error
            self.dialect.pass_over(path, error)
            return None
        if kind == "document" and kind not in kinds:
            raise SenryuError("document_in_answer", path=path)
        if kind not in kinds:
            raise wrong_tag(path, kind, sorted((*kinds, *FOREIGN_BLOCKS)))
        fields = Fields(rest, f"{path}.{kind}")
        block = self._readers[kind](fields, role)
        self.dialect.finish(fields)
        return block

    def _system_text(self, value: Any, path: str) -> Text:
        kind, rest = tagged(value, path)
        choice(kind, f"{path}.type", ("text",))
        fields = Fields(rest, path)
        text = Text(fields.take("text", string), self.marker(fields))
        self.dialect.without("citations of the system prompt are", fields.take_or("citations", optional(array), None),
                             fields.path("citations"))  # fmt: skip
        self.dialect.finish(fields)
        return text

    def _text(self, fields: Fields, role: Role) -> Text:
        text = fields.take("text", string)
        path = fields.path("citations")
        citations = fields.take_or("citations", optional(array), None) or []
        if citations and role == "user" and self.dialect.version == V2026:
            raise SenryuError("extra", path=path)
        cited = tuple(self._citation(item, f"{path}.{index}") for index, item in enumerate(citations))
        return Text(text, self.marker(fields), cited)

    def _citation(self, value: Any, path: str) -> Citation:
        kind, rest = tagged(value, path)
        if kind == "web_search_result_location":
            raise self.dialect.tag_error("citations", kind, path)
        if kind not in PLACES:
            raise wrong_tag(path, kind, tuple(PLACES))
        fields = Fields(rest, f"{path}.{kind}")
        searched = kind == "search_result_location"
        start, end = PLACES[kind]
        citation = Citation(
            kind=cast(Any, kind),
            text=fields.take("cited_text", string),
            index=fields.take("search_result_index" if searched else "document_index", natural),
            start=fields.take(start, natural),
            end=fields.take(end, natural),
            title=fields.take_or("title" if searched else "document_title", optional(string), None),
            source=fields.take("source", string) if searched else None,
            file_id=None if searched else fields.take_or("file_id", optional(string), None),
        )
        self.dialect.finish(fields)
        return citation

    def _tool_use(self, fields: Fields, role: Role) -> ToolUse:
        use = ToolUse(
            id=fields.take("id", partial(matching, pattern=ID)),
            name=fields.take("name", partial(string, low=1, high=MOST_NAME)),
            input=fields.take("input", free),
            cache=self.marker(fields),
        )
        fields.take_or("caller", optional(self._caller), None)
        self._no_toolset(fields)
        return use

    def _caller(self, value: Any, path: str) -> None:
        kind, rest = tagged(value, path)
        if kind != "direct":
            raise self.dialect.tag_error("callers", kind, path)
        self.dialect.finish(Fields(rest, f"{path}.direct"))

    def _no_toolset(self, fields: Fields) -> None:
        path = fields.path("toolset_name")
        self.dialect.without("toolsets are", fields.take_or("toolset_name", optional(string), None), path)

    def _tool_result(self, fields: Fields, role: Role) -> ToolResult:
        own = self.marker(fields)
        id = fields.take("tool_use_id", partial(matching, pattern=ID))
        content, inner = fields.take_or("content", optional(self._tool_content), None) or ((), (None, ""))
        self._no_toolset(fields)
        return ToolResult(
            tool_use_id=id,
            content=cast(Any, content),
            is_error=fields.take_or("is_error", optional(boolean), None) or False,
            cache=_outer(own, inner, "tool_result"),
        )

    def _tool_content(self, value: Any, path: str) -> tuple[tuple[Block, ...], Marked]:
        if isinstance(value, str):
            return ((Text(value),) if value else ()), (None, path)
        return self._inner(value, path, ("document", "image", "search_result", "text"), "tool_result")

    def _document(self, fields: Fields, role: Role) -> Document:
        own = self.marker(fields)
        source, inner = fields.take("source", self._source)
        return Document(
            source=source,
            title=fields.take_or("title", optional(partial(string, low=1, high=MOST_TITLE)), None),
            context=fields.take_or("context", optional(partial(string, low=1)), None),
            citations=self._cited(fields),
            cache=_outer(own, inner, "document"),
            file_id=source.id if isinstance(source, FileReference) else None,
        )

    def _source(self, value: Any, path: str) -> tuple[PlainText | Chunks | Pdf | FileReference, Marked]:
        kind, rest = tagged(value, path)
        if kind == "url":
            raise SenryuError("no_document_urls", path=path)
        if kind == "file" and not self.dialect.files:
            raise SenryuError("no_document_files", path=path)
        fields = Fields(rest, f"{path}.{kind}"[: len(path) + 16])
        source: PlainText | Chunks | Pdf | FileReference
        inner: Marked = (None, path)
        match kind:
            case "base64":
                fields.take("media_type", partial(choice, options=("application/pdf",)))
                source = Pdf(fields.take("data", base64_bytes))
            case "text":
                fields.take("media_type", partial(choice, options=("text/plain",)))
                source = PlainText(fields.take("data", string))
            case "content":
                source, inner = fields.take("content", self._chunks)
            case "file":
                source = FileReference(fields.take("file_id", partial(string, low=1, high=MOST_NAME)))
            case _:
                raise wrong_tag(path, kind, ("base64", "text", "content", "url", "file"))
        self.dialect.finish(fields)
        return source, inner

    def _chunks(self, value: Any, path: str) -> tuple[Chunks, Marked]:
        if isinstance(value, str):
            return Chunks((value,)), (None, path)
        blocks, inner = self._inner(value, path, ("image", "text"), "document")
        return Chunks(_texts(blocks)), inner

    def _search_result(self, fields: Fields, role: Role) -> SearchResult:
        own = self.marker(fields)
        blocks, inner = fields.take("content", partial(self._inner, kinds=("text",), parent="search_result"))
        return SearchResult(
            source=fields.take("source", string),
            title=fields.take("title", string),
            texts=_texts(blocks),
            citations=self._cited(fields),
            cache=_outer(own, inner, "search_result"),
        )

    def _cited(self, fields: Fields) -> bool:
        return fields.take_or("citations", optional(self._enabled), None) or False

    def _enabled(self, value: Any, path: str) -> bool:
        fields = Fields(value, path)
        enabled = fields.take_or("enabled", optional(boolean), None) or False
        self.dialect.finish(fields)
        return enabled

    def _inner(self, value: Any, path: str, kinds: Sequence[str], parent: str) -> tuple[tuple[Block, ...], Marked]:
        """Blocks inside of a block without their markers, and the last one's, which is the parent's instead."""
        read = [self._block(item, f"{path}.{index}", "user", kinds) for index, item in enumerate(array(value, path))]
        blocks = [block for block in read if block is not None]
        for index, block in enumerate(blocks[:-1]):
            if block.cache is not None:
                raise SenryuError("inner_breakpoint", path=f"{path}.{index}", what=parent)
        if not blocks:
            return (), (None, path)
        last = blocks[-1]
        return (*blocks[:-1], replace(last, cache=None)), (last.cache, f"{path}.{len(blocks) - 1}")

    def _cache_control(self, value: Any, path: str) -> CacheControl:
        kind, rest = tagged(value, path)
        if kind != "ephemeral":
            raise wrong_tag(path, kind, ("ephemeral",))
        marker = Fields(rest, f"{path}.ephemeral")
        ttl = marker.take_or("ttl", optional(partial(choice, options=("5m", "1h"))), None)
        self.dialect.finish(marker)
        return CacheControl(3600 if ttl == "1h" else 300)


def _outer(own: CacheControl | None, inner: Marked, parent: str) -> CacheControl | None:
    """The one marker of a block: its own or, hoisted, that of its last inner block."""
    marker, path = inner
    if own is not None and marker is not None and own != marker:
        raise SenryuError("inner_breakpoint", path=path, what=parent)
    return own or marker


def _texts(blocks: Sequence[Block]) -> tuple[str, ...]:
    return tuple(block.text for block in blocks if isinstance(block, Text))
