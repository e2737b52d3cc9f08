"""Schemas that an answer must keep to exactly: what the original refuses or limits, and the order of keys that it promises.

Beyond the original, whatever the grammar library holds exactly is allowed: bounds of numbers, lengths and item counts,
multipleOf, patterns, recursion through $ref. Any other keyword is refused, with the library's reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from senryu.errors import SenryuError
from senryu.types import Json, Turn

STRICT_TOOLS = 20  # of one request
OPTIONAL_PARAMETERS = 24  # of all strict schemas of a request together
UNION_PARAMETERS = 16
DEEPEST = 64  # levels; the library stops at 128, Python's recursion behind that

_NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")  # schemas by name
_LISTED = ("anyOf", "allOf", "oneOf", "prefixItems")
_SINGLE = ("items", "additionalProperties", "additionalItems", "contains", "propertyNames", "not", "if", "then", "else")


def prefilled(turn: Turn) -> bool:
    """Whether the answer continues a message of the assistant."""
    return bool(turn.messages) and turn.messages[-1].role == "assistant" and bool(turn.messages[-1].content)


def check_strict(schemas: Sequence[tuple[str, Json]]) -> None:
    """Raises SenryuError unless each schema, after its path in the request, is one that may be kept to exactly."""
    optional = unions = 0
    for path, schema in schemas:
        for node in _nodes(schema, path):
            kinds = node.get("type")
            if kinds == "object" or (isinstance(kinds, list) and "object" in kinds) or "properties" in node:
                _check_closed(node, path)
                properties, required = node.get("properties"), node.get("required")
                if isinstance(properties, Mapping):
                    optional += len(properties.keys() - set(map(str, required if isinstance(required, list) else ())))
            unions += isinstance(kinds, list) or "anyOf" in node
    if optional > OPTIONAL_PARAMETERS:
        raise SenryuError("many_optional", count=optional, most=OPTIONAL_PARAMETERS)
    if unions > UNION_PARAMETERS:
        raise SenryuError("many_unions", count=unions, most=UNION_PARAMETERS)


def _check_closed(node: Json, path: str) -> None:
    if "additionalProperties" not in node:
        raise SenryuError("open_object", path=path)
    value = node["additionalProperties"]
    if value is not False:
        shown = "true" if value is True else "object" if isinstance(value, Mapping) else str(value)
        raise SenryuError("additional_properties", path=path, value=shown)


def required_first(schema: Any) -> Any:
    """The same schema with every object's required properties before the others, each in the schema's order."""
    if not isinstance(schema, Mapping):
        return schema
    made = dict(schema)
    for key in _NAMED:
        if isinstance(made.get(key), Mapping):
            made[key] = {name: required_first(inner) for name, inner in made[key].items()}
    for key in (*_LISTED, *_SINGLE):
        if isinstance(made.get(key), list):
            made[key] = [required_first(inner) for inner in made[key]]
        elif isinstance(made.get(key), Mapping):
            made[key] = required_first(made[key])
    properties, required = made.get("properties"), made.get("required")
    if isinstance(properties, Mapping) and isinstance(required, list):
        made["properties"] = {name: properties[name] for name in sorted(properties, key=lambda name: name not in required)}
    return made


def too_deep(schema: Json) -> bool:
    """Whether the schema nests deeper than the grammar library, or Python, can follow."""
    level: list[Any] = [schema]
    for _ in range(DEEPEST * 2):
        level = [
            inner
            for value in level
            if isinstance(value, Mapping | list)
            for inner in (value.values() if isinstance(value, Mapping) else value)
        ]
        if not level:
            return False
    return True


def _nodes(schema: Json, path: str) -> Iterator[Json]:
    """The schema and all that it is made of. Raises SenryuError("complex_schema")."""
    if too_deep(schema):
        raise SenryuError("complex_schema", path=path)
    left: list[Any] = [schema]
    while left:
        node = left.pop()
        if not isinstance(node, Mapping):
            continue
        yield node
        left += [inner for key in _NAMED if isinstance(node.get(key), Mapping) for inner in node[key].values()]
        for key in (*_LISTED, *_SINGLE):
            left += node[key] if isinstance(node.get(key), list) else [node.get(key)]
