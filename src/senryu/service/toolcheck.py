"""Whether a call that was made is one that the caller's tools allow: the buckets of the tool-call error rate.

The rate counts over requests that offered tools and ended with calls; a request has failed when any of
its calls has; schemas are Draft 7, and one that cannot be checked counts as kept. What a check leaves out (see validation.py)
counts as kept too.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from senryu.types import Tool

if TYPE_CHECKING:
    from senryu.service.validation import SchemaCheck

Failure = Literal["invalid_json", "unknown_name", "schema_mismatch"]
MOST_DIGITS = 4000  # of a whole number; Python refuses a few more


def failures(calls: Iterable[tuple[str, str]], tools: Sequence[Tool]) -> Counter[Failure]:
    """How many of an answer's finished calls are wrong, by what is. Their check together takes up to a second or two."""
    from jsonschema import Draft7Validator  # here, for a start need not import it

    from senryu.service.validation import SchemaCheck

    check = SchemaCheck(Draft7Validator)
    return Counter(wrong for name, arguments in calls if (wrong := _failure(name, arguments, tools, check)))


def _failure(name: str, arguments: str, tools: Sequence[Tool], check: SchemaCheck) -> Failure | None:
    """What is wrong with a finished call of tool `name` with `arguments` as they were written; None when nothing is."""
    try:
        value = read_arguments(arguments)
    except (ValueError, RecursionError):
        return "invalid_json"
    schema = next((tool.input_schema for tool in tools if tool.name == name), None)
    if schema is None:
        return "unknown_name"
    try:
        return "schema_mismatch" if check.mismatch(schema, value) else None
    except (ValueError, RecursionError):  # it cannot be checked
        return None


def read_arguments(text: str) -> Any:
    """Arguments as values, however large their numbers are. Raises ValueError, RecursionError."""
    return json.loads(text, parse_float=_finite, parse_int=_whole_number)


def _finite(digits: str) -> float:
    """JSON knows no infinity, so that 1e999 becomes the largest number there is."""
    return max(min(float(digits), 1.7976931348623157e308), -1.7976931348623157e308)


def _whole_number(digits: str) -> int | float:
    return int(digits) if len(digits) < MOST_DIGITS else _finite(digits)
