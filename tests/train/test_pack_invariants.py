"""Packing, for any documents: every token once, masks that follow the documents, targets that stay inside them."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from senryu.train.pack import IGNORED, document_numbers, pack_stream, pack_whole, targets
from senryu.train.vocabulary import BEGIN, END, IDS, PAD

ROLES = [IDS[f"<|{name}|>"] for name in ("system", "user", "assistant", "tools", "result", "text")]
bodies = st.lists(st.sampled_from([*ROLES, *range(64, 90)]), max_size=40)
documents = st.lists(bodies.map(lambda body: np.array([BEGIN, *body, END], np.uint16)), min_size=1, max_size=40)
lengths = st.sampled_from([4, 16, 32, 64])
seeds = st.integers(0, 5)


def shuffled_stream(parts: list[np.ndarray], seed: int) -> np.ndarray:
    order = np.random.default_rng(seed).permutation(len(parts))
    return np.concatenate([parts[i] for i in order])


@given(documents, lengths, seeds)
def test_a_stream_holds_every_token_of_its_whole_rows_once(parts: list[np.ndarray], length: int, seed: int) -> None:
    rows = pack_stream(parts, length, np.random.default_rng(seed))
    stream = shuffled_stream(parts, seed)
    cut = stream[: len(stream) // length * length].reshape(-1, length)
    assert rows.dtype == np.uint16
    assert rows.shape == cut.shape
    assert Counter(map(bytes, rows)) == Counter(map(bytes, cut))


@given(documents, lengths, seeds)
def test_whole_rows_hold_every_document_that_fits_once(parts: list[np.ndarray], length: int, seed: int) -> None:
    rows = pack_whole(parts, length, np.random.default_rng(seed))
    found = Counter()
    for row in rows:
        filled = row[row != PAD]
        assert np.array_equal(row[: len(filled)], filled)  # padding stands at the end
        found.update(bytes(piece) for piece in np.split(filled, np.flatnonzero(filled == BEGIN)[1:]))
    assert found == Counter(bytes(part) for part in parts if len(part) <= length)


@given(documents, lengths, seeds, st.booleans(), st.booleans())
def test_masks_and_targets_follow_the_documents(
    parts: list[np.ndarray], length: int, seed: int, whole: bool, assistant_only: bool
) -> None:
    rows = (pack_whole if whole else pack_stream)(parts, length, np.random.default_rng(seed))
    numbers, wanted = document_numbers(rows), targets(rows, assistant_only=assistant_only)
    for row, number, target in zip(rows.tolist(), numbers.tolist(), wanted.tolist(), strict=True):
        inside, role = 0, None
        for at, token in enumerate(row):
            inside += token == BEGIN
            assert number[at] == inside
            role = token if token in (*ROLES, BEGIN, END) else role
            follows = row[at + 1] if at + 1 < length else None
            trained = follows not in (None, BEGIN, PAD)
            if assistant_only:
                trained = trained and role in (IDS["<|assistant|>"], IDS["<|text|>"])
            assert target[at] == (follows if trained else IGNORED)
            if trained:
                assert number[at + 1] == number[at]  # what is predicted is of the same document
