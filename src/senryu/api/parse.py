"""The body of a Messages request -> Turn. Every field is used, refused by name, or provably asks for nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, get_args

from senryu.api.fields import Fields, array, boolean, choice, integer, optional, string, tagged, unit_range, wrong_tag
from senryu.api.wire import V2026
from senryu.errors import SenryuError
from senryu.types import CacheControl, Message, Role, Text, Turn

MOST_MESSAGES = 100_000
MOST_STOP_CHARACTERS = 20_000
MOST_BREAKPOINTS = 4
BLOCKS_TO_COME = (
    "document",
    "search_result",
    "tool_use",
    "tool_result",
    "thinking",
    "redacted_thinking",
    "server_tool_use",
    "web_search_tool_result",
    "web_fetch_tool_result",
    "code_execution_tool_result",
    "bash_code_execution_tool_result",
    "text_editor_code_execution_tool_result",
    "tool_search_tool_result",
    "container_upload",
)
FIELDS_TO_COME = {  # field -> what it would ask for; null, [] and {} ask for nothing and pass
    "cache_control": "automatic caching is",
    "output_config": "output configuration is",
    "mcp_servers": "MCP servers are",
    "container": "containers are",
    "context_management": "context management is",
    "inference_geo": "inference geography is",
    "speed": "speed is",
    "diagnostics": "diagnostics are",
    "user_profile_id": "user profiles are",
}


@dataclass(frozen=True, slots=True)
class MessagesRequest:
    """A turn, and whether its answer is to be streamed."""

    turn: Turn
    stream: bool


@dataclass(slots=True)
class _Breakpoints:
    """The `cache_control` markers met so far, in the order tools, system, messages."""

    count: int = 0
    five_minutes: bool = False

    def take(self, value: Any, path: str, block: str) -> CacheControl | None:
        """Checks one marker at `path` and remembers it; null is none. `block` is how the rule of order names its place."""
        if value is None:
            return None
        kind, rest = tagged(value, path)
        if kind != "ephemeral":
            raise wrong_tag(path, kind, ("ephemeral",))
        marker = Fields(rest, f"{path}.ephemeral")
        ttl = marker.take_or("ttl", partial(choice, options=("5m", "1h")), "5m")
        marker.finish()
        if ttl == "1h" and self.five_minutes:
            raise SenryuError("ttl_order", path=block)
        self.five_minutes = self.five_minutes or ttl == "5m"
        self.count += 1
        return CacheControl(3600 if ttl == "1h" else 300)

    def finish(self) -> None:
        """Raises SenryuError when there are too many."""
        if self.count > MOST_BREAKPOINTS:
            raise SenryuError("many_breakpoints", count=self.count)


class Parser:
    """Parses bodies of one API version. `canonical` gives the id by which errors name a model."""

    def __init__(self, version: str, canonical: Callable[[str], str]) -> None:
        self.version = version
        self.canonical = canonical
        self.model = ""
        self.breakpoints = _Breakpoints()

    def create(self, body: Any) -> MessagesRequest:
        """The body of POST /v1/messages. Raises SenryuError."""
        fields = Fields(body)
        self.model = fields.take("model", partial(string, low=1, high=256))
        max_tokens = fields.take("max_tokens", integer)
        if max_tokens < 1:
            raise SenryuError("max_tokens_low")
        system, messages = self._prompt(fields)
        turn = Turn(
            model=self.model,
            messages=messages,
            max_tokens=max_tokens,
            system=system,
            stop_sequences=fields.take_or("stop_sequences", _stop_sequences, ()),
            **self._sampling(fields),
        )
        stream = fields.take_or("stream", boolean, False)
        fields.take_or("metadata", _metadata, None)
        fields.take_or("service_tier", partial(choice, options=("auto", "standard_only")), "auto")
        self._to_come(fields)
        fields.finish()
        return MessagesRequest(turn, stream)

    def count(self, body: Any) -> Turn:
        """The body of POST /v1/messages/count_tokens. Raises SenryuError."""
        fields = Fields(body)
        self.model = fields.take("model", partial(string, low=1, high=256))
        system, messages = self._prompt(fields)
        self._to_come(fields)
        fields.finish()
        return Turn(model=self.model, messages=messages, max_tokens=1, system=system)

    def _prompt(self, fields: Fields) -> tuple[tuple[Text, ...], tuple[Message, ...]]:
        """System first, as breakpoints are ordered that way."""
        none: tuple[Text, ...] = ()
        system = fields.take_or("system", self._system, none)
        messages = fields.take("messages", self._messages)
        self.breakpoints.finish()
        return system, messages

    def _sampling(self, fields: Fields) -> dict[str, Any]:
        """temperature, top_p and top_k; the newer version of the API does not know them."""
        if self.version == V2026:
            return {}
        return {
            "temperature": fields.take_or("temperature", unit_range, 1.0),
            "top_p": fields.take_or("top_p", unit_range, 0.99),
            "top_k": fields.take_or("top_k", _top_k, 0),
        }

    def _to_come(self, fields: Fields) -> None:
        """Features that other models or later versions of ours have: refused by name, unless nothing is asked."""
        fields.take_or("thinking", optional(self._thinking), None)
        fields.take_or("tools", _nothing("tools are"), None)
        if fields.take_or("tool_choice", optional(lambda value, _: value), None) is not None:
            raise SenryuError("choice_without_tools")
        for name, what in FIELDS_TO_COME.items():
            fields.take_or(name, _nothing(what), None)

    def _thinking(self, value: Any, path: str) -> None:
        thinking = Fields(value, path)
        kind = thinking.take("type", partial(choice, options=("enabled", "disabled", "adaptive")))
        if kind != "disabled":
            raise SenryuError("no_thinking", model=self.canonical(self.model))
        thinking.finish()

    def _system(self, value: Any, path: str) -> tuple[Text, ...]:
        if isinstance(value, str):
            return (Text(value),) if value else ()
        blocks = []
        for index, item in enumerate(array(value, path)):
            here = f"{path}.{index}"
            kind, rest = tagged(item, here)
            choice(kind, f"{here}.type", ("text",))
            blocks.append(self._text(Fields(rest, here), here, "system", user=False))
        return tuple(blocks)

    def _messages(self, value: Any, path: str) -> tuple[Message, ...]:
        items = array(value, path, MOST_MESSAGES)
        if not items:
            raise SenryuError("no_messages")
        messages = tuple(self._message(item, index) for index, item in enumerate(items))
        for index, message in enumerate(messages):
            if not message.content and not (index == len(messages) - 1 and message.role == "assistant"):
                raise SenryuError("empty_message", index=index)
        last = messages[-1]
        end = last.content[-1] if last.role == "assistant" and last.content else None
        if isinstance(end, Text) and end.text[-1:].isspace():
            raise SenryuError("trailing_space")
        return messages

    def _message(self, value: Any, index: int) -> Message:
        path = f"messages.{index}"
        fields = Fields(value, path)
        role = fields.take("role", _role)
        content = fields.take("content", lambda value, here: self._content(value, here, user=role == "user"))
        fields.finish()
        return Message(role, content)

    def _content(self, value: Any, path: str, user: bool) -> tuple[Text, ...]:
        if isinstance(value, str):
            if not value:
                return ()
            _check_text(value, "messages")
            return (Text(value),)
        return tuple(self._block(item, f"{path}.{index}", user) for index, item in enumerate(array(value, path)))

    def _block(self, value: Any, path: str, user: bool) -> Text:
        kind, rest = tagged(value, path)
        if kind == "image":
            raise SenryuError("no_images", model=self.canonical(self.model))
        if kind in BLOCKS_TO_COME:
            raise SenryuError("unsupported", path=path, what=f"blocks of type '{kind}' are")
        if kind != "text":
            raise wrong_tag(path, kind, sorted((*BLOCKS_TO_COME, "image", "text")))
        return self._text(Fields(rest, f"{path}.text"), path, "messages", user)

    def _text(self, block: Fields, path: str, where: str, user: bool) -> Text:
        """A text block standing at `path`; `where` is how the rules of text name its place."""
        text = block.take("text", string)
        marker = block.take_or("cache_control", lambda value, _: value, None)
        if marker is not None and not text:
            raise SenryuError("empty_breakpoint", path=block.where)
        _check_text(text, where)
        if block.take_or("citations", optional(array), None):
            if user and self.version == V2026:
                raise SenryuError("extra", path=block.path("citations"))
            raise SenryuError("unsupported", path=block.path("citations"), what="citations are")
        block.finish()
        return Text(text, cache=self.breakpoints.take(marker, block.path("cache_control"), path))


def _role(value: Any, path: str) -> Role:
    if value == "system":
        raise SenryuError("system_role")
    role: Any = choice(value, path, get_args(Role))
    return role


def _check_text(text: str, where: str) -> None:
    if not text:
        raise SenryuError("empty_text", where=where)
    if text.isspace():
        raise SenryuError("blank_text", where=where)


def _stop_sequences(value: Any, path: str) -> tuple[str, ...]:
    stops = tuple(string(item, f"{path}.{index}") for index, item in enumerate(array(value, path)))
    if any(not stop or stop.isspace() for stop in stops):
        raise SenryuError("blank_stop")
    count = sum(map(len, stops))
    if count > MOST_STOP_CHARACTERS:
        raise SenryuError("long_stops", count=count, cap=MOST_STOP_CHARACTERS)
    return stops


def _top_k(value: Any, path: str) -> int:
    top_k = integer(value, path)
    if top_k < 0:
        raise SenryuError("below", path=path, low=0)
    return top_k


def _metadata(value: Any, path: str) -> None:
    metadata = Fields(value, path)
    metadata.take_or("user_id", optional(partial(string, high=256)), None)
    metadata.finish()


def _nothing(what: str) -> Callable[[Any, str], None]:
    """A field whose feature is not here yet: passes when it asks for nothing."""

    def check(value: Any, path: str) -> None:
        if value is not None and value != [] and value != {}:
            raise SenryuError("unsupported", path=path, what=what)

    return check
