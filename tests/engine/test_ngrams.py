"""Indexes of tokens, against a naive search; what a pool of answers keeps."""

from __future__ import annotations

import random

import hypothesis.strategies as st
import pytest
from hypothesis import given

from senryu.engine import ngrams
from senryu.engine.ngrams import LEAST_MATCH, LOOK, MOST_MATCH, NgramIndex, Pool


def naive(text: list[int], end: int, context: list[int]) -> tuple[int, int]:
    """What NgramIndex.match promises, by looking everywhere."""
    found = []
    for place in range(end, LEAST_MATCH - 1, -1):
        n = 0
        while n < min(MOST_MATCH, place, len(context)) and text[place - 1 - n] == context[-1 - n]:
            n += 1
        if n >= LEAST_MATCH:
            found.append((n, place))
    return max(found[:LOOK], default=(0, 0), key=lambda match: match[0])


@given(st.lists(st.integers(0, 2), max_size=120), st.lists(st.integers(1, 40), max_size=8))
def test_the_index_finds_what_a_rescan_finds(text: list[int], cuts: list[int]) -> None:
    index = NgramIndex(text)
    end = 0
    for cut in [*cuts, len(text)]:
        end = min(end + cut, len(text))
        assert index.extend(end - 1) or end == 0
        assert index.match(text, end) == naive(text, end - 1, text[:end])


def test_an_index_catches_up_a_stretch_at_a_time() -> None:
    text = random.Random(0).choices(range(9), k=1000)
    index = NgramIndex(text)
    assert [index.extend(999, 400) for _ in range(3)] == [False, False, True]
    assert index.match(text, 1000) == naive(text, 999, text)


def test_a_pool_forgets_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ngrams, "GENERATION", 100)
    pool = Pool()
    for i in range(50):
        pool.add([1000 * i + j for j in range(30)])
    assert len(pool.young.text) + len(pool.old.text) <= 2 * 131
    newest, oldest = [49_000, 49_001, 49_002], [0, 1, 2]
    assert pool.young.match(newest, 3)[0] == 3
    assert pool.young.match(oldest, 3) == pool.old.match(oldest, 3) == (0, 0)
