"""What one step computes: plain arrays, no logic but shape checks. The border between the engine and a program."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(slots=True)
class Batch:
    """Rows (tokens) of several sequences. A row attends to positions 0..its own, found through its sequence's pages."""

    tokens: np.ndarray  # int32 [rows]            token ids, rows of one sequence contiguous and in order
    positions: np.ndarray  # int32 [rows]            absolute positions; within a sequence consecutive
    row_start: np.ndarray  # int32 [sequences + 1]   rows of sequence s are row_start[s]..row_start[s+1]
    page_table: np.ndarray  # int32 [sequences, width] physical page of each logical page; must cover the last position
    sample_rows: np.ndarray  # int32 [n_sampled]       rows whose next token is wanted
    temperature: np.ndarray  # float32 [n_sampled]     0 = argmax (lowest id wins ties)
    top_p: np.ndarray  # float32 [n_sampled]
    top_k: np.ndarray  # int32 [n_sampled]       0 = all
    seeds: np.ndarray  # uint64 [n_sampled]      per request; the draw depends only on (seed, position of the row, logits)

    def __post_init__(self) -> None:
        """Raises ValueError when shapes disagree."""
        rows, sequences, sampled = len(self.tokens), len(self.row_start) - 1, len(self.sample_rows)
        if len(self.positions) != rows or len(self.page_table) != sequences:
            raise ValueError("positions must have one entry a row, page_table one line a sequence")
        if not len(self.temperature) == len(self.top_p) == len(self.top_k) == len(self.seeds) == sampled:
            raise ValueError("temperature, top_p, top_k and seeds must have one entry for each of sample_rows")
