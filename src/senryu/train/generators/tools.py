"""Tool calls over random schemas: none, one or several; a missing argument is asked for, a failed call is repaired."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from senryu.train.generators import common
from senryu.train.generators.common import Row, Split, Talk, banks, capital, code, listed

SIZES = {1: 5, 5: 4, 20: 2}  # how many tools are in the list, and their weights
ROUNDS = {1: (1, 2, 2, 3), 5: (1, 2, 3, 4), 20: (3, 4, 5, 6)}  # requests of a training row: the longer its list, the more
SCENARIOS = {"call": 40, "calls": 20, "missing": 12, "irrelevant": 14, "error": 14}  # their weights
KINDS = ("string", "string", "integer", "number", "boolean", "enum", "array", "object")


@dataclass(frozen=True)
class Parameter:
    """One argument. `words`: how people call it. `inner`: the parameters of a nested object."""

    name: str
    words: str
    kind: str
    required: bool
    schema: dict[str, Any]
    inner: tuple[Parameter, ...] = ()


@dataclass(frozen=True)
class Made:
    """A tool that can be asked for: what its list entry says, and the words of a request."""

    entry: dict[str, Any]
    verb: str
    noun: str
    parameters: tuple[Parameter, ...]

    @property
    def name(self) -> str:
        return str(self.entry["name"])


def rows(seed: int, split: Split = "train", *, size: int | None = None) -> Iterator[Row]:
    """Rows without end; `scenarios` beside the conversation says which begins at which message. A test row has one.

    size: how many tools each row has; 1, 5 or 20 by default.
    """
    return common.stream("tools", seed, split, lambda draw: _Maker(draw, split).row(size))


class _Maker:
    """Makes one row of a split."""

    def __init__(self, draw: random.Random, split: Split) -> None:
        self.draw, self.split = draw, split
        self.bank = banks("tools", split)
        self.camel = draw.random() < 0.3

    def pick(self, key: str, **values: str) -> str:
        """A phrase of the bank with its values put in; a capital key gets its value with a capital."""
        capitals = {name.upper(): capital(text) for name, text in values.items()}
        text = str(self.draw.choice(self.bank[key])).format(**values, **capitals)
        noun = values.get("n", "")
        return text.replace(f" a {noun}", f" an {noun}") if noun[:1] in tuple("aeiou") else text

    def row(self, size: int | None) -> Row:
        made = self.tools(size or self.draw.choices(list(SIZES), list(SIZES.values()))[0])
        system = self.pick("systems") if self.draw.random() < 0.5 else ""
        talk = Talk("tools", system, [each.entry for each in made])
        rounds = 1 if self.split == "test" else self.draw.choice(ROUNDS.get(len(made), (1,)))
        scenarios = []
        for scenario in self.draw.choices(list(SCENARIOS), list(SCENARIOS.values()), k=rounds):
            scenarios.append((talk.length, scenario))
            getattr(self, f"_{scenario}")(talk, made)
        return talk.row(scenarios=scenarios)

    # Schemas

    def tools(self, size: int) -> list[Made]:
        """Tools of distinct names; the verb and noun of a request fits one of them alone."""
        taken: set[tuple[str, str]] = set()
        out: list[Made] = []
        while len(out) < size:
            verb, noun = self.draw.choice(self.bank["verbs"]), self.noun()
            if (verb, noun) not in taken:
                taken.add((verb, noun))
                out.append(self.tool(verb, noun, (1, 1, 1, 2) if size > 5 else (1, 1, 2, 2, 3, 4)))
        return out

    def noun(self) -> str:
        """A word, or one that nobody has heard before."""
        if self.draw.random() < 0.25:
            return "".join(self.draw.sample(self.bank["syllables"], 3))
        return str(self.draw.choice(self.bank["nouns"]))

    def tool(self, verb: str, noun: str, counts: tuple[int, ...]) -> Made:
        """A tool of so many parameters: long lists have short entries, so that they fit the rows of small models."""
        parameters = self.parameters(self.draw.choice(counts), KINDS)
        properties = {p.name: self.described(p, noun) for p in parameters}
        description = self.pick("tool_descriptions", v=verb, n=noun)
        entry = common.tool(self.name(f"{verb} {noun}"), description, properties, [p.name for p in parameters if p.required])
        return Made(entry, verb, noun, parameters)

    def described(self, parameter: Parameter, noun: str) -> dict[str, Any]:
        if self.draw.random() < 0.5:
            return parameter.schema
        return {**parameter.schema, "description": self.pick("descriptions", p=parameter.words, n=noun)}

    def name(self, words: str) -> str:
        first, *rest = words.split()
        return first + "".join(map(capital, rest)) if self.camel else "_".join((first, *rest))

    def parameters(self, count: int, kinds: tuple[str, ...]) -> tuple[Parameter, ...]:
        """Parameters of distinct names, at least one of them required and plain."""
        out: dict[str, Parameter] = {}
        while len(out) < count:
            kind = self.draw.choice(kinds if out else ("string", "integer", "number", "enum"))
            made = self.parameter(kind, required=not out or self.draw.random() < 0.5)
            out.setdefault(made.name, made)
        return tuple(sorted(out.values(), key=lambda p: not p.required))

    def parameter(self, kind: str, *, required: bool) -> Parameter:
        words = str(self.draw.choice(list(self.bank["enums"]) if kind == "enum" else self.bank[f"{kind}s"]))
        schema: dict[str, Any] = {"type": "string" if kind == "enum" else kind}
        inner: tuple[Parameter, ...] = ()
        if kind == "enum":
            schema["enum"] = self.bank["enums"][words]
        elif kind == "array":
            schema["items"] = {"type": "string"}
        elif kind == "object":
            plain = self.parameters(2, ("string", "integer", "number"))
            inner = tuple(Parameter(p.name, p.words, p.kind, True, p.schema) for p in plain)
            schema |= {"properties": {p.name: p.schema for p in inner}, "required": [p.name for p in inner]}
            schema["additionalProperties"] = False
        prefix = self.draw.choice(self.bank["prefixes"]) if kind != "boolean" and self.draw.random() < 0.35 else ""
        said = f"{prefix} {words}".strip()
        return Parameter(self.name(said), said, kind, required, schema, inner)

    # Values and their words

    def value(self, p: Parameter) -> Any:
        match p.kind:
            case "string":
                return self.text(p.words)
            case "integer":
                return self.draw.choice((self.draw.randint(1, 20), self.draw.randint(21, 999)))
            case "number":
                return self.draw.randint(1, 4000) / self.draw.choice((2, 10, 100)) + 0.25
            case "boolean":
                return self.draw.random() < 0.6
            case "enum":
                return self.draw.choice(p.schema["enum"])
            case "array":
                return [self.text(p.words) for _ in range(self.draw.randint(1, 3))]
        return {each.name: self.value(each) for each in p.inner}

    def text(self, words: str) -> str:
        kind = self.bank["words"].get(words.split()[-1])
        if kind == "person":
            return common.person(self.draw, self.split)
        if kind == "address":
            return common.address(self.draw, self.split).replace(",", " in")
        if kind in ("city", "topic"):
            return common.word(self.draw, self.split, kind)
        return code(self.draw) if self.draw.random() < 0.4 else common.product(self.draw, self.split)

    def said(self, p: Parameter, value: Any) -> str:
        """The part of a request that gives one argument."""
        if p.kind == "boolean":
            return self.pick("yes" if value else "no", p=p.words)
        if p.kind == "object":
            return self.pick("objects_said", p=p.words, x=listed([f"{each.words} {value[each.name]}" for each in p.inner]))
        return self.pick("scalars", p=p.words, x=listed(value) if p.kind == "array" else str(value))

    def arguments(self, made: Made) -> dict[str, Any]:
        return {p.name: self.value(p) for p in made.parameters if p.required or self.draw.random() < 0.5}

    def ask(self, made: Made, arguments: dict[str, Any], without: str = "") -> str:
        said = "".join(self.said(p, arguments[p.name]) for p in made.parameters if p.name in arguments and p.name != without)
        return self.pick("asks", v=made.verb, n=made.noun, f=said)

    # Scenarios

    def _call(self, talk: Talk, made: list[Made]) -> None:
        chosen = self.draw.choice(made)
        arguments = self.arguments(chosen)
        talk.user(self.ask(chosen, arguments))
        self._finish(talk, [(chosen.name, arguments)])

    def _calls(self, talk: Talk, made: list[Made]) -> None:
        """Calls of different tools, or of one tool with different arguments; all in one message."""
        chosen = [self.draw.choice(made) for _ in range(self.draw.choice((2, 2, 3)))]
        given = [self.arguments(each) for each in chosen]
        asked = [self.ask(each, arguments) for each, arguments in zip(chosen, given)]
        text = asked[0]
        for more in asked[1:]:
            text += self.pick("then") + more
        talk.user(text)
        self._finish(talk, [(each.name, arguments) for each, arguments in zip(chosen, given)])

    def _missing(self, talk: Talk, made: list[Made]) -> None:
        chosen = self.draw.choice(made)
        arguments = self.arguments(chosen)
        plain = ("string", "integer", "number", "enum")
        left_out = self.draw.choice([p for p in chosen.parameters if p.required and p.kind in plain])
        talk.user(self.ask(chosen, arguments, left_out.name)).say(self.pick("which", p=left_out.words))
        talk.user(self.pick("given", p=left_out.words, x=str(arguments[left_out.name])))
        self._finish(talk, [(chosen.name, arguments)])

    def _irrelevant(self, talk: Talk, made: list[Made]) -> None:
        """Small talk, or a request for what no tool of the list does."""
        if self.draw.random() < 0.3:
            talk.user(self.pick("chats")).say(self.pick("chat_answers"))
            return
        other = self.tools(1)[0]
        while {other.verb, other.noun} & {word for each in made for word in (each.verb, each.noun)} and len(made) < 20:
            other = self.tools(1)[0]
        if len(made) >= 20:  # nearly every verb is taken: a noun that no list has
            other = self.tool(other.verb, "".join(self.draw.sample(self.bank["syllables"], 4)), (1, 2))
        talk.user(self.ask(other, self.arguments(other))).say(self.pick("unable"))

    def _error(self, talk: Talk, made: list[Made]) -> None:
        """A value that the server does not know, with the one that it suggests; or a failure that passes."""
        chosen = self.draw.choice(made)
        arguments = self.arguments(chosen)
        talk.user(self.ask(chosen, arguments)).call((chosen.name, arguments))
        wrong = [p for p in chosen.parameters if p.kind == "string" and p.name in arguments]
        if wrong and self.draw.random() < 0.75:
            p = self.draw.choice(wrong)
            suggested = self.text(p.words)
            while suggested == arguments[p.name]:
                suggested = self.text(p.words)
            text = self.pick("unknown", p=p.name, x=arguments[p.name], y=suggested)
            arguments = {**arguments, p.name: suggested}
        else:
            text = self.pick("busy")
        talk.results(json.dumps({self.pick("error_keys"): text}))
        self._finish(talk, [(chosen.name, arguments)])

    def _finish(self, talk: Talk, calls: list[tuple[str, dict[str, Any]]]) -> None:
        """The calls, their results, and what the assistant says of them."""
        talk.call(*calls)
        key, values = self.pick("result_keys"), [code(self.draw) for _ in calls]
        talk.results(*(json.dumps({key: value}) for value in values))
        talk.say(self.pick("done", k=key, r=values[0]) if len(values) == 1 else self.pick("all_done", l=listed(values)))
