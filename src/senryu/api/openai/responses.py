"""The body of POST /v1/responses -> Turn: text and functions. Nothing is kept between requests, and the answer says so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from senryu.api.fields import Fields, array, choice, optional, string
from senryu.api.openai.errors import Places
from senryu.api.openai.reading import QUIET, Quiet, Reading, counted, joined, simple_choice
from senryu.service.registry import Registry
from senryu.types import Block, Message, Text, Tool, ToolChoice, ToolResult, ToolUse, Turn

ROLES = ("user", "assistant", "system", "developer")
MOST_ITEMS = 100_000
TEXT_PARTS = {"assistant": ("output_text", "refusal", "input_text")}
UNHEARD: Quiet = {
    **QUIET,
    "background": ("responses in the background are", (False,)),
    "context_management": ("context management is", ([],)),
    "conversation": ("conversations that the server keeps are", ()),
    "include": ("further parts of a response are", ([],)),
    "max_tool_calls": ("tools that the server runs are", ()),
    "previous_response_id": ("responses that the server keeps are", ()),
    "prompt": ("prompt templates are", ()),
    "store": ("responses that the server keeps are", (False,)),
    "top_logprobs": ("log probabilities are", (0,)),
    "truncation": ("truncation is", ("disabled",)),
}
THOUGHTS = "reasoning"
COUNTED = (  # fields that make the prompt, and that a body to be counted may have
    "conversation",
    "input",
    "instructions",
    "model",
    "parallel_tool_calls",
    "previous_response_id",
    "reasoning",
    "text",
    "tool_choice",
    "tools",
    "truncation",
)


@dataclass(frozen=True, slots=True)
class ResponseRequest:
    """A turn, how its answer is to be written, what the answer repeats of the body, and places of what the service refuses."""

    turn: Turn
    stream: bool
    repeated: Mapping[str, Any]
    places: Places


class ResponseParser:
    """Parses one body. After `create`, `headers` name what the lenient profile passed over."""

    def __init__(self, registry: Registry, *, lenient: bool = False, tenant: str = "") -> None:
        self.reading = Reading(registry, lenient, tenant)
        self.dialect = self.reading.dialect

    @property
    def headers(self) -> dict[str, str]:
        """What the response says of the reading."""
        return self.dialect.headers()

    def count(self, body: Any) -> ResponseRequest:
        """Of a body whose prompt is only to be counted. Raises SenryuError."""
        fields = Fields(body)
        kept = {name: value for name in COUNTED if (value := fields.take_or(name, lambda value, path: value, None)) is not None}
        self.dialect.finish(fields)
        return self.create(kept)

    def create(self, body: Any) -> ResponseRequest:
        """Raises SenryuError."""
        fields, reading = Fields(body), self.reading
        model = reading.model(fields)
        most = fields.take_or("max_output_tokens", optional(counted), None)
        instructions = fields.take_or("instructions", optional(string), None)
        tools = fields.take_or("tools", optional(self._tools), None) or ()
        choice = self._chosen(fields, tools)
        system, messages, places = fields.take("input", self._input)
        asked: dict[str, Any] = {"max_tokens": reading.most(model), "fills_context": True}
        if most is not None:
            asked = {"max_tokens": most}
        form: dict[str, Any] | None = fields.take_or("text", optional(self._text), None)
        turn = Turn(
            model=model,
            messages=messages,
            system=joined([*([Text(instructions)] if instructions else ()), *system]),
            tools=tools,
            tool_choice=choice,
            tenant=reading.tenant,
            **asked,
            **reading.sampling(fields),
            **(form or {}),
        )
        stream, _ = reading.stream(fields)
        hints = reading.hints(fields)
        fields.take_or("reasoning", optional(self._reasoning), None)
        reading.quiet(fields, UNHEARD)
        self.dialect.finish(fields)
        names = {r"tools\.(\d+)\.custom": r"tools.\1", r"output_config\.format\.schema": "text.format.schema"}
        return ResponseRequest(
            turn, stream, _repeated(body, turn, most, hints), replace(places, limit="max_output_tokens", names=names)
        )

    def _tools(self, value: Any, path: str) -> tuple[Tool, ...]:
        return tuple(self._tool(item, f"{path}.{index}") for index, item in enumerate(array(value, path)))

    def _tool(self, value: Any, path: str) -> Tool:
        fields = Fields(value, path)
        kind = fields.take("type", string)
        if kind != "function":
            raise self.dialect.tag_error("tools", kind, path)
        return self.reading.function(fields)

    def _chosen(self, fields: Fields, tools: tuple[Tool, ...]) -> ToolChoice:
        parallel = self.reading.parallel(fields)
        chosen = fields.take_or("tool_choice", optional(partial(self._choice, parallel=parallel)), None)
        chosen = chosen or ToolChoice(parallel=parallel)
        return chosen if tools or chosen.kind in ("any", "tool") else ToolChoice()

    def _choice(self, value: Any, path: str, parallel: bool) -> ToolChoice:
        if word := simple_choice(value, path, parallel):
            return word
        fields = Fields(value, path)
        kind = fields.take("type", string)
        if kind != "function":
            raise self.dialect.tag_error("tool choices", kind, path)
        name = fields.take("name", partial(string, low=1))
        self.dialect.finish(fields)
        return ToolChoice("tool", name, parallel)

    def _text(self, value: Any, path: str) -> dict[str, Any]:
        fields = Fields(value, path)
        self.reading.quiet(fields, {"verbosity": ("a verbosity other than 'medium' is", ("medium",))})
        read = fields.take_or("format", optional(self._format), None) or {}
        self.dialect.finish(fields)
        return read

    def _format(self, value: Any, path: str) -> dict[str, Any]:
        fields = Fields(value, path)
        read = self.reading.format(fields, schema=fields)
        self.dialect.finish(fields)
        return read

    def _reasoning(self, value: Any, path: str) -> None:
        fields = Fields(value, path)
        self.reading.quiet(
            fields,
            {
                "effort": ("reasoning is", ("none",)),
                "summary": ("summaries of reasoning are", ()),
                "generate_summary": ("summaries of reasoning are", ()),
            },
        )
        self.dialect.finish(fields)

    def _input(self, value: Any, path: str) -> tuple[list[Text], tuple[Message, ...], Places]:
        """(texts of the system that lead, messages, their places). Later ones of the system are what the user says."""
        if isinstance(value, str):
            return [], (Message("user", (Text(value),) if value else ()),), Places(path)
        system: list[Text] = []
        messages: list[Message] = []
        numbers: list[int] = []
        for index, item in enumerate(array(value, path, MOST_ITEMS)):
            role, content = self._item(item, f"{path}.{index}")
            if role in ("system", "developer") and not messages:
                system += [block for block in content if isinstance(block, Text)]
            elif content or role != "assistant":
                messages.append(Message("assistant" if role == "assistant" else "user", content))
                numbers.append(index)
        return system, tuple(messages), Places(path, messages=tuple(numbers))

    def _item(self, value: Any, path: str) -> tuple[str, tuple[Block, ...]]:
        """(role, content) of an item of the input; those of a response, sent back, are items too."""
        fields = Fields(value, path)
        kind = fields.take_or("type", string, "message")
        fields.take_or("id", optional(string), None)
        fields.take_or("status", optional(string), None)
        block: Block
        match kind:
            case "message":
                return self._message(fields)
            case "function_call":
                id, name = fields.take("call_id", partial(string, low=1)), fields.take("name", partial(string, low=1))
                block = ToolUse(id, name, fields.take("arguments", self.reading.arguments))
            case "function_call_output":
                id = fields.take("call_id", partial(string, low=1))
                block = ToolResult(id, fields.take("output", partial(self.reading.texts, kinds=("input_text",))))
            case _:
                error = self.dialect.tag_error("input items", kind, path)
                if kind != THOUGHTS:
                    raise error
                self.dialect.pass_over(path, error)
                return "assistant", ()
        self.dialect.finish(fields)
        return "assistant" if isinstance(block, ToolUse) else "user", (block,)

    def _message(self, fields: Fields) -> tuple[str, tuple[Block, ...]]:
        role = fields.take("role", partial(choice, options=ROLES))
        kinds = TEXT_PARTS.get(role, ("input_text",))
        content = fields.take("content", partial(self.reading.texts, kinds=kinds))
        self.reading.quiet(fields, {"phase": ("phases of answers are", ("final_answer",))})
        self.dialect.finish(fields)
        if role == "assistant":
            content = tuple(text for text in content if text.text.strip())
        return role, content


def _repeated(body: dict[str, Any], turn: Turn, most: int | None, hints: dict[str, Any]) -> dict[str, Any]:
    """What a response says of its request."""
    text = body.get("text") or {}
    return {
        "instructions": body.get("instructions"),
        "max_output_tokens": most,
        "parallel_tool_calls": turn.tool_choice.parallel,
        "temperature": turn.temperature,
        "text": {"format": text.get("format") or {"type": "text"}, "verbosity": "medium"},
        "tool_choice": body.get("tool_choice") or "auto",
        "tools": body.get("tools") or [],
        "top_p": turn.top_p,
        **hints,
    }
