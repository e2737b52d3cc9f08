"""The body of Converse -> Turn, and what its answer has to echo. Every field is used, refused by name, or asks for nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast, get_args

from senryu.api.bedrock.converse_blocks import ConverseBlocks, union
from senryu.api.betas import CONTEXT_EXCEEDED
from senryu.api.body import decode_json
from senryu.api.fields import (
    Fields,
    array,
    choice,
    free,
    integer,
    matching,
    natural,
    optional,
    string,
    unit_range,
)
from senryu.api.hosted import NewParser, names
from senryu.api.parse import MOST_MESSAGES, Parser, stop_sequences
from senryu.api.wire import V2023
from senryu.errors import SenryuError
from senryu.types import Json, Message, Role, Tool, ToolChoice, Turn

LATENCIES = ("standard", "optimized")
TIERS = ("priority", "default", "flex", "reserved")
MOST_STOPS, MOST_METADATA, MOST_POINTERS = 2500, 16, 10
POINTER = "(/([^~/]|~[01])*)+"  # JSON Pointer
FOREIGN_FIELDS = {"guardrailConfig": "guardrails are", "promptVariables": "variables of managed prompts are"}


@dataclass(frozen=True, slots=True)
class ConverseRequest:
    """A turn, and what is said again in its answer. `pointers`: JSON Pointers into the Message that was asked for."""

    turn: Turn
    latency: str | None = None
    tier: str | None = None
    pointers: tuple[str, ...] = ()


class ConverseReader:
    """Reads one body. `most_output` gives the output limit of a model: the default of maxTokens.

    After `create` or `count`, `headers` name what the lenient profile passed over.
    """

    def __init__(self, new_parser: NewParser, model: str, most_output: Callable[[str], int]) -> None:
        self._new_parser, self._model, self._most_output = new_parser, model, most_output
        self.headers: dict[str, str] = {}

    def create(self, body: Any) -> ConverseRequest:
        """The body of Converse and ConverseStream. Raises SenryuError."""
        fields = Fields(body)
        parser, extra = self._parser(fields)
        prompt, more = self._prompt(fields, parser, extra), self._more(parser, extra)
        sampling = fields.take_or("inferenceConfig", optional(partial(_sampling, parser=parser)), None) or {}
        schema = fields.take_or("outputConfig", optional(partial(_output_schema, parser=parser)), None)
        if schema is not None and more["output_schema"] is not None:
            raise SenryuError("two_formats")
        most = self._most_output(self._model)
        turn = Turn(
            model=self._model,
            tenant=parser.tenant,
            fills_context=CONTEXT_EXCEEDED in parser.dialect.betas or "max_tokens" not in sampling,
            **{"max_tokens": most, **prompt, **more, **sampling, "output_schema": schema or more["output_schema"]},
        )
        request = ConverseRequest(
            turn,
            latency=fields.take_or("performanceConfig", optional(partial(_member, name="latency", options=LATENCIES)), None),
            tier=fields.take_or("serviceTier", optional(partial(_member, name="type", options=TIERS)), None),
            pointers=fields.take_or("additionalModelResponseFieldPaths", _pointers, ()),
        )
        fields.take_or("requestMetadata", optional(_metadata), None)
        self._finish(fields, parser)
        return request

    def count(self, body: Any, path: str) -> Turn:
        """The `converse` of CountTokens' input. Raises SenryuError."""
        fields = Fields(body, path)
        parser, extra = self._parser(fields)
        prompt, more = self._prompt(fields, parser, extra), self._more(parser, extra)
        self._finish(fields, parser)
        return Turn(model=self._model, max_tokens=1, tenant=parser.tenant, **prompt, **more)

    def _parser(self, fields: Fields) -> tuple[Parser, Fields]:
        """What reads the model's own fields, and those fields: betas decide how all the rest is read."""
        path = fields.path("additionalModelRequestFields")
        extra = Fields(fields.take_or("additionalModelRequestFields", optional(free), None) or {}, path)
        parser = self._new_parser(V2023, extra.take_or("anthropic_beta", names, frozenset()))
        parser.dialect.model = parser.dialect.canonical(self._model)
        return parser, extra

    def _prompt(self, fields: Fields, parser: Parser, extra: Fields) -> dict[str, Any]:
        blocks = ConverseBlocks(parser.dialect)
        read_tools = partial(_tools, parser=parser, blocks=blocks)
        tools, chosen = fields.take_or("toolConfig", optional(read_tools), None) or ((), None)
        own = extra.take_or("tool_choice", optional(parser.tool_fields.choice), None)
        return {
            "messages": fields.take("messages", partial(_messages, parser=parser, blocks=blocks)),
            "system": fields.take_or("system", optional(blocks.system), None) or (),
            "tools": tools,
            "tool_choice": own or chosen or ToolChoice(),
        }

    def _more(self, parser: Parser, extra: Fields) -> dict[str, Any]:
        """`additionalModelRequestFields`: fields of the Messages API that Converse has no name for."""
        extra.take_or("thinking", optional(parser.thinking), None)
        more = {
            "top_k": extra.take_or("top_k", natural, 0),
            "output_schema": extra.take_or("output_config", optional(parser.tool_fields.output_config), None),
        }
        parser.dialect.finish(extra)
        return more

    def _finish(self, fields: Fields, parser: Parser) -> None:
        for name, what in FOREIGN_FIELDS.items():
            parser.dialect.without(what, fields.take_or(name, lambda value, path: value, None), fields.path(name))
        parser.dialect.finish(fields)
        self.headers = parser.headers


def _messages(value: Any, path: str, parser: Parser, blocks: ConverseBlocks) -> tuple[Message, ...]:
    messages = []
    for index, item in enumerate(array(value, path, MOST_MESSAGES)):
        fields = Fields(item, f"{path}.{index}")
        role = cast(Role, fields.take("role", partial(choice, options=get_args(Role))))
        messages.append(Message(role, fields.take("content", partial(blocks.content, role=role))))
        parser.dialect.finish(fields)
    return tuple(messages)


def _tools(value: Any, path: str, parser: Parser, blocks: ConverseBlocks) -> tuple[tuple[Tool, ...], ToolChoice | None]:
    fields = Fields(value, path)
    tools = fields.take("tools", blocks.tools)
    if not tools:
        raise SenryuError("too_few", path=fields.path("tools"))
    chosen = fields.take_or("toolChoice", optional(blocks.choice), None)
    parser.dialect.finish(fields)
    return tools, chosen


def _sampling(value: Any, path: str, parser: Parser) -> dict[str, Any]:
    """`inferenceConfig`: what it sets of a Turn."""
    fields = Fields(value, path)
    read = {
        "max_tokens": fields.take_or("maxTokens", optional(_positive), None),
        "temperature": fields.take_or("temperature", optional(unit_range), None),
        "top_p": fields.take_or("topP", optional(unit_range), None),
        "stop_sequences": fields.take_or("stopSequences", optional(_stops), None),
    }
    parser.dialect.finish(fields)
    return {name: value for name, value in read.items() if value is not None}


def _positive(value: Any, path: str) -> int:
    if (count := integer(value, path)) < 1:
        raise SenryuError("below", path=path, low=1)
    return count


def _stops(value: Any, path: str) -> tuple[str, ...]:
    return stop_sequences(array(value, path, MOST_STOPS), path)


def _output_schema(value: Any, path: str, parser: Parser) -> Json | None:
    """`outputConfig`: the schema of its text format. This model knows no effort."""
    config = Fields(value, path)
    if config.take_or("effort", optional(string), None):
        parser.dialect.pass_over(config.path("effort"), SenryuError("no_effort"))
    schema = config.take_or("textFormat", optional(partial(_text_format, parser=parser)), None)
    parser.dialect.finish(config)
    return schema


def _text_format(value: Any, path: str, parser: Parser) -> Json:
    format = Fields(value, path)
    format.take("type", partial(choice, options=("json_schema",)))
    _, inner, where = union(format.take("structure", lambda value, path: value), format.path("structure"), ("jsonSchema",))
    definition = Fields(inner, where)
    schema = definition.take("schema", _json_text)
    for name in ("name", "description"):  # no model is told
        definition.take_or(name, optional(string), None)
    parser.dialect.finish(definition)
    parser.dialect.finish(format)
    return schema


def _json_text(value: Any, path: str) -> Json:
    """A schema, which stands in a string."""
    try:
        decoded = decode_json(string(value, path).encode())
    except SenryuError as error:
        if error.code != "bad_json":
            raise
        raise SenryuError("schema_text", path=path, why=error.message.partition(": ")[2]) from None
    return free(decoded, path)


def _member(value: Any, path: str, name: str, options: tuple[str, ...]) -> str | None:
    fields = Fields(value, path)
    chosen = fields.take_or(name, optional(partial(choice, options=options)), None)
    fields.finish()
    return chosen


def _pointers(value: Any, path: str) -> tuple[str, ...]:
    given = enumerate(array(value, path, MOST_POINTERS))
    return tuple(matching(item, f"{path}.{index}", POINTER) for index, item in given)


def _metadata(value: Any, path: str) -> None:
    """Labels for a log of invocations, which this server does not keep."""
    labels = free(value, path)
    if len(labels) > MOST_METADATA:
        raise SenryuError("too_many", path=path, high=MOST_METADATA, count=len(labels))
    for name, label in labels.items():
        string(label, f"{path}.{name[:MOST_METADATA]}", high=256)
