"""A copy is followed through edits: it goes on behind each when a token tells where, and a replacement is expected again."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from senryu.engine.alignment import GAP, LONGEST, Alignment, Swaps
from senryu.engine.ngrams import END, MOST_MATCH, NgramIndex

SOURCE = list(range(1000, 1200))


def buffer(tokens: list[int]) -> memoryview:
    return memoryview(np.array(tokens, np.int32))


def aligned(text: list[int], source: list[int], swaps: Swaps | None = None) -> tuple[Alignment, memoryview]:
    """A text that begins as `source` does, followed for as long as a copy must be to count as one."""
    view = buffer(text)
    found = Alignment(NgramIndex(source), 0, 0, 0, {} if swaps is None else swaps)
    assert found.follow(view, MOST_MATCH)
    return found, view


@pytest.mark.parametrize("new", range(4))
@pytest.mark.parametrize("old", range(4))
def test_a_copy_goes_on_behind_an_edit(old: int, new: int) -> None:
    """`old` tokens have become `new` others: one more tells where it goes on, and where one has become one not even that."""
    text = [*SOURCE[:20], *range(new), *SOURCE[20 + old :]]
    found, view = aligned(text, SOURCE)
    for end in range(MOST_MATCH + 1, len(text) - 5):
        assert found.follow(view, end)
        expected = found.tokens(5)[0]
        if end <= 20:
            assert expected == SOURCE[end : end + 5]
        elif end > 20 + new or (end == 21 and (old, new) == (1, 1)):
            assert expected == text[end : end + 5]
        elif end > 21:
            assert expected == []  # what has come fits nowhere


def test_an_edit_that_is_followed_by_another_is_measured_from_the_first() -> None:
    text = [*SOURCE[:20], 1, SOURCE[21], 2, 3, *SOURCE[24:60]]
    found, view = aligned(text, SOURCE)
    for end in range(MOST_MATCH + 1, len(text)):
        assert found.follow(view, end)
    assert found.tokens(3) == (SOURCE[59:62], [])


def test_what_is_put_in_may_be_longer_than_what_is_looked_through_only_so_far() -> None:
    for size, goes_on in ((GAP, True), (GAP + 1, False)):
        found, view = aligned([*SOURCE[:20], *range(size), *SOURCE[20:60]], SOURCE)
        assert all(found.follow(view, end) for end in range(MOST_MATCH, 20 + size + 1)) == goes_on


def test_a_few_tokens_in_common_are_no_copy() -> None:
    view = buffer([*SOURCE[: MOST_MATCH - 1], 5, 6])
    found = Alignment(NgramIndex(SOURCE), 0, 0, 0, {})
    assert not found.follow(view, MOST_MATCH)


@pytest.mark.parametrize(("old", "new"), [(1, 1), (1, 3), (3, 1), (2, 2), (LONGEST, LONGEST)])
def test_what_was_replaced_is_expected_to_be_again(old: int, new: int) -> None:
    """The second time its first token tells, from the third time on it is expected."""
    name, other = list(range(100, 100 + old)), list(range(200, 200 + new))
    source = [token for i in range(5) for token in (*SOURCE[20 * i : 20 * i + 20], *name)]
    text = [token for i in range(5) for token in (*SOURCE[20 * i : 20 * i + 20], *other)]
    swaps: Swaps = {}
    found, view = aligned(text, source, swaps)
    period = 20 + new
    for end in range(MOST_MATCH + 1, 4 * period):
        assert found.follow(view, end)
        tokens, swapped = found.tokens(new + 4)
        if end > period + 20:
            assert tokens == text[end : end + new + 4]
            assert swapped == [i for i in range(len(tokens)) if (end + i) % period == 20]
    assert [(swap.old, swap.new) for swap in swaps.values()] == [(name, other)]


@given(
    source=st.lists(st.one_of(st.integers(0, 2), st.just(END)), min_size=8, max_size=60),
    text=st.lists(st.integers(0, 2), min_size=1, max_size=120),
    cuts=st.lists(st.integers(1, 9), max_size=20),
    own=st.booleans(),
)
def test_whatever_comes_it_expects_what_is_known(source, text, cuts, own) -> None:
    """In texts of few tokens everything fits somewhere. What it expects is of its source, and never beyond its end."""
    view = buffer(text)
    index = NgramIndex(view) if own else NgramIndex(source)  # type: ignore[arg-type]
    end = 1
    found = Alignment(index, 0, 1, MOST_MATCH, {})  # as if it were a copy
    for cut in cuts:
        end = min(end + cut, len(text))
        if not found.follow(view, end):
            return
        assert found.at == end
        tokens, swapped = found.tokens(15)
        assert len(tokens) <= 15
        assert END not in tokens
        assert all(0 <= i < len(tokens) for i in swapped)
        if own:
            assert 0 <= found.place < end
            assert set(tokens) <= set(text[:end])
