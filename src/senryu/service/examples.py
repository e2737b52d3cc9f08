"""Whether an example of a tool's input matches the tool's schema.

Both are the caller's, so that the work is bounded: patterns, which Python's `re` may match for ever, and uniqueItems, which
compares all with all, are not looked at; a request takes so many steps and no more; nothing is fetched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from jsonschema import Draft202012Validator, validators
from jsonschema.exceptions import SchemaError, ValidationError
from referencing import Registry
from referencing.exceptions import Unresolvable

from senryu.errors import SenryuError
from senryu.types import Json

MOST_LEVELS = 64  # of a schema
MOST_STEPS = 50_000  # values of schemas and examples, and keywords that are compared with something
DEEPEST = 100  # steps inside of each other; jsonschema cannot be trusted to survive the end of Python's stack
SHOWN = 200  # characters of a reason
NOT_CHECKED = ("pattern", "patternProperties", "uniqueItems", "unevaluatedProperties", "unevaluatedItems", "$dynamicRef")
Check = Callable[[Any, Any, Any, Any], Iterator[ValidationError] | None]


class _TooMuch(Exception):
    """The check has taken all of its steps."""


class Examples:
    """Compares all examples of one request, with so many steps in all."""

    def __init__(self) -> None:
        self._steps = self._depth = 0

    def check(self, schema: Json, examples: Sequence[Json], path: str) -> None:
        """Raises SenryuError("bad_example") for the first of `examples` that does not match, or a schema that says nothing."""
        for index, example in enumerate(examples):
            if why := self._mismatch(schema, example):
                raise SenryuError("bad_example", path=f"{path}.{index}", why=why[:SHOWN])

    def _mismatch(self, schema: Json, example: Json) -> str:
        """Why the example is none; empty when it is one."""
        self._steps += _size(schema) + _size(example)
        if self._steps > MOST_STEPS or _levels(schema) > MOST_LEVELS:
            return "the schemas and examples of the request are too large or too deep to be compared"
        plain = _without_dialects(schema)
        checks = {**Draft202012Validator.VALIDATORS, "additionalProperties": _closed, **dict.fromkeys(NOT_CHECKED, _nothing)}
        counted = {name: self._counted(check) for name, check in checks.items()}
        self._depth = 0
        try:
            Draft202012Validator.check_schema(plain)
            validators.extend(Draft202012Validator, counted)(plain, registry=Registry()).validate(example)
        except SchemaError as error:
            return f"the schema is invalid: {error.message}"
        except ValidationError as error:
            return error.message
        except _TooMuch:
            return "the schema refers to itself too often, or there are too many examples"
        except (Unresolvable, ValueError) as error:
            return f"the schema refers to what is not there: {error}"
        return ""

    def _counted(self, check: Check) -> Check:
        def step(validator: Any, rule: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
            self._steps, self._depth = self._steps + 1, self._depth + 1
            try:
                if self._steps > MOST_STEPS or self._depth > DEEPEST:
                    raise _TooMuch
                yield from check(validator, rule, instance, schema) or ()
            finally:
                self._depth -= 1

        return step


def _inner(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, Mapping) else value if isinstance(value, list) else []


def _size(value: Any) -> int:
    return 1 + sum(map(_size, _inner(value)))


def _levels(value: Any) -> int:
    return 1 + max(map(_levels, _inner(value)), default=0)


def _without_dialects(value: Any) -> Any:
    """The schema without `$schema`, for which the library would take a validator of its own, with all that ours leaves out."""
    if isinstance(value, Mapping):
        return {key: _without_dialects(inner) for key, inner in value.items() if key != "$schema" or not isinstance(inner, str)}
    return [_without_dialects(inner) for inner in value] if isinstance(value, list) else value


def _nothing(validator: Any, rule: Any, instance: Any, schema: Any) -> None:
    """A keyword that is not checked."""


def _closed(validator: Any, rule: Any, instance: Any, schema: Any) -> Iterator[ValidationError] | None:
    """Beside patternProperties nobody knows what is additional without matching patterns."""
    check: Check = Draft202012Validator.VALIDATORS["additionalProperties"]
    return None if "patternProperties" in schema else check(validator, rule, instance, schema)
