"""The n-gram baseline: interpolated modified Kneser-Ney over token ids, the strongest simple model of a text.

Source of the formulas: Chen & Goodman 1999, "An empirical study of smoothing techniques for language modeling", section 3.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

PACKED = 64  # bits of a packed n-gram


def longest(vocab: int) -> int:
    """The highest order up to 5 whose n-grams fit: 5 for a vocabulary of at most 4,096, 4 for one of at most 65,536."""
    return min(5, PACKED // (vocab - 1).bit_length())


@dataclass(frozen=True)
class _Order:
    """One order's tables, sorted: n-grams with their counts; contexts with total count and left-over mass."""

    grams: np.ndarray  # uint64 [n]
    discounted: np.ndarray  # float64 [n]: count less its discount
    contexts: np.ndarray  # uint64 [m]
    totals: np.ndarray  # float64 [m]
    left: np.ndarray  # float64 [m]: what the discounts freed


class NGram:
    """A model of the next token given the `order` - 1 before it. Ids must be below `vocab`."""

    def __init__(self, tokens: np.ndarray, order: int, vocab: int) -> None:
        """Count `tokens` int [n]. Raises ValueError when an n-gram does not fit into 64 bits."""
        self.order, self.vocab, self._bits = order, vocab, (vocab - 1).bit_length()
        if order * self._bits > PACKED or order < 1:
            raise ValueError(
                f"{order} ids of {self._bits} bits do not fit into {PACKED}; "
                f"use order 1 to {longest(vocab)} with a vocabulary of {vocab:,}"
            )
        grams, counts = np.unique(_pack(tokens, order, self._bits), return_counts=True)
        self._orders: list[_Order] = []
        for length in range(order, 0, -1):
            self._orders.append(_tables(grams, counts, self._bits))
            # lower orders count in how many contexts a token occurs: distinct left extensions
            keep = np.uint64((1 << (self._bits * (length - 1))) - 1)
            grams, counts = np.unique(grams & keep, return_counts=True)
        self._orders.reverse()

    def nats(self, tokens: np.ndarray) -> np.ndarray:
        """-ln p of each token given those before it, float64 [n]; the first tokens have shorter contexts."""
        p = np.full(len(tokens), 1.0 / self.vocab)
        for length, table in enumerate(self._orders, start=1):
            if len(tokens) < length:
                break
            packed = _pack(tokens, length, self._bits)
            context, found = _find(table.contexts, packed >> np.uint64(self._bits))
            gram, seen = _find(table.grams, packed)
            lower = p[length - 1 :]
            mixed = (np.where(seen, table.discounted[gram], 0.0) + table.left[context] * lower) / table.totals[context]
            p[length - 1 :] = np.where(found, mixed, lower)
        return np.asarray(-np.log(p))


def _pack(tokens: np.ndarray, length: int, bits: int) -> np.ndarray:
    """uint64 [n - length + 1]: each n-gram in one number, the last token in the lowest bits."""
    ids = tokens.astype(np.uint64)
    packed = np.zeros(len(ids) - length + 1, np.uint64)
    for i in range(length):
        packed = (packed << np.uint64(bits)) | ids[i : len(ids) - length + 1 + i]
    return packed


def _tables(grams: np.ndarray, counts: np.ndarray, bits: int) -> _Order:
    """Discounts from the counts of counts (Chen & Goodman, equation 26), then the sums of every context."""
    n1, n2, n3, n4 = (max(int((counts == c).sum()), 1) for c in (1, 2, 3, 4))
    y = n1 / (n1 + 2 * n2)
    discounts = np.clip([0.0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3], 0.0, [0.0, 0.99, 1.99, 2.99])
    discount = discounts[np.minimum(counts, 3)]
    contexts, start = np.unique(grams >> np.uint64(bits), return_index=True)
    return _Order(
        grams, counts - discount, contexts, np.add.reduceat(counts.astype(np.float64), start), np.add.reduceat(discount, start)
    )


def _find(table: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(row of each key, whether it is there); rows of absent keys are valid but meaningless."""
    rows = np.minimum(np.searchsorted(table, keys), len(table) - 1)
    return rows, table[rows] == keys
