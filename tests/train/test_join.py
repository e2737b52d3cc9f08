"""Long documents are made of neighbours: whole where they fit, in reading order, no token lost."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from senryu.train.join import CLOSING, OPENING, join, reading_order
from senryu.train.pack import document_numbers

BETWEEN = np.array([63, 63], np.uint16)


def documents(lengths: list[int]) -> list[np.ndarray]:
    """Documents whose tokens are numbered through, so that each is known again."""
    ids = itertools.count(64)
    return [np.concatenate([OPENING, np.fromiter(itertools.islice(ids, n), np.uint16, n), CLOSING]) for n in lengths]


def test_neighbours_are_joined_as_long_as_they_fit() -> None:
    found = [joined.tolist() for joined in join(documents([3, 4, 5, 20, 1]), 14, BETWEEN)]
    begin, text, end = *OPENING.tolist(), *CLOSING.tolist()
    assert found == [
        [begin, text, 64, 65, 66, 63, 63, 67, 68, 69, 70, end],
        [begin, text, 71, 72, 73, 74, 75, end],
        [begin, text, *range(76, 87), end],  # too long for a row: cut
        [begin, text, *range(87, 96), end],  # its rest; the next one would not fit
        [begin, text, 96, end],
    ]
    assert document_numbers(np.array([found[0]], np.uint16)).max() == 1  # one document: attention reaches over all of it


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 40), max_size=30), st.integers(4, 40))
def test_no_token_is_lost_and_what_fits_is_whole(lengths: list[int], length: int) -> None:
    given_ones = documents(lengths)
    joined = list(join(given_ones, length, BETWEEN))
    assert all(len(one) <= length for one in joined)
    kept = [int(id) for one in joined for id in one if id >= 64]
    assert kept == [int(id) for one in given_ones for id in one if id >= 64]
    for document in given_ones:
        inner = document[2:-1]
        if 0 < len(inner) <= length - 3:
            (holding,) = [one for one in joined if inner[0] in one]
            assert inner[-1] in holding


@pytest.mark.parametrize(
    "texts",
    [
        ["A Book by B\nCHAPTER 2\n\nx", "A Book by B\nCHAPTER 10\n\nx", "Another by C\nCHAPTER 1\n\nx"],
        [f"A Book by B\n{roman}\n\nOn the" for roman in ("II", "IV", "V", "VIII", "IX", "XI", "XIX", "XL", "XCIX", "C")],
        ["", "# 3 ways", "# a page", "# b page\n"],
    ],
)
def test_chapters_come_in_their_order(texts: list[str]) -> None:
    mixed = texts[:]
    random.Random(1).shuffle(mixed)
    assert sorted(mixed, key=reading_order) == texts
