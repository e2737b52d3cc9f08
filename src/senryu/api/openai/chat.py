"""The body of POST /v1/chat/completions -> Turn. Every field is used, refused by name, or provably asks for nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from senryu.api.fields import Fields, array, choice, optional, string
from senryu.api.openai.errors import Places
from senryu.api.openai.options import OPENAI, ChatOptions
from senryu.api.openai.reading import QUIET, Quiet, Reading, counted, joined, simple_choice
from senryu.errors import SenryuError
from senryu.service.registry import Registry
from senryu.types import Block, Message, Text, Tool, ToolChoice, ToolResult, ToolUse, Turn

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
SYSTEM = ("system", "developer")
MOST_MESSAGES = 100_000
UNHEARD: Quiet = {  # features that this model or server does not have
    **QUIET,
    "n": ("several choices are", (1,)),
    "logprobs": ("log probabilities are", (False,)),
    "top_logprobs": ("log probabilities are", (0,)),
    "logit_bias": ("biases of tokens are", ({},)),
    "frequency_penalty": ("penalties are", (0,)),
    "presence_penalty": ("penalties are", (0,)),
    "modalities": ("modalities other than text are", (["text"],)),
    "audio": ("audio is", ()),
    "prediction": ("predicted outputs are", ()),
    "store": ("stored completions are", (False,)),
    "reasoning_effort": ("reasoning is", ("none",)),
    "verbosity": ("a verbosity other than 'medium' is", ("medium",)),
    "web_search_options": ("web search is", ()),
}
UNSAID: Quiet = {"audio": ("answers in audio are", ()), "annotations": ("annotations are", ([],))}  # of an assistant
NEW_LIMIT = "max_completion_tokens"
SCHEMA_PLACES = {r"output_config\.format\.schema": "response_format.json_schema.schema"}


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A turn, and how its answer is to be written. legacy: calls are `function_call`s. places: of what the service refuses."""

    turn: Turn
    stream: bool
    include_usage: bool
    legacy: bool
    places: Places


class ChatParser:
    """Parses one body. After `create`, `headers` name what the lenient profile passed over."""

    def __init__(self, registry: Registry, *, lenient: bool = False, tenant: str = "", options: ChatOptions = OPENAI) -> None:
        self.reading = Reading(registry, lenient, tenant, options.cache_control)
        self.dialect = self.reading.dialect
        self.options = options

    @property
    def headers(self) -> dict[str, str]:
        """What the response says of the reading."""
        return self.dialect.headers()

    def create(self, body: Any) -> ChatRequest:
        """Raises SenryuError."""
        fields, reading = Fields(body), self.reading
        model = reading.model(fields)
        further = self.options.read(fields, self.dialect)
        tools, choice, legacy = self._tools(fields)
        system, messages, places = fields.take("messages", partial(_Conversation(reading).read, legacy=legacy))
        limit, most = self._limit(fields)
        form: dict[str, Any] | None = fields.take_or("response_format", optional(self._format), None)
        asked: dict[str, Any] = {
            "max_tokens": most,
            "stop_sequences": reading.stops(fields),
            "seed": reading.seed(fields),
            "cache": reading.marker(fields),
            **reading.sampling(fields),
            **(form or {}),
            **further,
        }
        stream, include_usage = reading.stream(fields)
        reading.hints(fields)
        reading.quiet(fields, UNHEARD)
        self.dialect.finish(fields)
        if limit is None:
            asked |= {"max_tokens": reading.most(model), "fills_context": True}
        turn = Turn(
            model=model,
            messages=messages,
            system=system,
            tools=tools,
            tool_choice=choice,
            tenant=reading.tenant,
            **asked,
        )
        names = SCHEMA_PLACES | {r"tools\.(\d+)\.custom": r"functions.\1" if legacy else r"tools.\1.function"}
        places = replace(places, limit=limit or places.limit, names=names)
        return ChatRequest(turn, stream, include_usage, legacy, places)

    def _limit(self, fields: Fields) -> tuple[str | None, int | None]:
        """(the field that bounds the answer, by how much)."""
        old = fields.take_or("max_tokens", optional(counted), None)
        new = fields.take_or(NEW_LIMIT, optional(counted), None)
        if old is not None and new is not None:
            raise SenryuError("both_given", path="max_tokens", other=NEW_LIMIT)
        return (None, None) if new is None and old is None else ("max_tokens", old) if new is None else (NEW_LIMIT, new)

    def _format(self, value: Any, path: str) -> dict[str, Any]:
        fields = Fields(value, path)
        read = self.reading.format(fields)
        self.dialect.finish(fields)
        return read

    def _tools(self, fields: Fields) -> tuple[tuple[Tool, ...], ToolChoice, bool]:
        """(the tools, which to call, whether they came as functions of the old form)."""
        parallel = self.reading.parallel(fields)
        tools = fields.take_or("tools", optional(self._tool_list), None) or ()
        functions = fields.take_or("functions", optional(self._functions), None) or ()
        choice = fields.take_or("tool_choice", optional(partial(self._choice, parallel=parallel)), None)
        old_choice = fields.take_or("function_call", optional(self._old_choice), None)
        legacy = bool(functions) or old_choice is not None
        if legacy and (tools or choice):
            raise SenryuError("both_given", path="functions" if functions else "function_call", other="tools")
        chosen = (old_choice or ToolChoice(parallel=False)) if legacy else (choice or ToolChoice(parallel=parallel))
        if not tools and not functions and chosen.kind in ("auto", "none"):
            chosen = ToolChoice()  # of no tools
        return tools or functions, chosen, legacy

    def _tool_list(self, value: Any, path: str) -> tuple[Tool, ...]:
        return tuple(self._tool(item, f"{path}.{index}") for index, item in enumerate(array(value, path)))

    def _tool(self, value: Any, path: str) -> Tool:
        fields = Fields(value, path)
        kind = fields.take("type", string)
        if kind != "function":
            raise self.dialect.tag_error("tools", kind, path)
        tool = self.reading.function(fields.take("function", Fields))
        marker = self.reading.marker(fields)
        self.dialect.finish(fields)
        return replace(tool, cache=marker)

    def _functions(self, value: Any, path: str) -> tuple[Tool, ...]:
        items = enumerate(array(value, path))
        return tuple(self.reading.function(Fields(item, f"{path}.{index}")) for index, item in items)

    def _choice(self, value: Any, path: str, parallel: bool) -> ToolChoice:
        if word := simple_choice(value, path, parallel):
            return word
        fields = Fields(value, path)
        kind = fields.take("type", string)
        if kind != "function":
            raise self.dialect.tag_error("tool choices", kind, path)
        function = fields.take("function", Fields)
        name = function.take("name", partial(string, low=1))
        self.dialect.finish(function)
        self.dialect.finish(fields)
        return ToolChoice("tool", name, parallel)

    def _old_choice(self, value: Any, path: str) -> ToolChoice:
        if isinstance(value, str):
            kind: Any = choice(value, path, ("none", "auto"))
            return ToolChoice(kind, parallel=False)
        fields = Fields(value, path)
        name = fields.take("name", partial(string, low=1))
        self.dialect.finish(fields)
        return ToolChoice("tool", name, parallel=False)


class _Conversation:
    """Reads `messages`: those of the system that lead are its prompt; later ones stay where they are, as what the user says,
    so that the prompt's beginning, and with it what is cached, stays the same."""

    def __init__(self, reading: Reading) -> None:
        self.reading, self.dialect = reading, reading.dialect
        self._called: dict[str, str] = {}  # a function of the old form -> the id that its last call was given

    def read(self, value: Any, path: str, legacy: bool) -> tuple[tuple[Text, ...], tuple[Message, ...], Places]:
        """(system prompt, messages, places of the messages)."""
        system: list[Text] = []
        messages: list[Message] = []
        numbers: list[int] = []
        for index, item in enumerate(array(value, path, MOST_MESSAGES)):
            fields = Fields(item, f"{path}.{index}")
            role = fields.take("role", partial(choice, options=ROLES))
            leads = role in SYSTEM and not messages
            content = self._content(fields, role, index)
            self.dialect.finish(fields)
            if leads:
                system += [block for block in content if isinstance(block, Text)]
            elif content or role != "assistant":  # an answer may have been empty, and clients send it back
                messages.append(Message("assistant" if role == "assistant" else "user", content))
                numbers.append(index)
        return joined(system), tuple(messages), Places(path, messages=tuple(numbers))

    def _content(self, fields: Fields, role: str, index: int) -> tuple[Block, ...]:
        match role:
            case "assistant":
                return self._said(fields, index)
            case "tool":
                fields.take_or("name", optional(string), None)
                id = fields.take("tool_call_id", partial(string, low=1))
                return (ToolResult(id, fields.take("content", self.reading.texts)),)
            case "function":
                name = fields.take("name", partial(string, low=1))
                id = self._called.get(name, f"function {name}")
                content: tuple[Text, ...] | None = fields.take("content", optional(self.reading.texts))
                return (ToolResult(id, content or ()),)
        self._no_name(fields)
        return fields.take("content", self.reading.texts)

    def _said(self, fields: Fields, index: int) -> tuple[Block, ...]:
        """Of the assistant: its texts, then its calls."""
        self._no_name(fields)
        said = fields.take_or("content", optional(partial(self.reading.texts, kinds=("text", "refusal"))), None) or ()
        refused = fields.take_or("refusal", optional(string), None) or ""
        texts = tuple(text for text in (*said, Text(refused)) if text.text.strip())
        self.reading.quiet(fields, UNSAID)
        calls = fields.take_or("tool_calls", optional(self._calls), None) or ()
        old = fields.take_or("function_call", optional(partial(self._old_call, index=index)), None)
        return (*texts, *calls, *((old,) if old else ()))

    def _no_name(self, fields: Fields) -> None:
        self.reading.quiet(fields, {"name": ("names of speakers are", ())})

    def _calls(self, value: Any, path: str) -> tuple[ToolUse, ...]:
        return tuple(self._call(item, f"{path}.{index}") for index, item in enumerate(array(value, path)))

    def _call(self, value: Any, path: str) -> ToolUse:
        fields = Fields(value, path)
        id = fields.take("id", partial(string, low=1))
        kind = fields.take_or("type", string, "function")
        if kind != "function":
            raise self.dialect.tag_error("tool calls", kind, path)
        fields.take_or("index", lambda value, path: value, None)  # of a stream whose deltas were added up
        use = self._function(fields.take("function", Fields), id)
        self.dialect.finish(fields)
        return use

    def _old_call(self, value: Any, path: str, index: int) -> ToolUse:
        use = self._function(Fields(value, path), f"function {index}")
        self._called[use.name] = use.id
        return use

    def _function(self, fields: Fields, id: str) -> ToolUse:
        name = fields.take("name", partial(string, low=1))
        use = ToolUse(id, name, fields.take("arguments", self.reading.arguments))
        self.dialect.finish(fields)
        return use
