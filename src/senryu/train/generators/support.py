"""Support dialogues: a policy in the system prompt, a small database behind tools, and code that decides what is right."""

from __future__ import annotations

import datetime
import json
import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from senryu.train.generators.common import Row, Split, Talk, address, banks, code, product, stream, tool

WISHES = {"refund": 40, "cancel": 15, "address": 15, "status": 15, "person": 15}  # their weights
ROLES = ("lookup", "refund", "cancel", "address", "escalate")
ORDERS = 5  # in the database of a row


@dataclass(frozen=True)
class Policy:
    """What the system prompt says. days: after delivery; limit: euros that are refunded without a human."""

    today: datetime.date
    days: int
    limit: int
    sale_refunds: bool


@dataclass(frozen=True)
class Order:
    """A record. status: open, shipped or delivered; delivered: the day, for delivered orders."""

    item: str
    price: float
    status: str
    sale: bool
    delivered: datetime.date | None


@dataclass(frozen=True)
class Decision:
    """role: the tool to call after the order was looked up, "" for none. answer: which phrase the customer gets."""

    role: str
    answer: str


def decide(policy: Policy, order: Order, wish: str) -> Decision:
    """What the policy asks for once the order is known."""
    if wish == "status":
        return Decision("", "status")
    if wish in ("cancel", "address"):
        return Decision(wish, wish) if order.status == "open" else Decision("", "shipped")
    if order.delivered is None:
        return Decision("", "not_delivered")
    if order.sale and not policy.sale_refunds:
        return Decision("", "sale")
    if (policy.today - order.delivered).days > policy.days:
        return Decision("", "too_late")
    return Decision("escalate", "escalate") if order.price > policy.limit else Decision("refund", "refund")


def rows(seed: int, split: Split = "train") -> Iterator[Row]:
    """Rows without end. `case` has the policy, the database, the wish, the order number and the decision as plain values."""
    return stream("support", seed, split, lambda draw: _Maker(draw, split).row())


class _Maker:
    """Makes one row of a split."""

    def __init__(self, draw: random.Random, split: Split) -> None:
        self.draw, self.split, self.bank = draw, split, banks("support", split)
        self.names = {role: draw.choice(self.bank["tools"][role]) for role in ROLES}
        self.keys = {key: draw.choice(names) for key, names in self.bank["arguments"].items()}
        today = datetime.date(2025, 1, 1) + datetime.timedelta(days=draw.randrange(900))
        days, limit = draw.choice((7, 10, 14, 21, 30, 60)), draw.choice((50, 80, 100, 150, 200))
        self.policy = Policy(today, days, limit, draw.random() < 0.5)
        self.database = {self.number(): self.order() for _ in range(ORDERS)}

    def row(self) -> Row:
        wish = self.draw.choices(list(WISHES), list(WISHES.values()))[0]
        talk = Talk("support", self.system(), self.tools())
        number = self.draw.choice(list(self.database))
        if self.draw.random() < 0.08:
            number = self.number()  # most likely one that nobody ordered
        case = {
            "policy": asdict(self.policy) | {"today": self.policy.today.isoformat()},
            "database": {n: self.record(order) for n, order in self.database.items()},
            "tools": self.names,
            "keys": self.keys,
            "wish": wish,
            "number": number,
        }
        if wish == "person":
            talk.user(self.draw.choice(self.bank["wishes"][wish]))
            self.act(talk, "escalate", {self.keys["reason"]: self.bank["reasons"]["person"]})
            return talk.say(self.answer("escalate")).row(case=case | {"role": "escalate"})
        return talk.row(case=case | {"role": self.about_order(talk, wish, number)})

    def about_order(self, talk: Talk, wish: str, number: str) -> str:
        """The dialogue about one order; returns the role of the tool that it ended with."""
        order = self.database.get(number)
        item = order.item if order else product(self.draw, self.split)
        said = {"o": number, "a": address(self.draw, self.split), "item": item}
        if self.draw.random() < 0.2:
            talk.user(self.draw.choice(self.bank["vague"][wish]).format(**said)).say(self.answer("which"))
            talk.user(self.answer("number", **said))
        else:
            talk.user(self.draw.choice(self.bank["wishes"][wish]).format(**said))
        talk.call((self.names["lookup"], {self.keys["order"]: number}))
        if order is None:
            talk.results(json.dumps(self.bank["results"]["unknown"])).say(self.answer("unknown", **said))
            return ""
        talk.results(json.dumps(self.record(order)))
        decision = decide(self.policy, order, wish)
        more: dict[str, dict[str, Any]] = {
            "refund": {self.keys["amount"]: order.price},
            "address": {self.keys["address"]: said["a"]},
            "escalate": {self.keys["reason"]: self.bank["reasons"]["refund"]},
        }
        if decision.role == "escalate":
            self.act(talk, "escalate", more["escalate"])
        elif decision.role:
            self.act(talk, decision.role, {self.keys["order"]: number} | more.get(decision.role, {}))
        status = self.bank["status"][order.status].replace("_", " ")
        price, days = f"{order.price:.2f}", str(self.policy.days)
        talk.say(self.answer(decision.answer, **said, s=status, price=price, days=days))
        return decision.role

    def act(self, talk: Talk, role: str, arguments: dict[str, Any]) -> None:
        talk.call((self.names[role], arguments)).results(json.dumps(self.bank["results"]["ok"]))

    def answer(self, key: str, **values: str) -> str:
        return str(self.draw.choice(self.bank["answers"][key])).format(**values)

    def number(self) -> str:
        return code(self.draw) if self.draw.random() < 0.5 else str(self.draw.randint(100000, 999999))

    def order(self) -> Order:
        status = self.draw.choice(("open", "shipped", "delivered", "delivered", "delivered"))
        since = self.draw.choice((self.draw.randint(1, self.policy.days), self.draw.randint(self.policy.days + 1, 120)))
        delivered = self.policy.today - datetime.timedelta(days=since) if status == "delivered" else None
        price = self.draw.randint(500, 30000) / 100
        return Order(product(self.draw, self.split), price, status, self.draw.random() < 0.25, delivered)

    def record(self, order: Order) -> dict[str, Any]:
        """The order as the lookup tool gives it."""
        values = {"item": order.item, "price": order.price, "status": self.bank["status"][order.status], "sale": order.sale}
        if order.delivered:
            values["delivered"] = order.delivered.isoformat()
        return {self.bank["keys"][key]: value for key, value in values.items()}

    def system(self) -> str:
        rules = ["first", "refund_days", "refund_limit", "shipping", "person"]
        if not self.policy.sale_refunds:
            rules.append("final_sale")
        self.draw.shuffle(rules)
        company = self.draw.choice(banks("words", self.split)["company"])
        values = {"company": company, "today": self.policy.today.isoformat()}
        values |= {"days": str(self.policy.days), "limit": str(self.policy.limit)}
        return " ".join(self.draw.choice(self.bank[key]).format(**values) for key in ("openings", *rules))

    def tools(self) -> list[dict[str, Any]]:
        """The five tools, in any order."""
        order = {self.keys["order"]: {"type": "string"}}
        reasons = {self.keys["reason"]: {"type": "string", "enum": list(self.bank["reasons"].values())}}
        inputs: dict[str, dict[str, Any]] = {
            "lookup": order,
            "refund": order | {self.keys["amount"]: {"type": "number"}},
            "cancel": order,
            "address": order | {self.keys["address"]: {"type": "string"}},
            "escalate": reasons,
        }
        made = []
        for role in self.draw.sample(ROLES, len(ROLES)):
            description = self.draw.choice(self.bank["descriptions"][role])
            made.append(tool(self.names[role], description, inputs[role], list(inputs[role])))
        return made
