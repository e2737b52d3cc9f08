"""Whether an example of a tool's input matches the tool's schema.

Both are the caller's, so that the work is bounded: patterns, which Python's `re` may match for ever, are not looked at, a
check takes so many steps and no more, and nothing is fetched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from jsonschema import Draft202012Validator, validators
from jsonschema.exceptions import SchemaError, ValidationError
from referencing import Registry
from referencing.exceptions import Unresolvable

from senryu.errors import SenryuError
from senryu.types import Json

MOST_VALUES = 1_000  # in one example
MOST_STEPS = 20_000  # keywords of the schema that are compared with something
SHOWN = 200  # characters of a reason
NOT_CHECKED = ("pattern", "patternProperties", "unevaluatedProperties", "unevaluatedItems", "$dynamicRef")
Check = Callable[[Any, Any, Any, Any], Iterator[ValidationError] | None]


class _TooMuch(Exception):
    """The check has taken all of its steps."""


def check_examples(schema: Json, examples: Sequence[Json], path: str) -> None:
    """Raises SenryuError("bad_example") for the first of `examples` that does not match, or a schema that cannot be checked."""
    for index, example in enumerate(examples):
        if why := _mismatch(dict(schema), example):
            raise SenryuError("bad_example", path=f"{path}.{index}", why=why[:SHOWN])


def _mismatch(schema: dict[str, Any], example: Json) -> str:
    """Why the example is none; empty when it is one."""
    try:
        if _values(example) > MOST_VALUES:
            raise _TooMuch
        Draft202012Validator.check_schema(schema)
        _validator(schema).validate(example)
    except SchemaError as error:
        return f"the schema is invalid: {error.message}"
    except ValidationError as error:
        return error.message
    except (_TooMuch, RecursionError):
        return "the example or the schema is too large to be compared"
    except (Unresolvable, ValueError) as error:
        return f"the schema refers to what is not there: {error}"
    return ""


def _values(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + sum(map(_values, inner))


def _validator(schema: dict[str, Any]) -> Any:
    """A validator whose steps are counted."""
    steps = 0

    def counted(check: Check) -> Check:
        def step(validator: Any, rule: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
            nonlocal steps
            steps += 1
            if steps > MOST_STEPS:
                raise _TooMuch
            yield from check(validator, rule, instance, schema) or ()

        return step

    def closed(validator: Any, rule: Any, instance: Any, schema: Any) -> Iterator[ValidationError] | None:
        """Beside patternProperties nobody knows what is additional without matching patterns."""
        return None if "patternProperties" in schema else known["additionalProperties"](validator, rule, instance, schema)

    known: dict[str, Check] = dict(Draft202012Validator.VALIDATORS)
    skipped = dict.fromkeys(NOT_CHECKED, lambda validator, rule, instance, schema: None)
    rules = {name: counted(check) for name, check in {**known, "additionalProperties": closed}.items()}
    return validators.extend(Draft202012Validator, {**rules, **skipped})(schema, registry=Registry())
