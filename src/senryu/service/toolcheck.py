"""Whether a call that was made is one that the caller's tools allow: the buckets of the tool-call error rate.

The rate counts as OpenRouter does: over requests that offered tools and ended with calls; a request has failed when any of
its calls has; a tool whose schema cannot be checked counts as kept.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import jsonschema
from jsonschema.validators import extend
from referencing import Registry

from senryu.types import Json, Tool

Failure = Literal["InvalidJson", "UnknownName", "SchemaMismatch"]


def _no_check(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
    return iter(())


def _additional_properties(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
    if "patternProperties" not in schema:
        yield from jsonschema.Draft7Validator.VALIDATORS["additionalProperties"](validator, value, instance, schema)


# A caller's regular expression in a backtracking matcher could hold up every other answer; grammars have kept to it already.
_Validator = extend(
    jsonschema.Draft7Validator,
    {"pattern": _no_check, "patternProperties": _no_check, "additionalProperties": _additional_properties},
)


def failure(name: str, arguments: str, tools: Sequence[Tool]) -> Failure | None:
    """What is wrong with a finished call of tool `name` with `arguments` as they were written; None when nothing is."""
    try:
        value = json.loads(arguments)
    except (ValueError, RecursionError):
        return "InvalidJson"
    schema = next((tool.input_schema for tool in tools if tool.name == name), None)
    if schema is None:
        return "UnknownName"
    return None if _valid(value, schema) else "SchemaMismatch"


def _valid(value: Any, schema: Json) -> bool:
    try:
        # an empty registry: a caller's $ref must not make this server fetch anything
        return bool(_Validator(_plain(schema), registry=Registry()).is_valid(value))
    except Exception:  # whatever a schema that is none makes the library raise
        return True


def _plain(schema: Json) -> Any:
    return dict(schema) if isinstance(schema, Mapping) else schema
