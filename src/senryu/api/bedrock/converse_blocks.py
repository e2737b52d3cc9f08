"""The unions of Converse's messages, system prompt and tools: decoded JSON -> the blocks and tools of `types`.

A cachePoint is a breakpoint on what stands right before it. Where the service names blocks by number, cachePoints do not count.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar, cast

from senryu.api.betas import FINE_GRAINED_TOOLS
from senryu.api.dialect import Dialect
from senryu.api.fields import Fields, array, base64_bytes, boolean, choice, free, matching, natural, optional, string
from senryu.api.wire import encode_json
from senryu.errors import SenryuError
from senryu.types import (
    Block,
    CacheControl,
    Chunks,
    Citation,
    Document,
    Pdf,
    PlainText,
    Role,
    SearchResult,
    Text,
    Tool,
    ToolChoice,
    ToolResult,
    ToolUse,
)

T = TypeVar("T", bound=Block | Tool)
ID, NAME = "[a-zA-Z0-9_.:-]{1,64}", "[a-zA-Z0-9_-]{1,64}"
MOST_NAME = 200  # characters
TEXTS, OFFICE = ("txt", "md", "html", "csv"), ("doc", "docx", "xls", "xlsx")
CONTENT = ("text", "document", "searchResult", "toolUse", "toolResult", "citationsContent", "cachePoint")
RESULTS = ("text", "json", "document", "searchResult")
FOREIGN = (  # members of unions that this server has not
    "audio",
    "guardContent",
    "image",
    "reasoningContent",
    "s3Location",
    "systemTool",
    "toolAddition",
    "toolRemoval",
    "video",
    "web",
)
PLACES = {  # a citation's location -> our kind of it, and what counts its sources
    "documentChar": ("char_location", "documentIndex"),
    "documentPage": ("page_location", "documentIndex"),
    "documentChunk": ("content_block_location", "documentIndex"),
    "searchResultLocation": ("search_result_location", "searchResultIndex"),
}


class ConverseBlocks:
    """Reads them in one dialect. All methods raise SenryuError."""

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect
        self._readers: dict[str, Callable[[Any, str], Block]] = {
            "text": lambda value, path: Text(string(value, path)),
            "json": lambda value, path: Text(encode_json(value).decode()),
            "document": self._document,
            "searchResult": self._search_result,
            "toolUse": self._tool_use,
            "toolResult": self._tool_result,
            "citationsContent": self._cited_text,
        }

    def system(self, value: Any, path: str) -> tuple[Text, ...]:
        """The system prompt."""
        return tuple(self._marked(value, path, ("text", "cachePoint"), lambda kind, inner, where: Text(string(inner, where))))

    def content(self, value: Any, path: str, role: Role) -> tuple[Block, ...]:
        """The content of a message. The lenient profile leaves out an assistant's thoughts."""
        thoughts = ("reasoningContent",) if role == "assistant" and self.dialect.lenient else ()
        return tuple(self._marked(value, path, (*CONTENT, *thoughts), self._block))

    def tools(self, value: Any, path: str) -> tuple[Tool, ...]:
        """`toolConfig.tools`."""
        return tuple(self._marked(value, path, ("toolSpec", "cachePoint"), self._tool))

    def choice(self, value: Any, path: str) -> ToolChoice:
        """`toolConfig.toolChoice`."""
        kind, inner, where = union(value, path, ("auto", "any", "tool"))
        fields = Fields(inner, where)
        name = fields.take("name", partial(string, low=1)) if kind == "tool" else ""
        self.dialect.finish(fields)
        return ToolChoice(cast(Any, kind), name)

    def _marked(self, value: Any, path: str, kinds: Sequence[str], read: Callable[[str, Any, str], T | None]) -> list[T]:
        """A list of one of the unions, cachePoints put on what stands before them."""
        items: list[T] = []
        for index, item in enumerate(array(value, path)):
            kind, inner, where = union(item, f"{path}.{index}", kinds)
            if kind != "cachePoint":
                if (block := read(kind, inner, where)) is not None:
                    items.append(block)
                continue
            marker = self._cache_point(inner, where)
            if not items or items[-1].cache is not None:
                raise SenryuError("cache_point", path=where)
            items[-1] = replace(items[-1], cache=marker)
        return items

    def _cache_point(self, value: Any, path: str) -> CacheControl:
        fields = Fields(value, path)
        fields.take("type", partial(choice, options=("default",)))
        ttl = fields.take_or("ttl", optional(partial(choice, options=("5m", "1h"))), None)
        self.dialect.finish(fields)
        return CacheControl(3600 if ttl == "1h" else 300)

    def _block(self, kind: str, value: Any, path: str) -> Block | None:
        if kind == "reasoningContent":
            self.dialect.ignore(path)
            return None
        return self._readers[kind](value, path)

    def _tool(self, kind: str, value: Any, path: str) -> Tool:
        fields = Fields(value, path)
        name = fields.take("name", partial(matching, pattern=NAME))
        _, given, where = union(fields.take("inputSchema", _as_is), fields.path("inputSchema"), ("json",))
        schema = free(given, where)
        Fields(schema, where).take("type", partial(choice, options=("object",)))
        tool = Tool(
            name=name,
            input_schema=schema,
            description=fields.take_or("description", optional(partial(string, low=1)), None) or "",
            strict=fields.take_or("strict", optional(boolean), None) or False,
            eager=FINE_GRAINED_TOOLS in self.dialect.betas,
        )
        self.dialect.finish(fields)
        return tool

    def _tool_use(self, value: Any, path: str) -> ToolUse:
        fields = Fields(value, path)
        use = ToolUse(
            id=fields.take("toolUseId", partial(matching, pattern=ID)),
            name=fields.take("name", partial(matching, pattern=NAME)),
            input=fields.take("input", free),
        )
        self._no_type(fields)
        self.dialect.finish(fields)
        return use

    def _tool_result(self, value: Any, path: str) -> ToolResult:
        fields = Fields(value, path)
        result = ToolResult(
            tool_use_id=fields.take("toolUseId", partial(matching, pattern=ID)),
            content=cast(Any, fields.take("content", self._result_content)),
            is_error=fields.take_or("status", optional(partial(choice, options=("success", "error"))), None) == "error",
        )
        self._no_type(fields)
        self.dialect.finish(fields)
        return result

    def _result_content(self, value: Any, path: str) -> tuple[Block, ...]:
        parts = (union(item, f"{path}.{index}", RESULTS) for index, item in enumerate(array(value, path)))
        return tuple(self._readers[kind](inner, where) for kind, inner, where in parts)

    def _no_type(self, fields: Fields) -> None:
        path = fields.path("type")
        self.dialect.without("calls of tools that a server runs are", fields.take_or("type", optional(string), None), path)

    def _document(self, value: Any, path: str) -> Document:
        fields = Fields(value, path)
        kinds = ("pdf", *TEXTS, *OFFICE)
        format = fields.take_or("format", optional(partial(choice, options=kinds)), None)
        kind, inner, where = union(fields.take("source", _as_is), fields.path("source"), ("bytes", "text", "content"))
        source: Pdf | PlainText | Chunks
        if kind == "content":
            source = Chunks(self._texts(inner, where))
        elif kind == "text":
            source = PlainText(string(inner, where))
        else:
            source = _read_bytes(inner, where, format, fields.path("format"))
        document = Document(
            source=source,
            title=fields.take("name", partial(string, low=1, high=MOST_NAME)),
            context=fields.take_or("context", optional(partial(string, low=1)), None),
            citations=fields.take_or("citations", optional(self._enabled), None) or False,
        )
        self.dialect.finish(fields)
        return document

    def _search_result(self, value: Any, path: str) -> SearchResult:
        fields = Fields(value, path)
        result = SearchResult(
            source=fields.take("source", string),
            title=fields.take("title", string),
            texts=fields.take("content", self._texts),
            citations=fields.take_or("citations", optional(self._enabled), None) or False,
        )
        self.dialect.finish(fields)
        return result

    def _enabled(self, value: Any, path: str) -> bool:
        fields = Fields(value, path)
        enabled = fields.take("enabled", boolean)
        self.dialect.finish(fields)
        return enabled

    def _texts(self, value: Any, path: str) -> tuple[str, ...]:
        parts = (union(item, f"{path}.{index}", ("text",)) for index, item in enumerate(array(value, path)))
        return tuple(string(inner, where) for _, inner, where in parts)

    def _joined(self, value: Any, path: str) -> str:
        return "".join(self._texts(value, path))

    def _cited_text(self, value: Any, path: str) -> Text:
        """A text of an answer before, with its citations; those that do not say where they point to are of no use."""
        fields = Fields(value, path)
        text = fields.take_or("content", self._joined, "")
        where = fields.path("citations")
        given = fields.take_or("citations", optional(array), None) or []
        cited = (self._citation(item, f"{where}.{index}") for index, item in enumerate(given))
        self.dialect.finish(fields)
        return Text(text, citations=tuple(citation for citation in cited if citation is not None))

    def _citation(self, value: Any, path: str) -> Citation | None:
        fields = Fields(value, path)
        place = fields.take_or("location", optional(self._location), None)
        text = fields.take_or("sourceContent", self._joined, "")
        title = fields.take_or("title", optional(string), None)
        source = fields.take_or("source", optional(string), None)
        self.dialect.finish(fields)
        if place is None:
            return None
        kind, index, start, end = place
        return Citation(cast(Any, kind), text, index, start, end, title, source)

    def _location(self, value: Any, path: str) -> tuple[str, int, int, int]:
        kind, inner, where = union(value, path, tuple(PLACES))
        ours, counter = PLACES[kind]
        fields = Fields(inner, where)
        place = (ours, fields.take(counter, natural), fields.take("start", natural), fields.take("end", natural))
        self.dialect.finish(fields)
        return place


def union(value: Any, path: str, kinds: Sequence[str]) -> tuple[str, Any, str]:
    """(the one member that an object has, its value, its path). Raises SenryuError where it is none of `kinds`, or not one."""
    if not isinstance(value, dict):
        raise SenryuError("not_object", path=path)
    given = [name for name, inner in value.items() if inner is not None]
    for name in given:
        if name in FOREIGN and name not in kinds:
            raise SenryuError("unsupported", path=f"{path}.{name}", what=f"members `{name}` are")
    if len(given) != 1 or given[0] not in kinds:
        raise SenryuError("not_union", path=path, kinds=", ".join(kinds))
    return given[0], value[given[0]], f"{path}.{given[0]}"


def _as_is(value: Any, path: str) -> Any:
    return value


def _read_bytes(value: Any, path: str, format: str | None, format_path: str) -> Pdf | PlainText:
    """A file: a PDF, or text as it stands. Raises SenryuError for what this server cannot read."""
    if format is None:
        raise SenryuError("required", path=format_path)
    if format in OFFICE:
        raise SenryuError("document_format", path=format_path, format=format)
    data = base64_bytes(value, path)
    if format == "pdf":
        return Pdf(data)
    try:
        return PlainText(data.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise SenryuError("not_text", path=path, format=format) from None
