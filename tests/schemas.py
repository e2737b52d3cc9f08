"""Schemas of our own making, for tests that check answers against them."""

from __future__ import annotations

import random
from typing import Any

NAMES = ["id", "name", "title", "price", "items", "city", "kind", "created", "über", "naïve", "名前", "a-b", "x.y", "z$"]
PATTERNS = ("^[a-z]{2,9}$", "^\\d{4}-[A-F]{2}$", "^(yes|no|may be)$", "^\\w{1,5}\\s\\w{1,5}$")
Schema = dict[str, Any]


class Maker:
    """Random schemas whose answers are bounded in length. tuples: arrays by prefixItems, which Draft 7 does not know."""

    def __init__(self, seed: int, *, tuples: bool = True) -> None:
        self.draw = random.Random(seed)
        self.tuples = tuples

    def make(self, depth: int) -> Schema:
        kinds = [self.string, self.integer, self.number, self.choice, self.simple, self.pattern, self.formatted]
        if depth:
            kinds += [self.object, self.object, self.array, *([self.tuple] if self.tuples else []), self.either]
        return self.draw.choice(kinds)(depth - 1)

    def string(self, _: int) -> Schema:
        low = self.draw.randint(0, 4)
        return {"type": "string", "minLength": low, "maxLength": low + self.draw.randint(0, 20)}

    def integer(self, _: int) -> Schema:
        low = self.draw.randint(-2000, 2000)
        bounds = {"minimum": low, "maximum": low + self.draw.randint(0, 5000)}
        if self.draw.random() < 0.3:
            return {"type": "integer", "multipleOf": self.draw.choice([2, 5, 7]), "minimum": 0, "maximum": 500}
        return {"type": "integer", **bounds}

    def number(self, _: int) -> Schema:
        low, edge = self.draw.randint(-50, 50) / 2, self.draw.choice(["minimum", "exclusiveMinimum"])
        # without multipleOf a number may have any number of digits, and mini never stops at temperature 1
        return {"type": "number", edge: low, "maximum": low + self.draw.randint(1, 99), "multipleOf": 0.25}

    def choice(self, _: int) -> Schema:
        values: list[Any] = [*self.draw.sample(NAMES, 3), self.draw.randint(-9, 9), None, True, [1, "two"], {"three": 3}]
        return {"enum": self.draw.sample(values, self.draw.randint(1, 5))} if self.draw.random() < 0.8 else {"const": values[0]}

    def simple(self, _: int) -> Schema:
        return {"type": self.draw.choice(["boolean", "null", ["boolean", "null"]])}

    def pattern(self, _: int) -> Schema:
        return {"type": "string", "pattern": self.draw.choice(PATTERNS)}

    def formatted(self, _: int) -> Schema:
        # of the library's formats those that it holds exactly; its "date" knows a year 0, which Python's does not
        return {"type": "string", "format": self.draw.choice(["uuid", "ipv4"])}

    def object(self, depth: int) -> Schema:
        names = self.draw.sample(NAMES, self.draw.randint(1, 5))
        return {
            "type": "object",
            "properties": {name: self.make(depth) for name in names},
            "required": [name for name in names if self.draw.random() < 0.7],
            "additionalProperties": False,
        }

    def array(self, depth: int) -> Schema:
        low = self.draw.randint(0, 2)
        return {"type": "array", "items": self.make(depth), "minItems": low, "maxItems": low + self.draw.randint(0, 3)}

    def tuple(self, depth: int) -> Schema:
        parts = [self.make(depth) for _ in range(self.draw.randint(1, 3))]
        return {"type": "array", "prefixItems": parts, "items": False, "minItems": len(parts), "maxItems": len(parts)}

    def either(self, depth: int) -> Schema:
        return {"anyOf": [self.make(depth) for _ in range(self.draw.randint(2, 3))]}

    def whole(self) -> Schema:
        schema = self.object(2) if self.draw.random() < 0.8 else self.make(2)
        if self.draw.random() < 0.3:
            names = {"whole": schema, "part": {"$ref": "#/$defs/part"}}
            kind = {"type": "object", "required": ["part"], "additionalProperties": False}
            return {"$defs": {"part": self.make(1)}, "properties": names, **kind}
        return schema
