"""What a token costs: `prices.toml` in whole nano-dollars a token. No floats: a sum of costs is exact."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, fields
from decimal import Decimal
from importlib.resources import files
from typing import Literal

from senryu.types import Usage

Tier = Literal["standard", "batch"]
NANO_PER_TOKEN = 1000  # of a price of 1 USD per million tokens


@dataclass(frozen=True, slots=True)
class Prices:
    """Nano-dollars for a token of each kind."""

    input: int
    output: int
    cache_write_5m: int
    cache_write_1h: int
    cache_read: int

    def input_cost(self, usage: Usage) -> int:
        """Nano-dollars for the prompt."""
        return (
            usage.input_tokens * self.input
            + usage.cache_write_5m * self.cache_write_5m
            + usage.cache_write_1h * self.cache_write_1h
            + usage.cache_read * self.cache_read
        )

    def cost(self, usage: Usage) -> int:
        """Nano-dollars for prompt and answer."""
        return self.input_cost(usage) + usage.output_tokens * self.output


def load_prices(text: str | None = None) -> dict[Tier, Prices]:
    """The prices of each service tier, from the packaged table or from `text`.

    Raises ValueError for a price that is no whole number of nano-dollars a token.
    """
    table = tomllib.loads(files("senryu.ledger").joinpath("prices.toml").read_text() if text is None else text)
    usd = {field.name: Decimal(table[field.name]) for field in fields(Prices)}
    standard = {name: _whole(name, price * NANO_PER_TOKEN) for name, price in usd.items()}
    percent = table["batch_percent"]
    batch = {name: _whole(name, Decimal(price * percent) / 100) for name, price in standard.items()}
    return {"standard": Prices(**standard), "batch": Prices(**batch)}


def _whole(name: str, price: Decimal) -> int:
    if price != int(price) or price < 0:
        raise ValueError(f"{name}: {price} nano-dollars a token is no whole number")
    return int(price)


def usd(nano: int) -> str:
    """Nano-dollars as dollars, all nine places of them."""
    return f"{nano // 10**9}.{nano % 10**9:09d}"
