"""Packing: documents -> uint16 rows, and from a row's tokens alone its document numbers and training targets.

Every document starts with <|begin|> and special tokens never occur inside texts, so masks need no storage: they follow
from the tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from senryu.train.vocabulary import BEGIN, IDS, PAD

IGNORED = -1
_ROLES = [
    IDS[t] for t in ("<|begin|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|tools|>", "<|result|>", "<|text|>")
]
_TRAINED = [IDS["<|assistant|>"], IDS["<|text|>"]]


def pack_stream(documents: Sequence[np.ndarray], length: int, generator: np.random.Generator) -> np.ndarray:
    """Shuffle documents, join them, cut rows [n, length] and shuffle the rows; a partial last row is dropped.

    Shuffling rows too keeps the pieces of a long document from filling one batch. Memory: the documents and the rows, no more.
    """
    order = generator.permutation(len(documents))
    count = sum(map(len, documents)) // length
    place = np.argsort(generator.permutation(count))  # row of the stream -> row of the result
    rows = np.empty((count, length), np.uint16)
    at = 0  # in the stream
    for i in order:
        document = documents[i]
        done = 0
        while done < len(document) and at < count * length:
            row, column = divmod(at, length)
            piece = document[done : done + length - column]
            rows[place[row], column : column + len(piece)] = piece
            done += len(piece)
            at += len(piece)
    return rows


def pack_whole(documents: Sequence[np.ndarray], length: int, generator: np.random.Generator) -> np.ndarray:
    """Rows [n, length] of whole documents, padded: conversations are not cut. Documents over `length` are left out."""
    closed: list[list[int]] = []
    still_open: list[list[int]] = []
    room: list[int] = []
    for i in generator.permutation(len(documents)).tolist():
        size = len(documents[i])
        if size > length:
            continue
        place = next((r for r, free in enumerate(room) if free >= size), None)
        if place is None:
            still_open.append([])
            room.append(length)
            place = len(room) - 1
        still_open[place].append(i)
        room[place] -= size
        if room[place] < 8 or len(room) > 32:  # close the fullest row
            fullest = int(np.argmin(room))
            closed.append(still_open.pop(fullest))
            room.pop(fullest)
    closed += still_open
    rows = np.full((len(closed), length), PAD, np.uint16)
    for row, picked in zip(rows, (closed[r] for r in generator.permutation(len(closed))), strict=True):
        joined = np.concatenate([documents[i] for i in picked])
        row[: len(joined)] = joined
    return rows


def document_numbers(rows: np.ndarray) -> np.ndarray:
    """int64 [n, length]: 0 for what continues from the row before, then 1, 2, ... at each <|begin|>."""
    return np.cumsum(rows == BEGIN, axis=1, dtype=np.int64)


def targets(rows: np.ndarray, *, assistant_only: bool) -> np.ndarray:
    """int64 [n, length]: the next token, or IGNORED at row ends, before <|begin|> and before padding.

    With `assistant_only` only what an assistant says counts (its <|call|> and closing <|end|> included), and plain
    documents (<|text|>), which a stage may mix in as replay.
    """
    rows = rows.astype(np.int64)
    following = np.full_like(rows, IGNORED)
    following[:, :-1] = rows[:, 1:]
    following[(following == BEGIN) | (following == PAD)] = IGNORED
    if assistant_only:
        position = np.where(np.isin(rows, _ROLES), np.arange(rows.shape[1]), 0)
        last_role = np.take_along_axis(rows, np.maximum.accumulate(position, axis=1), axis=1)
        following[~np.isin(last_role, _TRAINED)] = IGNORED
    return following
