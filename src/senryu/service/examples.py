"""Whether an example of a tool's input matches the tool's schema.

Both are the caller's. What could make the check run without end is left out: patterns, which Python's `re` may match for
ever, are not looked at, references are followed a bounded number of times, and nothing is fetched.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jsonschema import Draft202012Validator, validators
from jsonschema.exceptions import SchemaError, ValidationError
from referencing import Registry
from referencing.exceptions import Unresolvable

from senryu.errors import SenryuError
from senryu.types import Json

MOST_REFERENCES = 1_000
SHOWN = 200  # characters of a reason
NOT_CHECKED = ("pattern", "patternProperties", "unevaluatedProperties", "unevaluatedItems", "$dynamicRef")


class _TooMany(Exception):
    """References lead to ever more references."""


def check_examples(schema: Json, examples: Sequence[Json], path: str) -> None:
    """Raises SenryuError("bad_example") for the first of `examples` that does not match, or a schema that cannot be checked."""
    for index, example in enumerate(examples):
        if why := _mismatch(dict(schema), example):
            raise SenryuError("bad_example", path=f"{path}.{index}", why=why[:SHOWN])


def _mismatch(schema: dict[str, Any], example: Json) -> str:
    """Why the example is none; empty when it is one."""
    try:
        Draft202012Validator.check_schema(schema)
        _validator(schema).validate(example)
    except SchemaError as error:
        return f"the schema is invalid: {error.message}"
    except ValidationError as error:
        return error.message
    except (_TooMany, RecursionError):
        return "the schema refers to itself without end"
    except (Unresolvable, ValueError) as error:
        return f"the schema refers to what is not there: {error}"
    return ""


def _validator(schema: dict[str, Any]) -> Any:
    """A validator of the rules that end."""
    followed = 0
    refer, closed = (Draft202012Validator.VALIDATORS[name] for name in ("$ref", "additionalProperties"))

    def reference(validator: Any, ref: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
        nonlocal followed
        followed += 1
        if followed > MOST_REFERENCES:
            raise _TooMany
        yield from refer(validator, ref, instance, schema) or ()

    def additional(validator: Any, rule: Any, instance: Any, schema: Mapping[str, Any]) -> Iterator[ValidationError]:
        if "patternProperties" not in schema:
            yield from closed(validator, rule, instance, schema) or ()

    skipped = dict.fromkeys(NOT_CHECKED, lambda validator, rule, instance, schema: ())
    kind = validators.extend(Draft202012Validator, {**skipped, "$ref": reference, "additionalProperties": additional})
    return kind(schema, registry=Registry())
