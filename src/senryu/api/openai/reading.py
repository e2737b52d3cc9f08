"""What bodies of all of OpenAI's endpoints have in common: decoded JSON -> parts of a Turn."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from senryu.api.blocks import Blocks
from senryu.api.body import decode_json
from senryu.api.dialect import Dialect
from senryu.api.fields import Fields, array, boolean, choice, free, integer, matching, number, optional, string, unit_range
from senryu.api.toolfields import NAME
from senryu.api.wire import V2023
from senryu.errors import SenryuError
from senryu.service.registry import Registry
from senryu.types import CacheControl, Json, Text, Tool, ToolChoice

Quiet = Mapping[
    str, tuple[str, tuple[Any, ...]]
]  # field -> what it would ask for; the values, beside null, that ask for nothing
QUIET: Quiet = {  # of more than one endpoint
    "service_tier": ("service tiers other than 'default' are", ("auto", "default")),
    "prompt_cache_retention": ("a retention of caches is", ("in_memory", "in-memory")),
    "moderation": ("moderation is", ()),
}
HINTS = ("user", "safety_identifier", "prompt_cache_key")  # of who asks: no answer would differ
MOST_NAME, MOST_TEMPERATURE = 256, 2
SEEDS = 1 << 63
OBJECT: Json = {"type": "object"}


class Reading:
    """Reads one body. All methods raise SenryuError.

    tenant: whose caches the turn may use. cache_control: texts and tools may carry Claude's marker.
    """

    def __init__(self, registry: Registry, lenient: bool, tenant: str = "", cache_control: bool = False) -> None:
        self.dialect = Dialect(V2023, registry.canonical, lenient=lenient)
        self.tenant = tenant
        self._registry = registry
        self._blocks = Blocks(self.dialect)
        self._marked = cache_control

    def model(self, fields: Fields) -> str:
        """`model`, as it was asked for."""
        model = fields.take("model", partial(string, low=1, high=MOST_NAME))
        self.dialect.model = self.dialect.canonical(model)
        return model

    def most(self, model: str) -> int:
        """Tokens that an answer of this model may have. Raises SenryuError("model_unknown")."""
        return self._registry.resolve(model).model.limits.output

    def marker(self, fields: Fields) -> CacheControl | None:
        """The cache marker of a text, a tool or the body, where this shape has one."""
        return self._blocks.marker(fields) if self._marked else None

    def sampling(self, fields: Fields) -> dict[str, Any]:
        """temperature and top_p. Over 1 the temperature is 1: this model's scale ends there, and theirs at 2."""
        read: dict[str, Any] = {}
        temperature = fields.take_or("temperature", optional(_temperature), None)
        top_p = fields.take_or("top_p", optional(unit_range), None)
        read |= {} if temperature is None else {"temperature": min(temperature, 1.0)}
        return read if top_p is None else read | {"top_p": top_p}

    def seed(self, fields: Fields) -> int | None:
        """`seed`."""
        return fields.take_or("seed", optional(_seed), None)

    def stops(self, fields: Fields) -> tuple[str, ...]:
        """`stop`: a string or several."""
        return fields.take_or("stop", optional(_stops), None) or ()

    def stream(self, fields: Fields) -> tuple[bool, bool]:
        """(whether the answer is streamed, whether the stream ends with its usage)."""
        stream = fields.take_or("stream", optional(boolean), None) or False
        options = fields.take_or("stream_options", optional(Fields), None)
        if options is None:
            return stream, False
        if not stream:
            raise SenryuError("stream_options")
        usage = options.take_or("include_usage", optional(boolean), None) or False
        self.quiet(options, {"include_obfuscation": ("obfuscated streams are", (False,))})
        self.dialect.finish(options)
        return stream, usage

    def quiet(self, fields: Fields, features: Quiet) -> None:
        """Features that are not here: refused by name, unless nothing is asked."""
        for name, (what, nothing) in features.items():
            value = fields.take_or(name, _any, None)
            if asks_nothing(value, nothing):
                continue
            self.dialect.pass_over(fields.path(name), SenryuError("unsupported", path=fields.path(name), what=what))

    def hints(self, fields: Fields) -> dict[str, Any]:
        """Who asks, and what the caller notes of it: checked, and without influence on the answer."""
        read: dict[str, Any] = {name: fields.take_or(name, optional(string), None) for name in HINTS}
        metadata = fields.take_or("metadata", optional(free), None)
        for key, value in (metadata or {}).items():
            string(value, f"{fields.path('metadata')}.{key[:MOST_NAME]}")
        return read | {"metadata": metadata or {}}

    def text(self, value: Any, path: str, kinds: tuple[str, ...] = ("text",)) -> Text:
        """A content part of one of `kinds`, which is a text or a refusal; any other is refused by its name."""
        fields = Fields(value, path)
        kind = fields.take("type", string)
        if kind not in kinds:
            raise self.dialect.tag_error("content parts", kind, path)
        text = Text(fields.take("refusal" if kind == "refusal" else "text", string), self.marker(fields))
        if kind == "output_text":
            nothing: tuple[Any, ...] = ([],)
            self.quiet(fields, {"annotations": ("annotations are", nothing), "logprobs": ("log probabilities are", nothing)})
        self.dialect.finish(fields)
        return text

    def texts(self, value: Any, path: str, kinds: tuple[str, ...] = ("text",)) -> tuple[Text, ...]:
        """Content: a string, or parts."""
        if isinstance(value, str):
            return (Text(value),) if value else ()
        return tuple(self.text(item, f"{path}.{index}", kinds) for index, item in enumerate(array(value, path)))

    def function(self, fields: Fields) -> Tool:
        """A function, as a tool."""
        schema: Json | None = fields.take_or("parameters", optional(_parameters), None)
        tool = Tool(
            name=fields.take("name", partial(matching, pattern=NAME)),
            description=fields.take_or("description", optional(string), None) or "",
            input_schema=schema or {**OBJECT, "properties": {}},
            strict=fields.take_or("strict", optional(boolean), None) or False,
        )
        self.dialect.finish(fields)
        return tool

    def arguments(self, value: Any, path: str) -> Json:
        """A call's arguments, an object in a string; an empty string is one without any."""
        text = string(value, path)
        if not text.strip():
            return {}
        try:
            decoded = decode_json(text.encode())
        except SenryuError as error:
            raise SenryuError("bad_arguments", path=path, why=error.values["why"]) from None
        if not isinstance(decoded, dict):
            raise SenryuError("bad_arguments", path=path, why="it is no object")
        return free(decoded, path)

    def parallel(self, fields: Fields) -> bool:
        """`parallel_tool_calls`."""
        return fields.take_or("parallel_tool_calls", optional(boolean), None) is not False

    def format(self, fields: Fields, schema: Fields | None = None) -> dict[str, Any]:
        """The form of the answer, as fields of a Turn. schema: what holds it, if not `fields` themselves."""
        kind = fields.take("type", partial(choice, options=("text", "json_object", "json_schema")))
        if kind == "json_schema":
            inner = fields.take("json_schema", Fields) if schema is None else schema
            return self._schema(inner)
        return {} if kind == "text" else {"output_schema": OBJECT, "output_strict": False}

    def _schema(self, fields: Fields) -> dict[str, Any]:
        fields.take("name", partial(matching, pattern=NAME))
        fields.take_or("description", optional(string), None)
        schema = fields.take_or("schema", optional(free), None)
        strict = fields.take_or("strict", optional(boolean), None) or False
        self.dialect.finish(fields)
        return {"output_schema": OBJECT if schema is None else schema, "output_strict": strict}


def asks_nothing(value: Any, nothing: tuple[Any, ...]) -> bool:
    """Whether a value is null or one of `nothing`; true is not 1."""
    return value is None or any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in nothing)


def joined(texts: list[Text]) -> tuple[Text, ...]:
    """The system prompt of several texts: one, with a newline between them. A marker ends a text of its own."""
    blocks: list[Text] = []
    parts: list[str] = []
    for text in texts:
        if text.text.strip():
            parts.append(text.text)
        if text.cache and parts:
            blocks.append(Text("\n".join(parts), text.cache))
            parts = []
    return (*blocks, Text("\n".join(parts))) if parts else tuple(blocks)


def simple_choice(value: Any, path: str, parallel: bool) -> ToolChoice | None:
    """`tool_choice` where it is a word; None where it is not."""
    if not isinstance(value, str):
        return None
    word = choice(value, path, ("none", "auto", "required"))
    kinds: dict[str, Any] = {"none": "none", "auto": "auto", "required": "any"}
    return ToolChoice(kinds[word], parallel=parallel)


def counted(value: Any, path: str, low: int = 1) -> int:
    """A whole number of at least `low`."""
    result = integer(value, path)
    if result < low:
        raise SenryuError("below", path=path, low=low)
    return result


def _any(value: Any, path: str) -> Any:
    return value


def _temperature(value: Any, path: str) -> float:
    result = number(value, path)
    if not 0 <= result <= MOST_TEMPERATURE:
        raise SenryuError("range", path=path, low=0, high=MOST_TEMPERATURE)
    return result


def _seed(value: Any, path: str) -> int:
    """Any 64-bit number names a seed of ours."""
    result = integer(value, path)
    if not -SEEDS <= result < SEEDS:
        raise SenryuError("range", path=path, low=-SEEDS, high=SEEDS - 1)
    return result % SEEDS


def _stops(value: Any, path: str) -> tuple[str, ...]:
    if isinstance(value, str):
        return (string(value, path, low=1),)
    return tuple(string(item, f"{path}.{index}", low=1) for index, item in enumerate(array(value, path)))


def _parameters(value: Any, path: str) -> Json:
    """A schema of objects, also where it does not say so."""
    schema = free(value, path)
    Fields(schema, path).take_or("type", partial(choice, options=("object",)), "object")
    return schema if "type" in schema else {**OBJECT, **schema}
