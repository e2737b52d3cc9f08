"""Whether an example of a tool's input matches the tool's schema.

Both are the caller's, so that the work is bounded: patterns, which Python's `re` may match for ever, and uniqueItems, which
compares all with all, are not looked at; a check takes so many steps and no more; nothing is fetched.
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

MOST_VALUES, MOST_LEVELS = 5_000, 64  # in a schema or an example
MOST_STEPS = 20_000  # keywords of the schema that are compared with something
DEEPEST = 100  # steps inside of each other; jsonschema cannot be trusted to survive the end of Python's stack
SHOWN = 200  # characters of a reason
NOT_CHECKED = ("pattern", "patternProperties", "uniqueItems", "unevaluatedProperties", "unevaluatedItems", "$dynamicRef")
Check = Callable[[Any, Any, Any, Any], Iterator[ValidationError] | None]


class _TooMuch(Exception):
    """The check has taken all of its steps."""


def check_examples(schema: Json, examples: Sequence[Json], path: str) -> None:
    """Raises SenryuError("bad_example") for the first of `examples` that does not match, or a schema that cannot be checked."""
    for index, example in enumerate(examples):
        if why := _mismatch(schema, example):
            raise SenryuError("bad_example", path=f"{path}.{index}", why=why[:SHOWN])


def _mismatch(schema: Json, example: Json) -> str:
    """Why the example is none; empty when it is one."""
    if _size(schema) > MOST_VALUES or _size(example) > MOST_VALUES or _levels(schema) > MOST_LEVELS:
        return f"more than {MOST_VALUES} values, or a schema of more than {MOST_LEVELS} levels, are not compared"
    plain = _without_dialects(schema)
    try:
        Draft202012Validator.check_schema(plain)
        rules = _counted({**Draft202012Validator.VALIDATORS, "additionalProperties": _closed})
        skipped = dict.fromkeys(NOT_CHECKED, _nothing)
        validators.extend(Draft202012Validator, {**rules, **skipped})(plain, registry=Registry()).validate(example)
    except SchemaError as error:
        return f"the schema is invalid: {error.message}"
    except ValidationError as error:
        return error.message
    except _TooMuch:
        return "the schema refers to itself too often"
    except (Unresolvable, ValueError) as error:
        return f"the schema refers to what is not there: {error}"
    return ""


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


def _counted(checks: Mapping[str, Check]) -> dict[str, Check]:
    """The checks of keywords, of which only so many are made and only so many inside of each other."""
    steps = depth = 0

    def counted(check: Check) -> Check:
        def step(validator: Any, rule: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
            nonlocal steps, depth
            steps, depth = steps + 1, depth + 1
            if steps > MOST_STEPS or depth > DEEPEST:
                raise _TooMuch
            yield from check(validator, rule, instance, schema) or ()
            depth -= 1

        return step

    return {name: counted(check) for name, check in checks.items()}


def _nothing(validator: Any, rule: Any, instance: Any, schema: Any) -> None:
    """A keyword that is not checked."""


def _closed(validator: Any, rule: Any, instance: Any, schema: Any) -> Iterator[ValidationError] | None:
    """Beside patternProperties nobody knows what is additional without matching patterns."""
    check: Check = Draft202012Validator.VALIDATORS["additionalProperties"]
    return None if "patternProperties" in schema else check(validator, rule, instance, schema)
