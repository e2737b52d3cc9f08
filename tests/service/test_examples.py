"""Examples of a tool's input: what matches the schema, and that no schema keeps the server busy."""

from __future__ import annotations

from typing import Any

import pytest

from senryu.errors import SenryuError
from senryu.service.examples import Examples

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": False}
DRAFT = "https://json-schema.org/draft/2020-12/schema"
SLOW = "(a+)+$"  # on `VICTIM` Python's re would take longer than the sun has left
VICTIM = "a" * 60 + "b"


def refusal(schema: dict[str, Any], *examples: dict[str, Any]) -> str:
    with pytest.raises(SenryuError) as caught:
        Examples().check(schema, examples, "tools.0.custom.input_examples")
    assert caught.value.status == 400
    return caught.value.message.removeprefix("tools.0.custom.input_examples.")


def test_what_matches() -> None:
    Examples().check(CITY, [{"city": "Kyoto"}, {"city": "奈良"}], "x")
    Examples().check(
        {"type": "object", "properties": {"n": {"$ref": "#/$defs/n"}}, "$defs": {"n": {"type": "integer"}}}, [{"n": 1}], "x"
    )


@pytest.mark.parametrize(
    ("example", "why"),
    [
        ({}, "'city' is a required property"),
        ({"city": 1}, "1 is not of type 'string'"),
        ({"city": "x", "y": 1}, "Additional properties are not allowed ('y' was unexpected)"),
    ],
)
def test_what_does_not(example: dict[str, Any], why: str) -> None:
    assert refusal(CITY, {"city": "x"}, example) == f"1: does not match the tool's input_schema: {why}"


def test_a_schema_that_is_none() -> None:
    assert "the schema is invalid" in refusal({"type": "object", "properties": 5}, {})


def test_nothing_is_fetched() -> None:
    assert "refers to what is not there" in refusal({"type": "object", "$ref": "http://127.0.0.1:9/schema"}, {})
    assert "refers to what is not there" in refusal({"type": "object", "$ref": "#/$defs/none"}, {})


def doubling(levels: int) -> dict[str, Any]:
    """A small schema with 2 ** levels ways through it."""
    names = {f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(levels)}
    return {"type": "object", "$defs": {**names, f"d{levels}": {}}, "$ref": "#/$defs/d0"}


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "object"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


@pytest.mark.parametrize(
    "schema", [{"type": "object", "$ref": "#"}, doubling(60), nested(60)], ids=["loop", "doubling", "deep"]
)
def test_schemas_without_end(schema: dict[str, Any]) -> None:
    refusal(schema, {"a": {}})


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"a": {"pattern": SLOW}}},
        {"patternProperties": {SLOW: {}}, "additionalProperties": False},
        {"propertyNames": {"pattern": SLOW}},
        {"patternProperties": {SLOW: {}}, "unevaluatedProperties": False},
        {"properties": {"a": {"$schema": DRAFT, "pattern": SLOW}}},
        {"$schema": DRAFT, "properties": {"a": {"pattern": SLOW}}},
        {"properties": {"b": {"uniqueItems": True}}},
    ],
)
def test_what_takes_for_ever_is_not_looked_at(schema: dict[str, Any]) -> None:
    example = {"a": VICTIM, VICTIM: 1, "b": [{"x": i} for i in range(8000)]}
    Examples().check({"type": "object", **schema}, [example], "x")


def test_the_work_of_a_request_is_bounded_not_that_of_an_example() -> None:
    examples, schema = Examples(), {"type": "object", "allOf": [{"type": "object"}] * 100}
    with pytest.raises(SenryuError, match="too large"):
        examples.check(schema, [{}] * 1000, "x")


def test_checks_that_end_early_leave_the_depth_as_it_was() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "array", "contains": {"anyOf": [{"type": "integer"}]}}}}
    Examples().check(schema, [{"a": [*["x"] * 500, 1]}], "x")
