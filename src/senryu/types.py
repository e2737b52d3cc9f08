"""The nouns every layer shares: what is asked (`Turn`) and what is answered (`Event`). Data only, no logic.

Every wire shape is translated to these and back; every feature of the service is written against these alone.

    Turn ── system ──── Text
         ── tools ───── Tool
         ── messages ── Message ── content ── Block: Text, ToolUse, ToolResult, Document, SearchResult
    Event: Started, then for every block of the answer BlockStarted, its deltas and BlockStopped, then Finished
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

Role = Literal["user", "assistant"]
Choice = Literal["auto", "any", "tool", "none"]
StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use", "model_context_window_exceeded"]
Priority = Literal["interactive", "batch"]
Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class CacheControl:
    """A cache breakpoint: the prompt up to the end of what carries it is to be kept for `ttl` seconds (300 or 3,600)."""

    ttl: int = 300


@dataclass(frozen=True, slots=True)
class Citation:
    """Where a piece of the answer comes from. `text` stands verbatim in the source, at [start, end).

    `kind` says what start and end count: characters of a text, pages from 1, or blocks. `index` counts the conversation's
    documents, or its search results for a search_result_location; `source` is such a result's own.
    """

    kind: Literal["char_location", "page_location", "content_block_location", "search_result_location"]
    text: str
    index: int
    start: int
    end: int
    title: str | None = None
    source: str | None = None
    file_id: str | None = None


@dataclass(frozen=True, slots=True)
class Text:
    """A block of text."""

    text: str
    cache: CacheControl | None = None
    citations: tuple[Citation, ...] = ()


@dataclass(frozen=True, slots=True)
class ToolUse:
    """A call that the assistant makes."""

    id: str
    name: str
    input: Json
    cache: CacheControl | None = None


@dataclass(frozen=True, slots=True)
class PlainText:
    """A document's text; citations point to its characters."""

    text: str


@dataclass(frozen=True, slots=True)
class Chunks:
    """A document in blocks of the caller's own; citations point to whole blocks."""

    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Pdf:
    """A PDF file; citations point to its pages."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Pages:
    """The text of a PDF, page by page: what a Pdf is once it was read."""

    texts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class FileReference:
    """A file that was uploaded before."""

    id: str


@dataclass(frozen=True, slots=True)
class Document:
    """A document to read. `title` and `context` are seen by the model, but are nothing to cite."""

    source: PlainText | Chunks | Pdf | Pages | FileReference
    title: str | None = None
    context: str | None = None
    citations: bool = False
    cache: CacheControl | None = None
    file_id: str | None = None


@dataclass(frozen=True, slots=True)
class SearchResult:
    """A result of the caller's own search."""

    source: str
    title: str
    texts: tuple[str, ...]
    citations: bool = False
    cache: CacheControl | None = None


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a call gave."""

    tool_use_id: str
    content: tuple[Text | Document | SearchResult, ...] = ()
    is_error: bool = False
    cache: CacheControl | None = None


Block = Text | ToolUse | ToolResult | Document | SearchResult


@dataclass(frozen=True, slots=True)
class Message:
    """One message of the conversation."""

    role: Role
    content: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool that the caller runs. `strict`: a schema that cannot be kept to exactly is refused. `eager`: its input streams
    as it comes instead of by key and value."""

    name: str
    input_schema: Json
    description: str = ""
    strict: bool = False
    eager: bool = False
    cache: CacheControl | None = None


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Whether to call: as the model likes, any tool, the one that is named, or none; and whether several at once."""

    kind: Choice = "auto"
    name: str = ""
    parallel: bool = True


@dataclass(frozen=True, slots=True)
class Thread:
    """A conversation that the service keeps for a while. `previous`: the id of the answer whose conversation goes on with this
    turn's messages; None begins a thread."""

    previous: str | None = None


@dataclass(frozen=True, slots=True)
class Turn:
    """What a caller wants answered, whatever wire shape it came in.

    `messages` may end with an assistant message: the answer continues it (prefill).
    `max_tokens` 0 reads the prompt into the cache and answers nothing.
    `temperature` 0 is greedy. `top_k` 0 means all tokens. `seed` None draws a fresh one.
    `output_schema` is a JSON Schema that the text must match. `output_strict`: one that cannot be kept to exactly is refused;
    otherwise it is kept as far as a grammar can.
    `raw` is a prompt that is read as it stands, without the chat template: a text, or token ids. Then there are no messages,
    system prompt or tools.
    `cache` asks for a breakpoint at the last block that can carry one.
    `fills_context`: an answer that reaches the context limit ends there; without it such a turn is refused.
    `diagnose` asks why the prompt missed the cache, compared with the message of that id ("" for the first of a conversation).
    `thread` asks to keep the conversation under the id of the answer; one that goes on brings only the new messages.
    `tenant` keeps caches apart. `deadline` is a time.monotonic() in seconds.
    """

    model: str
    messages: tuple[Message, ...]
    max_tokens: int
    system: tuple[Text, ...] = ()
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = ToolChoice()
    output_schema: Json | None = None
    output_strict: bool = True
    raw: str | tuple[int, ...] | None = None
    temperature: float = 1.0
    top_p: float = 0.99
    top_k: int = 0
    seed: int | None = None
    stop_sequences: tuple[str, ...] = ()
    cache: CacheControl | None = None
    fills_context: bool = False
    diagnose: str | None = None
    thread: Thread | None = None
    tenant: str = ""
    priority: Priority = "interactive"
    deadline: float | None = None


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one turn. The whole prompt is input_tokens + cache_write_5m + cache_write_1h + cache_read, as they are billed;
    `reused_tokens` of it had K/V already, marked or not."""

    input_tokens: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0
    cache_read: int = 0
    output_tokens: int = 0
    reused_tokens: int = 0


@dataclass(frozen=True, slots=True)
class CacheMiss:
    """Why a prompt was not read from the cache. `missed_tokens` None where that cannot be said."""

    reason: str
    missed_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Started:
    """The prompt is accepted; the first event of a turn. `id` names the answer. `miss` answers `Turn.diagnose`."""

    id: str
    model: str
    usage: Usage
    miss: CacheMiss | None = None


@dataclass(frozen=True, slots=True)
class BlockStarted:
    """A block of the answer begins; it is empty as yet."""

    block: Text | ToolUse


class TextDelta(msgspec.Struct, frozen=True):  # one for each token of every stream: cheaper to make than a dataclass
    """A non-empty piece of a Text's text; pieces end on whole characters."""

    text: str


@dataclass(frozen=True, slots=True)
class InputDelta:
    """A non-empty piece of a ToolUse's input, as JSON."""

    json: str


@dataclass(frozen=True, slots=True)
class CitationDelta:
    """One more citation of the Text that is being written."""

    citation: Citation


@dataclass(frozen=True, slots=True)
class BlockStopped:
    """The block is complete, and this is all of it."""

    block: Text | ToolUse


@dataclass(frozen=True, slots=True)
class Finished:
    """The answer is complete; the last event of a turn. `cost_nano` is its price in nano-dollars."""

    stop_reason: StopReason
    stop_sequence: str | None = None
    usage: Usage = field(default_factory=Usage)
    cost_nano: int = 0


Event = Started | BlockStarted | TextDelta | InputDelta | CitationDelta | BlockStopped | Finished
