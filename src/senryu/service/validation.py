"""Whether a value matches a caller's schema, by the jsonschema library, in bounded time.

Schemas and values come from outside. Patterns, which Python's `re` may match for ever, and uniqueItems, which compares all with
all, are not looked at; a check takes so many steps and no more; nothing is fetched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from jsonschema import validators
from jsonschema.exceptions import SchemaError, ValidationError
from referencing import Registry
from referencing.exceptions import Unresolvable

from senryu.types import Json

MOST_LEVELS = 64  # of a schema
MOST_STEPS = 50_000  # values of schemas and instances, and keywords that are compared with something
DEEPEST = 100  # steps inside of each other; jsonschema cannot be trusted to survive the end of Python's stack
NOT_CHECKED = ("pattern", "patternProperties", "uniqueItems", "unevaluatedProperties", "unevaluatedItems", "$dynamicRef")
Check = Callable[[Any, Any, Any, Any], Iterator[ValidationError] | None]


class Uncheckable(ValueError):
    """The schema says nothing, or too much; the message says why."""


class _TooMuch(Exception):
    """The check has taken all of its steps."""


class SchemaCheck:
    """Compares values with schemas of `dialect`, a validator class of the library, with so many steps in all."""

    def __init__(self, dialect: Any) -> None:
        self._dialect = dialect
        self._steps = self._depth = 0

    def mismatch(self, schema: Json, value: Any) -> str:
        """Why the value does not match; empty when it does. Raises Uncheckable."""
        self._steps += _size(schema) + _size(value)
        if self._steps > MOST_STEPS or _levels(schema) > MOST_LEVELS:
            raise Uncheckable("the schemas and examples of the request are too large or too deep to be compared")
        plain = _without_dialects(schema)
        checks = {**self._dialect.VALIDATORS, "additionalProperties": self._closed, **dict.fromkeys(NOT_CHECKED, _nothing)}
        counted = {name: self._counted(check) for name, check in checks.items()}
        self._depth = 0
        try:
            self._dialect.check_schema(plain)
            validators.extend(self._dialect, counted)(plain, registry=Registry()).validate(value)
        except SchemaError as error:
            raise Uncheckable(f"the schema is invalid: {error.message}") from error
        except ValidationError as error:
            return error.message
        except _TooMuch:
            raise Uncheckable("the schema refers to itself too often, or there are too many examples") from None
        except (Unresolvable, ValueError) as error:
            raise Uncheckable(f"the schema refers to what is not there: {error}") from error
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

    def _closed(self, validator: Any, rule: Any, instance: Any, schema: Any) -> Iterator[ValidationError] | None:
        """Beside patternProperties nobody knows what is additional without matching patterns."""
        check: Check = self._dialect.VALIDATORS["additionalProperties"]
        return None if "patternProperties" in schema else check(validator, rule, instance, schema)


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
