"""The body of a Messages request -> Turn. Every field is used, refused by name, or provably asks for nothing.

What the bytes say is decided here; what a conversation may mean is decided for every wire shape in `service.rules`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from typing import Any, get_args

from senryu.api.betas import CONTEXT_EXCEEDED, MESSAGE_THREADS, STRUCTURED_OUTPUTS, refuse_betas, unknown_betas
from senryu.api.blocks import Blocks
from senryu.api.dialect import Dialect
from senryu.api.fields import SHOWN, Fields, array, boolean, choice, natural, optional, string, unit_range, wrong_tag
from senryu.api.toolfields import ToolFields
from senryu.api.wire import V2026
from senryu.errors import SenryuError
from senryu.types import Json, Message, Role, Text, Thread, ToolChoice, ToolResult, Turn

MOST_MESSAGES = 100_000
FOREIGN_FIELDS = {  # of other models and hosted services -> what each would ask for; null, [] and {} ask for nothing and pass
    "mcp_servers": "MCP servers are",
    "container": "containers are",
}
BOOKKEEPING_FIELDS = {  # the same, but no answer would differ: the lenient profile passes over them
    "context_management": "context management is",
    "inference_geo": "inference geography is",
    "speed": "speed is",
    "user_profile_id": "user profiles are",
}
_NOT_HERE = FOREIGN_FIELDS | BOOKKEEPING_FIELDS


@dataclass(frozen=True, slots=True)
class MessagesRequest:
    """A turn, and whether its answer is to be streamed."""

    turn: Turn
    stream: bool


class Parser:
    """Parses one body; an unknown beta is refused at once.

    `canonical` gives the id by which errors name a model; `tenant` is whose caches the turn may use; `files`: whether uploaded
    files can be referred to. After `create` or `count`, `headers` name what the lenient profile passed over.
    """

    def __init__(
        self,
        version: str,
        canonical: Callable[[str], str],
        *,
        betas: frozenset[str] = frozenset(),
        lenient: bool = False,
        tenant: str = "",
        files: bool = True,
    ) -> None:
        self.dialect = Dialect(version, canonical, betas, lenient, files)
        if unknown := unknown_betas(betas):
            refusal = refuse_betas(unknown)
            for name in unknown:
                self.dialect.pass_over(f"anthropic-beta:{name[:SHOWN]}", refusal)
        self.tenant = tenant
        self.blocks = Blocks(self.dialect)
        self.tool_fields = ToolFields(self.dialect, self.blocks)

    @property
    def headers(self) -> dict[str, str]:
        """What the response says of the reading."""
        return self.dialect.headers()

    def create(self, body: Any) -> MessagesRequest:
        """The body of POST /v1/messages. Raises SenryuError."""
        fields = Fields(body)
        model = self._model(fields)
        max_tokens = fields.take("max_tokens", natural)
        thread = self._thread_of(fields)
        turn = Turn(
            model=model,
            max_tokens=max_tokens,
            stop_sequences=fields.take_or("stop_sequences", stop_sequences, ()),
            fills_context=CONTEXT_EXCEEDED in self.dialect.betas,
            diagnose=fields.take_or("diagnostics", optional(self._diagnostics), None),
            thread=thread,
            tenant=self.tenant,
            **self._prompt(fields, kept_tools=thread is not None and thread.previous is not None),
            **self._sampling(fields),
        )
        stream = fields.take_or("stream", boolean, False)
        if stream and not max_tokens:
            raise SenryuError("prewarm", what="stream")
        fields.take_or("metadata", self._metadata, None)
        fields.take_or("service_tier", partial(choice, options=("auto", "standard_only")), "auto")
        self._foreign(fields)
        self.dialect.finish(fields)
        return MessagesRequest(turn, stream)

    def count(self, body: Any) -> Turn:
        """The body of POST /v1/messages/count_tokens. Raises SenryuError."""
        fields = Fields(body)
        turn = Turn(model=self._model(fields), max_tokens=1, tenant=self.tenant, **self._prompt(fields))
        self._foreign(fields)
        self.dialect.finish(fields)
        return turn

    def _model(self, fields: Fields) -> str:
        model = fields.take("model", partial(string, low=1, high=256))
        self.dialect.model = self.dialect.canonical(model)
        return model

    def _prompt(self, fields: Fields, kept_tools: bool = False) -> dict[str, Any]:
        """All that the model reads: tools, system, messages and the form of the answer. kept_tools: a thread has them."""
        tools = fields.take_or("tools", optional(self.tool_fields.tools), None) or ()
        choice: ToolChoice | None = fields.take_or("tool_choice", optional(self.tool_fields.choice), None)
        if choice is not None and not tools and not kept_tools:
            raise SenryuError("choice_without_tools")
        none: tuple[Text, ...] = ()
        return {
            "tools": tools,
            "tool_choice": choice or ToolChoice(),
            "system": fields.take_or("system", self.blocks.system, none),
            "messages": fields.take("messages", self._messages),
            "output_schema": self._output_schema(fields),
            "cache": self.blocks.marker(fields),
        }

    def _thread_of(self, fields: Fields) -> Thread | None:
        """The lenient profile needs no beta: passing over a thread would lose the conversation."""
        if self.dialect.lenient or MESSAGE_THREADS in self.dialect.betas:
            return fields.take_or("thread", optional(self._thread), None)
        return None

    def _thread(self, value: Any, path: str) -> Thread:
        thread, previous = Fields(value, path), None
        kind = thread.take("type", string)
        if kind == "continue":
            previous = thread.take("previous_message_id", partial(string, low=1, high=256))
        elif kind != "create":
            raise wrong_tag(path, kind, ("create", "continue"))
        self.dialect.finish(thread)
        return Thread(previous)

    def _output_schema(self, fields: Fields) -> Json | None:
        schema = fields.take_or("output_config", optional(self.tool_fields.output_config), None)
        if self.dialect.lenient or STRUCTURED_OUTPUTS in self.dialect.betas:
            old = fields.take_or("output_format", optional(self.tool_fields.output_format), None)
            if old is not None and schema is not None:
                raise SenryuError("two_formats")
            return old if schema is None else schema
        return schema

    def _sampling(self, fields: Fields) -> dict[str, Any]:
        """temperature, top_p and top_k; the newer version of the API does not know them."""
        if self.dialect.version == V2026:
            return {}
        return {
            "temperature": fields.take_or("temperature", unit_range, 1.0),
            "top_p": fields.take_or("top_p", unit_range, 0.99),
            "top_k": fields.take_or("top_k", natural, 0),
        }

    def _foreign(self, fields: Fields) -> None:
        """Features of other models and services: refused by name, unless nothing is asked."""
        fields.take_or("thinking", optional(self.thinking), None)
        for name, what in _NOT_HERE.items():
            value = fields.take_or(name, _unread, None)
            if name in FOREIGN_FIELDS or not self.dialect.lenient:
                self.dialect.without(what, value, name)
            elif value:
                self.dialect.ignore(name)

    def thinking(self, value: Any, path: str) -> None:
        """`thinking`: this model has none, so only "disabled" asks for nothing."""
        thinking = Fields(value, path)
        kind = thinking.take("type", partial(choice, options=("enabled", "disabled", "adaptive")))
        if kind == "disabled":
            self.dialect.finish(thinking)
        else:
            self.dialect.pass_over(path, SenryuError("no_thinking", model=self.dialect.model))

    def _messages(self, value: Any, path: str) -> tuple[Message, ...]:
        read = [self._message(item, f"{path}.{index}") for index, item in enumerate(array(value, path, MOST_MESSAGES))]
        return _folded(read) if self.dialect.lenient else tuple(message for message, _ in read)

    def _message(self, value: Any, path: str) -> tuple[Message, bool]:
        """A message, and whether it is a system's: in the lenient profile that is something the user says."""
        fields = Fields(value, path)
        name = fields.take("role", self._role)
        system = name == "system"
        role: Any = "user" if system else name
        if system:
            content: Any = fields.take("content", self.blocks.system)
        else:
            content = fields.take("content", partial(self.blocks.content, role=role))
        self.dialect.finish(fields)
        return Message(role, content), system

    def _role(self, value: Any, path: str) -> str:
        if value == "system":
            self.dialect.pass_over(path, SenryuError("system_role"))
            return "system"
        return choice(value, path, get_args(Role))

    def _diagnostics(self, value: Any, path: str) -> str:
        """The id of the answer before; empty for the first of a conversation."""
        fields = Fields(value, path)
        id = fields.take_or("previous_message_id", optional(partial(string, low=1, high=256)), None)
        self.dialect.finish(fields)
        return id or ""

    def _metadata(self, value: Any, path: str) -> None:
        metadata = Fields(value, path)
        metadata.take_or("user_id", optional(partial(string, high=256)), None)
        self.dialect.finish(metadata)


def _folded(read: list[tuple[Message, bool]]) -> tuple[Message, ...]:
    """The messages with each system message standing where it stood, as the user's.

    Results of tools must come first behind their calls: those of the user message behind a system message change places with
    it. The number of messages stays the same, so that errors name the right ones.
    """
    messages = [message for message, _ in read]
    start = 0
    for index, (message, system) in enumerate(read):
        if system:
            continue
        results = tuple(takewhile(lambda block: isinstance(block, ToolResult), message.content))
        if start < index and message.role == "user" and results:
            rest = message.content[len(results) :]
            moved = [results, *(said.content for said in messages[start:index])]
            moved[-1] = (*moved[-1], *rest)
            messages[start : index + 1] = [Message("user", content) for content in moved]
        start = index + 1
    return tuple(messages)


def _unread(value: Any, path: str) -> Any:
    return value


def stop_sequences(value: Any, path: str) -> tuple[str, ...]:
    """Texts at which an answer ends. Raises SenryuError."""
    stops = tuple(string(item, f"{path}.{index}") for index, item in enumerate(array(value, path)))
    if any(not stop or stop.isspace() for stop in stops):
        raise SenryuError("blank_stop")
    return stops
