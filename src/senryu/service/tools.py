"""What may be said in an answer to a turn with tools or an output schema, as a grammar; and which schemas are refused.

A call's arguments are decoded under its tool's schema. A tool that is not `strict` may use keywords that the grammar library
does not know (`not`, `if`, `uniqueItems`, unknown formats...): those are left out, and oneOf counts as anyOf. Where that is
not enough, patterns and formats are left out too, and at last the arguments are any JSON object.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from senryu.engine.interface import Grammar, GrammarError, GrammarFailed
from senryu.errors import SenryuError
from senryu.service.calls import CallFormat, marks, symbols
from senryu.service.registry import LoadedModel
from senryu.service.structured import STRICT_TOOLS, check_strict, prefilled, required_first, too_deep
from senryu.types import Json, Tool, ToolResult, ToolUse, Turn

OUTPUT_PATH = "output_config.format.schema"
_JSON = CallFormat("json", start="")  # whose separators structured output has
_COMPOSED = ("anyOf", "oneOf", "allOf", "$ref", "if", "patternProperties", "additionalProperties", "unevaluatedProperties")


@dataclass(frozen=True, slots=True)
class Plan:
    """How a turn is to be answered.

    grammar: what the answer must match; None for free text. calls: how calls in it are written; None where none can be.
    forced: it has nothing but calls. begun: it continues a text (prefill).
    """

    grammar: Grammar | None = None
    calls: CallFormat | None = None
    forced: bool = False
    begun: bool = False


def uses_tools(turn: Turn) -> bool:
    """Whether the turn offers tools or tells of calls that were made."""
    return bool(turn.tools) or any(
        isinstance(block, ToolUse | ToolResult) for message in turn.messages for block in message.content
    )


def call_format(model: LoadedModel, turn: Turn) -> CallFormat | None:
    """The model's form of calls; None for a turn without tools. Raises SenryuError("no_tools") when it has none."""
    if not uses_tools(turn):
        return None
    if model.calls is None:
        raise SenryuError("no_tools", model=model.name)
    return model.calls


async def plan(model: LoadedModel, turn: Turn) -> Plan:
    """Everything about tools and schemas that is wrong with the turn is refused here, as SenryuError, before a token is spent.

    The grammar is compiled already, in a thread: the engine finds it in its cache.
    """
    form = call_format(model, turn)
    if turn.output_schema is not None and prefilled(turn):
        raise SenryuError("schema_prefill")
    if form is None and turn.output_schema is None:
        return Plan()
    return await asyncio.to_thread(_Planner(model, turn, form).plan)


class _Planner:
    """Writes the grammar of one turn in Lark, the library's dialect: <[7]> is the token 7, %json a schema."""

    def __init__(self, model: LoadedModel, turn: Turn, form: CallFormat | None) -> None:
        self._engine = model.engine
        tokenizer = model.tokenizer
        self._marks = marks(form, tokenizer.added_tokens) if form else {}
        # tokens like <think>, which stand for themselves in texts, but which the library takes for special ones
        apart = tokenizer.added_tokens.keys() - tokenizer.special_tokens.keys() - self._marks.keys()
        self._apart = sorted(tokenizer.added_tokens[text] for text in apart if text.startswith("<") and text.endswith(">"))
        self._turn = turn
        self._form = form
        self._separators = form or _JSON
        self._begun = prefilled(turn)

    def plan(self) -> Plan:
        """See the function."""
        turn, form = self._turn, self._form
        strict = [(f"tools.{i}.custom", tool.input_schema) for i, tool in enumerate(turn.tools) if tool.strict]
        if len(strict) > STRICT_TOOLS:
            raise SenryuError("many_strict", count=len(strict), most=STRICT_TOOLS)
        output = [(OUTPUT_PATH, turn.output_schema)] if turn.output_schema is not None and turn.output_strict else []
        check_strict([*strict, *output])
        tools = self._offered()
        forced = turn.tool_choice.kind in ("any", "tool")
        if not tools or form is None:
            return Plan(self._compiled(self._text_alone()))
        if form.anchored and turn.output_schema is not None and not forced:
            raise SenryuError("schema_and_tools", model=turn.model)
        rules = self._calls(form, forced)
        source = [*rules, *self._call_rules(form, [(tool, self._schema(tool.input_schema, tool.strict, 0)) for tool in tools])]
        try:
            grammar = self._compiled(source)
        except SenryuError:
            relaxed = [(tool, self._relaxed(tool.input_schema, tool.strict)) for tool in tools]
            grammar = self._compiled([*rules, *self._call_rules(form, relaxed)])
        return Plan(grammar, form, forced, self._begun)

    def _offered(self) -> list[Tool]:
        """The tools that may be called."""
        choice = self._turn.tool_choice
        if choice.kind == "none":
            return []
        return [tool for tool in self._turn.tools if choice.kind != "tool" or tool.name == choice.name]

    def _compiled(self, rules: list[str]) -> Grammar:
        grammar = Grammar("lark", "\n".join(rules))
        try:
            self._engine.compile(grammar)
        except GrammarError as error:
            if self._turn.output_schema is not None and self._turn.output_strict:
                self._explain(OUTPUT_PATH, self._turn.output_schema)
            for number, tool in enumerate(self._turn.tools):
                if tool.strict:
                    self._explain(f"tools.{number}.custom", tool.input_schema)
            raise SenryuError("grammar", why=grammar_reason(error)) from error
        return grammar

    def _explain(self, path: str, schema: Json) -> None:
        """Raises SenryuError when the library refuses this schema by itself."""
        try:
            self._engine.compile(Grammar("json_schema", json.dumps(required_first(schema))))
        except GrammarError as error:
            raise SenryuError("schema", path=path, why=grammar_reason(error)) from error

    def _text_alone(self) -> list[str]:
        """Text that holds no call: the output schema's, or any."""
        if self._turn.output_schema is not None:
            return ["start: out", self._out()]
        assert self._form is not None
        start = self._form.start
        if start in self._marks:
            return [f"start: {self._others()} TEXT?", _TEXT]
        barred = f"BARRED: {'' if self._form.anchored else _ANY} {json.dumps(start)} {_ANY}"
        return [f"start: {self._others()} TEXT?", f"{_TEXT} & ~BARRED", barred]

    def _others(self) -> str:
        """What may stand before the last of a text: more of it, each with a token at its end that has a place of its own."""
        return f"(TEXT? <[{','.join(map(str, self._apart))}]>)*" if self._apart else ""

    def _calls(self, form: CallFormat, forced: bool) -> list[str]:
        """The rules around a call: `start`, and what stands between calls."""
        several = self._turn.tool_choice.parallel and not form.anchored
        opened, first = self._literal(form.opening), self._literal(form.start)
        more = self._literal(form.between or form.lead + form.start + form.opening) + " call"
        if form.between:
            body = f"{opened} call {f'({more})*' if several else ''} {self._literal(form.closing)}"
        else:
            closing = self._literal(form.closing)
            body = f"{opened} call {closing} {f'({more} {closing})*' if several else ''}"
        rules = [f"calls: {body}"]
        if forced:
            return [f"start: {first} calls", *rules]
        if self._turn.output_schema is not None:
            return [f"start: {first} calls | out", *rules, self._out()]
        text = f"{self._others()} TEXT?"
        if form.anchored and self._begun:
            return [f"start: {text}", *rules, _TEXT]
        if form.start in self._marks:
            return [f"start: {text} ({first} calls)?", *rules, _TEXT]
        # as soon as the text holds a start, the lazy lexeme has won and a call it is
        head = f"HEAD: {'' if form.anchored else _ANY} {json.dumps(form.start)}"
        before = "" if form.anchored else self._others()
        return [f"start: {text} | {before} head calls", *rules, "head[lazy]: HEAD", head, _TEXT]

    def _call_rules(self, form: CallFormat, tools: list[tuple[Tool, str]]) -> list[str]:
        rules = ["call: " + " | ".join(f"call{number}" for number in range(len(tools)))]
        for number, (tool, schema) in enumerate(tools):
            before = self._literal(form.before_name, json.dumps(tool.name)[1:-1], form.middle)
            rules.append(f"call{number}: {before} arguments{number} {self._literal(form.after)}")
            rules.append(f"arguments{number}: %json {schema}")
        return rules

    def _literal(self, text: str, name: str = "", rest: str = "") -> str:
        """The texts as Lark, marks in them by id, but not in a name."""
        parts: list[str] = []
        plain = ""
        for symbol in [*symbols(text, self._marks), *name, *symbols(rest, self._marks), ""]:
            if len(symbol) == 1:
                plain += symbol
                continue
            parts += [json.dumps(plain)] if plain else []
            parts += [f"<[{self._marks[symbol]}]>"] if symbol else []
            plain = ""
        return " ".join(parts)

    def _out(self) -> str:
        schema = self._turn.output_schema
        assert schema is not None
        return f"out: %json {self._relaxed(schema, self._turn.output_strict)}"

    def _schema(self, schema: Json, strict: bool, relaxed: int) -> str:
        """A schema for the library. relaxed: 0 without keywords that are unknown, 1 without patterns, 2 any object."""
        if strict:
            return self._json(required_first(schema), lenient=False)
        if relaxed == 2 or too_deep(schema):
            return self._json({"type": "object"}, lenient=True)
        return self._json(_closed(_without_patterns(schema) if relaxed else schema), lenient=True)

    def _json(self, schema: Json, lenient: bool) -> str:
        options = {
            "whitespace_flexible": False,
            "item_separator": self._separators.item_separator,
            "key_separator": self._separators.key_separator,
            "lenient": lenient,
        }
        return json.dumps({**schema, "x-guidance": options})

    def _relaxed(self, schema: Json, strict: bool) -> str:
        """The schema as far as the library can follow it; a strict one as it is."""
        for level in (0, 1) if not strict else ():
            try:
                self._engine.compile(Grammar("lark", f"start: %json {self._schema(schema, strict, level)}"))
            except GrammarError:
                continue
            return self._schema(schema, strict, level)
        return self._schema(schema, strict, 2)


_ANY = r"/(.|\n)*/"
_TEXT = r"TEXT: /(.|\n)+/"


def _closed(schema: Any) -> Any:
    """Objects that list their properties, and are composed of nothing else, get no others: a tool that names its parameters
    is called with these. What is then written is valid by the schema as it was."""
    if "allOf" in json.dumps(schema):
        return schema
    return _close(schema)


def _close(schema: Any) -> Any:
    if not isinstance(schema, Mapping):
        return schema
    made = dict(schema)
    for key in ("properties", "$defs", "definitions"):
        if isinstance(made.get(key), Mapping):
            made[key] = {name: _close(inner) for name, inner in made[key].items()}
    for key in ("items", "anyOf", "oneOf", "prefixItems"):
        inner = made.get(key)
        if key in ("anyOf", "oneOf") and ("properties" in made or "$ref" in made):
            continue
        if isinstance(inner, list):
            made[key] = [_close(one) for one in inner]
        elif isinstance(inner, Mapping):
            made[key] = _close(inner)
    properties, required = made.get("properties"), made.get("required", [])
    if isinstance(properties, Mapping) and isinstance(required, list) and not any(key in made for key in _COMPOSED):
        made |= {} if set(map(str, required)) - properties.keys() else {"additionalProperties": False}
    return made


def _without_patterns(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_patterns(inner) for inner in value]
    if isinstance(value, Mapping):
        return {
            key: _without_patterns(inner)
            for key, inner in value.items()
            if key != "patternProperties" and not (key in ("pattern", "format") and isinstance(inner, str))
        }
    return value


def grammar_reason(error: GrammarError | GrammarFailed) -> str:
    """The library's reason on one line, without our grammar's source and the library's own state."""
    if "panic: " in str(error):  # past a limit of the library's, which names its own source
        return "It has too many parts: send fewer or smaller schemas"
    text = str(error).split(": ", 1)[-1].split("failed to compile JSON schema: ")[-1].partition("\n<state>")[0]
    return " ".join(re.sub(r"\n +\d+ \| .*", "", text, flags=re.S).split())
