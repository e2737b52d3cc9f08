"""What tokens cost: the published prices, and sums that are exact."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from senryu.ledger.prices import Prices, load_prices, usd
from senryu.types import Usage

COUNT = st.integers(0, 200_000)
USAGES = st.builds(Usage, COUNT, COUNT, COUNT, COUNT, COUNT, COUNT)


def test_the_published_prices_and_half_of_them() -> None:
    assert load_prices() == {
        "standard": Prices(input=800, output=4000, cache_write_5m=1000, cache_write_1h=1600, cache_read=80),
        "batch": Prices(input=400, output=2000, cache_write_5m=500, cache_write_1h=800, cache_read=40),
    }


@given(st.lists(USAGES, max_size=20))
def test_the_sum_of_costs_is_tokens_times_price(usages: list[Usage]) -> None:
    prices = load_prices()["standard"]
    parts = {
        800: sum(usage.input_tokens for usage in usages),
        1000: sum(usage.cache_write_5m for usage in usages),
        1600: sum(usage.cache_write_1h for usage in usages),
        80: sum(usage.cache_read for usage in usages),
    }
    read = sum(price * tokens for price, tokens in parts.items())
    assert sum(map(prices.input_cost, usages)) == read
    assert sum(map(prices.cost, usages)) == read + 4000 * sum(usage.output_tokens for usage in usages)
    assert 2 * sum(map(load_prices()["batch"].cost, usages)) == sum(map(prices.cost, usages))


@pytest.mark.parametrize(
    ("nano", "text"), [(0, "0.000000000"), (1, "0.000000001"), (48_800, "0.000048800"), (12_345_678_901, "12.345678901")]
)
def test_dollars(nano: int, text: str) -> None:
    assert usd(nano) == text


TABLE = """
input = "{input}"
output = "4"
cache_write_5m = "1"
cache_write_1h = "1"
cache_read = "1"
batch_percent = {percent}
"""


@pytest.mark.parametrize(("price", "percent"), [("0.0001", 50), ("-1", 50), ("0.001", 50), ("0.01", 25)])
def test_a_price_that_is_no_whole_number_of_nano_dollars_is_refused(price: str, percent: int) -> None:
    with pytest.raises(ValueError, match=r"input: .* is no whole number"):
        load_prices(TABLE.format(input=price, percent=percent))
