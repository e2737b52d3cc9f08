"""Bits per byte: windows score every token once, with the context that they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest

from senryu.evals.perplexity import STRIDE, WINDOW, HeldOut, bits_per_byte, windows


@pytest.mark.parametrize("length", [2, WINDOW - 1, WINDOW, WINDOW + 1, WINDOW + STRIDE, WINDOW + STRIDE + 1, 5000])
def test_windows_score_each_token_once_with_enough_before_it(length: int) -> None:
    scored = []
    for start, stop, first in windows(length):
        assert stop - start <= WINDOW
        assert start == 0 or first - start >= STRIDE
        scored += range(first, stop)
    assert scored == list(range(1, length))


def test_bits_are_per_byte_and_the_openers_are_free() -> None:
    documents = [HeldOut("a", 10, np.arange(7)), HeldOut("b", 30, np.arange(3))]
    result = bits_per_byte(documents, lambda ids: np.full(len(ids) - 1, math.log(2)))
    assert result == pytest.approx({"a": 5 / 10, "b": 1 / 30, "all": 6 / 40})
