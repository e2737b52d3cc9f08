"""JSON Schema and operations in few words: how the descriptions of endpoints are written down. No endpoint is named here.

A schema is a dict as it will stand in the document. `takes` is for what callers send: what it does not name is refused, as
`Fields.finish` does. `gives` is for answers: clients should expect more to come.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Schema = dict[str, Any]
Content = dict[str, Any]  # content type -> media object

JSON, EVENTS, LINES = "application/json", "text/event-stream", "application/x-jsonl"
FORM, FRAMES = "multipart/form-data", "application/vnd.amazon.eventstream"
BASE64 = "^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"
NULL: Schema = {"type": "null"}
FLAG: Schema = {"type": "boolean"}
FREE: Schema = {"type": "object"}
ANY: Schema = {}


@dataclass(frozen=True, slots=True)
class Operation:
    """What one endpoint takes and gives. `parameters` are OpenAPI's own; `answers`: by status, without refusals, which are the
    door's; none where the endpoint only refuses. `about`: what a summary has no room for."""

    summary: str
    parameters: tuple[Schema, ...] = ()
    body: Content = field(default_factory=dict)
    answers: Mapping[int, Content] = field(default_factory=dict)
    about: str = ""


def takes(fields: Mapping[str, Schema], about: str = "") -> Schema:
    """An object of a request. A name that ends with "?" may be left out."""
    return gives(fields, about) | {"additionalProperties": False}


def gives(fields: Mapping[str, Schema], about: str = "") -> Schema:
    """An object of an answer. A name that ends with "?" may be missing."""
    names = {name.removesuffix("?"): schema for name, schema in fields.items()}
    required = [name for name in fields if not name.endswith("?")]
    schema: Schema = {"type": "object", "properties": names}
    return schema | ({"required": required} if required else {}) | ({"description": about} if about else {})


def taking(kinds: Mapping[str, Mapping[str, Schema]], tag: str = "type") -> Schema:
    """One of several kinds of object of a request, told apart by `tag`."""
    return {"oneOf": [takes({tag: exactly(kind), **fields}) for kind, fields in kinds.items()]}


def giving(kinds: Mapping[str, Mapping[str, Schema]], tag: str = "type") -> Schema:
    """`taking` for answers."""
    return {"oneOf": [gives({tag: exactly(kind), **fields}) for kind, fields in kinds.items()]}


def union(members: Mapping[str, Schema]) -> Schema:
    """An object with exactly one of these members."""
    return {"oneOf": [takes({name: schema}) for name, schema in members.items()]}


def said(schema: Schema, about: str) -> Schema:
    """The schema with a description."""
    return {**schema, "description": about}


def text(low: int = 0, high: int | None = None, pattern: str = "") -> Schema:
    """A string of `low` to `high` characters, which `pattern` matches as a whole."""
    schema: Schema = {"type": "string"}
    schema |= {"minLength": low} if low else {}
    schema |= {} if high is None else {"maxLength": high}
    return schema | ({"pattern": f"^(?:{pattern})$"} if pattern else {})


def base64() -> Schema:
    """Bytes in a string."""
    return {"type": "string", "contentEncoding": "base64", "pattern": BASE64}


def whole(low: int | None = 0, high: int | None = None) -> Schema:
    """A whole number."""
    return _between({"type": "integer"}, low, high)


def number(low: float | None = None, high: float | None = None) -> Schema:
    """A number."""
    return _between({"type": "number"}, low, high)


def _between(schema: Schema, low: float | None, high: float | None) -> Schema:
    return schema | ({} if low is None else {"minimum": low}) | ({} if high is None else {"maximum": high})


def one_of(*words: str) -> Schema:
    """One of these words."""
    return {"type": "string", "enum": list(words)}


def exactly(value: Any) -> Schema:
    """This value alone."""
    return {"const": value}


def nothing(*values: Any) -> Schema:
    """A field of something that is not here: null, and those of its values that ask for nothing, pass; any other is refused."""
    return said({"enum": [None, *values]}, "Not supported here: only what asks for nothing is accepted.")


def maybe(schema: Schema) -> Schema:
    """The schema, and null."""
    kind = schema.get("type")
    if isinstance(kind, str) and kind != "object" and "enum" not in schema:
        return {**schema, "type": [kind, "null"]}
    return {"anyOf": [schema, NULL]}


def list_of(schema: Schema, low: int = 0, high: int | None = None) -> Schema:
    """A list of `low` to `high` items."""
    listed: Schema = {"type": "array", "items": schema}
    return listed | ({"minItems": low} if low else {}) | ({} if high is None else {"maxItems": high})


def map_of(schema: Schema, high: int | None = None) -> Schema:
    """An object with whatever names the caller likes, at most `high` of them."""
    return {"type": "object", "additionalProperties": schema} | ({} if high is None else {"maxProperties": high})


def either(*schemas: Schema) -> Schema:
    """Any of these."""
    return {"anyOf": list(schemas)}


def ref(name: str) -> Schema:
    """A schema by its name in the document."""
    return {"$ref": f"#/components/schemas/{name}"}


def json_of(schema: Schema) -> Content:
    """A body in JSON."""
    return {JSON: {"schema": schema}}


def stream_of(kind: str, item: Schema) -> Content:
    """A body that comes piece by piece, of this content type. OpenAPI 3.1 has no word for the schema of a piece: 3.2 calls it
    itemSchema."""
    whole: Content = {} if kind == FRAMES else {"schema": {"type": "string"}}
    return {kind: {**whole, "x-itemSchema": item}}


def path(name: str, about: str, schema: Schema | None = None) -> Schema:
    """A part of the address."""
    return {"name": name, "in": "path", "required": True, "schema": schema or text(1), "description": about}


def query(name: str, about: str, schema: Schema | None = None, required: bool = False) -> Schema:
    """A parameter of the query."""
    return {"name": name, "in": "query", "required": required, "schema": schema or text(), "description": about}


def header(name: str, about: str, schema: Schema | None = None, required: bool = False) -> Schema:
    """A header of the request."""
    return {"name": name, "in": "header", "required": required, "schema": schema or text(), "description": about}
