"""Texts and JSON Schemas whose answer is exact: receipts, mails, tickets, appointments and lines of an order."""

from __future__ import annotations

import datetime
import json
import random
from collections.abc import Iterator
from typing import Any

from senryu.train.generators.common import Row, Split, Talk, address, banks, code, person, product, stream, word

KINDS = ("receipt", "mail", "ticket", "appointment", "lines")
TYPES = {"total": "number", "amount": "number", "count": "integer", "online": "boolean"}  # the others are strings
COLUMNS = {"item": "string", "quantity": "integer", "price": "number"}  # of a line of goods
ALWAYS = ("items",)  # never absent: a text without lines says nothing of them


def rows(seed: int, split: Split = "train") -> Iterator[Row]:
    """Rows without end; `schema` is what the answer must match."""
    return stream("extraction", seed, split, lambda draw: _Maker(draw, split).row())


class _Maker:
    """Makes one row of a split."""

    def __init__(self, draw: random.Random, split: Split) -> None:
        self.draw, self.split, self.bank = draw, split, banks("extraction", split)

    def row(self) -> Row:
        kind = self.draw.choice(KINDS)
        bank = self.bank[kind]
        known = [part for part in bank["parts"] if part in self.bank["names"]]
        wanted = self.draw.sample(known, self.draw.randint(min(2, len(known)), len(known)))  # the others are distractors
        names = {part: self.draw.choice(self.bank["names"][part]) for part in known}
        pairs: dict[str, Any] = {}
        lines = []
        columns = {c: self.draw.choice(self.bank["names"][c]) for c in COLUMNS}
        for part in bank["parts"]:
            if part not in ALWAYS and self.draw.random() < 0.15:
                continue
            text, value = self.part(part, columns)
            if part == "total" and "items" in pairs:
                text = value = round(sum(i[columns["quantity"]] * i[columns["price"]] for i in pairs["items"]), 2)
            lines.append(self.draw.choice(bank[part]).format(x=text) if part != "online" else str(text))
            pairs[part] = value
        schema = self.schema(wanted, names, columns)
        answer = {names[part]: pairs.get(part) for part in wanted}
        talk = Talk("extraction", self.draw.choice(self.bank["systems"]) if self.draw.random() < 0.4 else "")
        talk.user(self.prompt(schema, "\n".join(lines))).say(json.dumps(answer, ensure_ascii=False))
        return talk.row(schema=schema, kind=kind)

    def prompt(self, schema: dict[str, Any], text: str) -> str:
        instruction, heading = self.draw.choice(self.bank["instructions"]), self.draw.choice(self.bank["headings"])
        return f"{instruction}\n{json.dumps(schema, ensure_ascii=False)}\n\n{heading}\n{text}"

    def schema(self, wanted: list[str], names: dict[str, str], columns: dict[str, str]) -> dict[str, Any]:
        properties: dict[str, Any] = {}
        for part in wanted:
            made: dict[str, Any] = {"type": [TYPES.get(part, "string"), "null"]}
            if part == "items":
                made = {"type": "array", "items": _closed({columns[c]: {"type": t} for c, t in COLUMNS.items()})}
            elif part in ("payment", "level"):
                made["enum"] = [*self.bank["enums"][part], None]
            elif part in self.bank["descriptions"]:
                made["description"] = self.bank["descriptions"][part]
            properties[names[part]] = made
        return _closed(properties)

    def part(self, part: str, columns: dict[str, str]) -> tuple[Any, Any]:
        """What the text says of a part, and its value in the answer."""
        draw = self.draw
        plain = {"company": "company", "subject": "topic"}
        match part:
            case "company" | "subject":
                value: Any = word(draw, self.split, plain[part])
            case "address" | "place":
                value = address(draw, self.split)
            case "sender" | "recipient" | "person":
                value = person(draw, self.split)
            case "product":
                value = product(draw, self.split)
            case "total" | "amount":
                value = draw.randint(100, 99999) / 100
            case "count":
                value = draw.choice((draw.randint(2, 90), 5 * draw.randint(2, 24)))
            case "payment" | "level":
                value = draw.choice(self.bank["enums"][part])
            case "online":
                value = draw.random() < 0.5
                return self.bank["enums"]["online"][0 if value else 1], value
            case "date":
                return self.date()
            case "time":
                h, m = draw.randint(7, 20), draw.choice((0, 15, 30, 45))
                return draw.choice(self.bank["times"]).format(h=h, m=m), f"{h:02}:{m:02}"
            case "items":
                return self.items(columns)
            case _:  # a number, or a phrase without a value
                value = code(draw)
        return value, value

    def date(self) -> tuple[str, str]:
        day = datetime.date(2024, 1, 1) + datetime.timedelta(days=self.draw.randrange(1500))
        form = self.draw.choice(self.bank["dates"]).format(day=day.day)
        return day.strftime(form), day.isoformat()

    def items(self, columns: dict[str, str]) -> tuple[str, list[dict[str, Any]]]:
        form = self.draw.choice(self.bank["row_forms"])
        values = []
        for _ in range(self.draw.randint(1, 4)):
            amount = self.draw.randint(50, 9999) / 100
            values.append({"item": product(self.draw, self.split), "quantity": self.draw.randint(1, 12), "price": amount})
        return "\n".join(form.format(**v) for v in values), [{columns[k]: x for k, x in v.items()} for v in values]


def _closed(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
