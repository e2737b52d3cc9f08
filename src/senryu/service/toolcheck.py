"""Whether a call that was made is one that the caller's tools allow: the buckets of the tool-call error rate.

The rate counts as OpenRouter does: over requests that offered tools and ended with calls; a request has failed when any of
its calls has; schemas are Draft 7, and one that cannot be checked counts as kept. What a check leaves out (see validation.py)
counts as kept too.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Literal

from jsonschema import Draft7Validator

from senryu.service.validation import SchemaCheck, Uncheckable
from senryu.types import Tool

Failure = Literal["invalid_json", "unknown_name", "schema_mismatch"]


def failure(name: str, arguments: str, tools: Sequence[Tool]) -> Failure | None:
    """What is wrong with a finished call of tool `name` with `arguments` as they were written; None when nothing is."""
    try:
        value = json.loads(arguments)
    except (ValueError, RecursionError):
        return "invalid_json"
    schema = next((tool.input_schema for tool in tools if tool.name == name), None)
    if schema is None:
        return "unknown_name"
    try:
        return "schema_mismatch" if SchemaCheck(Draft7Validator).mismatch(schema, value) else None
    except (Uncheckable, RecursionError):
        return None
