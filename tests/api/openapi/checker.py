"""Answers beside the document: JSON, the pieces of streams, and nothing in them that the document does not name."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import httpx
from jsonschema import Draft202012Validator

from aws import Frames


def closed(schema: Any) -> Any:
    """A schema that refuses what it does not name, so that a field that nobody has described is found."""
    if isinstance(schema, list):
        return [closed(inner) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {name: closed(value) for name, value in schema.items()}
    return {"additionalProperties": False, **inner} if isinstance(inner.get("properties"), dict) and "type" in inner else inner


class Checker:
    """Compares answers with the document. seen: schemas of answers that were compared with one."""

    def __init__(self, told: dict[str, Any]) -> None:
        self.told, self.components = told, closed(told["components"])
        self.seen: set[str] = set()

    def check(self, response: httpx.Response, method: str, path: str) -> None:
        """path: as the document has it."""
        kind = response.headers["content-type"].partition(";")[0]
        media = self.media(method, path, response.status_code)[kind]
        if "x-itemSchema" not in media:
            self.compare(response.json(), media["schema"])
            return
        items = [*_items(kind, response)]
        assert items
        for item in items:
            self.compare(item, media["x-itemSchema"])
            if path.endswith("invoke-with-response-stream"):
                self.compare(json.loads(base64.b64decode(item["bytes"])), {"$ref": "#/components/schemas/MessageEvent"})

    def media(self, method: str, path: str, status: int) -> dict[str, Any]:
        responses = self.told["paths"][path][method.lower()]["responses"]
        found = responses.get(str(status)) or responses[f"{status // 100}XX"]
        if "$ref" in found:
            found = self.told["components"]["responses"][found["$ref"].rpartition("/")[2]]
        content: dict[str, Any] = found["content"]
        return content

    def compare(self, value: Any, schema: Any) -> None:
        self.seen.add(json.dumps(schema))
        Draft202012Validator({**closed(schema), "components": self.components}).validate(value)


def _items(kind: str, response: httpx.Response) -> Iterator[Any]:
    """The pieces of a stream, as the document describes them."""
    if kind == "text/event-stream":
        for line in response.text.splitlines():
            if line.startswith("data: ") and line != "data: [DONE]":
                yield json.loads(line.removeprefix("data: "))
    elif kind == "application/x-jsonl":
        yield from map(json.loads, response.text.splitlines())
    else:
        frames = Frames()
        frames.feed(response.content)
        for headers, payload in frames.found:
            value = json.loads(payload)
            del value["p"]
            yield value if headers[":event-type"] == "chunk" else {headers[":event-type"]: value}
