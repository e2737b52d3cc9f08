"""What one step works on: plain arrays, checked once, since compiled kernels trust every index in them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from senryu.kernels.layout import PAGE

DTYPES: dict[str, np.dtype[Any]] = {
    **dict.fromkeys(("tokens", "positions", "row_start", "page_table", "sample_rows", "top_k"), np.dtype(np.int32)),
    **dict.fromkeys(("temperature", "top_p"), np.dtype(np.float32)),
    "seeds": np.dtype(np.uint64),
}
FEW = 16  # numbers that Python compares sooner than it calls numpy: most steps are that short


@dataclass(slots=True)
class Batch:
    """Rows (tokens) of several sequences, each to be computed at its position; some rows want their next token sampled."""

    tokens: np.ndarray  # int32 [rows]; rows of one sequence are contiguous and in order
    positions: np.ndarray  # int32 [rows]; within a sequence consecutive
    row_start: np.ndarray  # int32 [sequences + 1]; rows of sequence s are row_start[s]..row_start[s + 1], at least one
    page_table: np.ndarray  # int32 [sequences, width]; physical page of each logical page, up to that of the last position
    sample_rows: np.ndarray  # int32 [sampled], rising
    temperature: np.ndarray  # float32 [sampled]; 0 is argmax, the lowest id wins ties
    top_p: np.ndarray  # float32 [sampled]; in (0, 1]
    top_k: np.ndarray  # int32 [sampled]; 0 keeps all
    seeds: np.ndarray  # uint64 [sampled]
    masks: np.ndarray | None = None  # uint32 [sampled, ceil(vocab / 32)]; bit set: the token may be sampled, at least one is
    masks_ready: np.ndarray | None = None  # int64 [1], with masks: not 0 from when they are filled, perhaps during the step

    def check(self, *, vocab: int, pages: int, max_rows: int, max_sequences: int, max_sampled: int) -> None:
        """Raise TypeError for a wrong dtype and ValueError, naming the field, for anything a kernel could not survive."""
        for name, dtype in DTYPES.items():
            array, dimensions = getattr(self, name), 2 if name == "page_table" else 1
            if not isinstance(array, np.ndarray) or array.dtype != dtype or array.ndim != dimensions:
                raise TypeError(f"batch.{name} must be an array of {dtype.name} with {dimensions} dimension(s)")
        rows, sequences, sampled = len(self.tokens), len(self.row_start) - 1, len(self.sample_rows)
        most = min(max_sampled, rows)
        if not 1 <= rows <= max_rows:
            raise ValueError(f"batch.tokens: {rows} rows, 1 to {max_rows} fit in a step")
        if not 1 <= sequences <= max_sequences:
            raise ValueError(f"batch.row_start: {sequences} sequences, 1 to {max_sequences} fit in a step")
        if sampled > most:
            raise ValueError(f"batch.sample_rows: {sampled} rows, at most {most} can be sampled in this step")
        _require(len(self.positions) == rows, "positions: one for each token")
        _require(len(self.page_table) == sequences, "page_table: one row for each sequence")
        for name in ("temperature", "top_p", "top_k", "seeds"):
            if len(getattr(self, name)) != sampled:
                raise ValueError(f"batch.{name}: one for each sampled row")
        start, end = self.row_start[:-1], self.row_start[1:]
        starts, wanted = self.row_start.tolist(), self.sample_rows.tolist()
        _require(starts[0] == 0 and starts[-1] == rows and _rises(starts), "row_start: must rise from 0 to the rows")
        _within(self.tokens, vocab, "tokens")
        _within(self.sample_rows, rows, "sample_rows")
        # a row that came twice would be merged from its segments twice
        _require(_rises(wanted), "sample_rows: must rise")
        _within(self.positions, self.page_table.shape[1] * PAGE, "positions: the page table must cover them;")
        if rows > sequences:
            steps = np.diff(self.positions) == 1
            steps[start[1:] - 1] = True
            _require(bool(steps.all()), "positions: must be consecutive within a sequence")
        self._check_pages(pages, start, end)
        if self.masks is not None:
            _check_masks(self.masks, (sampled, -(-vocab // 32)), np.uint32, "masks")
            _check_masks(self.masks_ready, (1,), np.int64, "masks_ready")
        _require(all(value >= 0 for value in self.temperature.tolist()), "temperature: must be 0 or more")
        _require(all(0 < value <= 1 for value in self.top_p.tolist()), "top_p: must lie in (0, 1]")
        _require(all(value >= 0 for value in self.top_k.tolist()), "top_k: must be 0 or more")

    def _check_pages(self, pages: int, start: np.ndarray, end: np.ndarray) -> None:
        """Used entries of the page table must be pages of the pool, and rows must not write to one slot twice."""
        if len(start) == 1:
            _within(self.page_table[0, : int(self.positions[-1]) // PAGE + 1], pages, "page_table")
        else:
            last = self.positions[end - 1] // PAGE
            _within(self.page_table[np.arange(self.page_table.shape[1]) <= last[:, None]], pages, "page_table")
            sequence = np.repeat(np.arange(len(start)), end - start)
            slots = self.page_table[sequence, self.positions // PAGE].astype(np.int64) * PAGE + self.positions % PAGE
            _require(len(np.unique(slots)) == len(slots), "page_table: two rows would write to the same slot of a page")


def await_masks(ready: np.ndarray) -> None:
    """Sleep until `masks_ready` is set: for who has no compiled kernel that waits."""
    while not ready[0]:
        time.sleep(20e-6)


def _check_masks(array: np.ndarray | None, shape: tuple[int, ...], dtype: type, name: str) -> None:
    if not isinstance(array, np.ndarray) or array.dtype != dtype or not array.flags.c_contiguous:
        raise TypeError(f"batch.{name} must be a C-contiguous array of {np.dtype(dtype).name}")
    _require(array.shape == shape, f"{name}: the shape is {array.shape}, not {shape}")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(f"batch.{message}")


def _rises(values: list[int]) -> bool:
    return all(a < b for a, b in pairwise(values))


def _within(array: np.ndarray, high: int, name: str) -> None:
    if len(array) <= FEW:
        values = array.tolist()
        wrong = bool(values) and not 0 <= min(values) <= max(values) < high
    else:  # as unsigned numbers the negative ones are large: one pass finds both
        wrong = int(array.view(np.uint32).max()) >= high
    if wrong:
        raise ValueError(f"batch.{name} values must lie in 0..{high - 1}, found {array.min()}..{array.max()}")
