"""The Kneser-Ney baseline: a proper distribution, the formula by hand, and better the longer its context."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from senryu.evals.ngram import NGram, longest


@pytest.fixture(scope="module")
def text() -> np.ndarray:
    """A second-order chain over 12 tokens with rare exceptions, so that contexts help and counts 1, 2, 3, 4 occur."""
    draw = np.random.default_rng(4)
    tokens = [0, 1]
    for _ in range(3000):
        wild = draw.random() < 0.15
        tokens.append(int(draw.integers(12)) if wild else (tokens[-1] * 5 + tokens[-2] * 3 + 1) % 12)
    return np.array(tokens)


@pytest.mark.parametrize("order", [1, 2, 5])
def test_probabilities_of_the_next_token_sum_to_one(text: np.ndarray, order: int) -> None:
    model = NGram(text, order=order, vocab=16)
    for context in (text[5:9], text[100:104], np.array([13, 13, 13, 13]), np.array([13, 14, int(text[3]), int(text[4])])):
        p = [np.exp(-model.nats(np.append(context, token))[-1]) for token in range(16)]
        assert sum(p) == pytest.approx(1)
        assert min(p) > 0  # unseen tokens keep some mass


def test_bigram_is_the_textbook_formula() -> None:
    tokens = np.array([1, 2, 1, 2, 1, 2, 1, 3, 2, 1, 1, 4, 1, 3, 1, 5, 2, 2])
    bigrams = Counter(zip(tokens[:-1].tolist(), tokens[1:].tolist()))

    def discounts(counts: list[int]) -> list[float]:
        n = [max(sum(c == k for c in counts), 1) for k in (1, 2, 3, 4)]
        y = n[0] / (n[0] + 2 * n[1])
        raw = [0.0, 1 - 2 * y * n[1] / n[0], 2 - 3 * y * n[2] / n[1], 3 - 4 * y * n[3] / n[2]]
        return [min(max(d, 0.0), top) for d, top in zip(raw, (0.0, 0.99, 1.99, 2.99))]

    continuation = Counter(b for _, b in bigrams)  # in how many contexts a token occurs
    d1, d2 = discounts(list(continuation.values())), discounts(list(bigrams.values()))
    contexts = sum(continuation.values())
    p1 = (continuation[2] - d1[min(continuation[2], 3)] + sum(d1[min(c, 3)] for c in continuation.values()) / 8) / contexts
    after = {b: c for (a, b), c in bigrams.items() if a == 1}
    freed = sum(d2[min(c, 3)] for c in after.values())
    expected = (after[2] - d2[min(after[2], 3)] + freed * p1) / sum(after.values())
    assert np.exp(-NGram(tokens, order=2, vocab=8).nats(np.array([1, 2]))[1]) == pytest.approx(expected)


def test_longer_contexts_help(text: np.ndarray) -> None:
    train, rest = text[:2500], text[2500:]
    costs = [NGram(train, order=order, vocab=16).nats(rest).mean() for order in (1, 2, 3)]
    assert costs[0] > costs[1] > costs[2]


def test_ids_that_do_not_fit_are_refused() -> None:
    assert [longest(vocab) for vocab in (2, 4096, 4097, 65_536, 65_537)] == [5, 5, 4, 4, 3]
    with pytest.raises(ValueError, match="5 ids of 13 bits do not fit into 64; use order 1 to 4"):
        NGram(np.arange(10), order=5, vocab=8192)
    assert np.isfinite(NGram(np.arange(10), order=4, vocab=8192).nats(np.array([8191, 3, 4, 5, 6]))).all()
    with pytest.raises(ValueError, match="64"):
        NGram(np.arange(10), order=0, vocab=16)
