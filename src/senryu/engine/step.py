"""From a plan to a program's step: fills the batch's arrays, and chooses how many rows a step may carry by the clock."""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np

from senryu.engine.grammar import ALL, MaskWork
from senryu.engine.scheduler import Plan
from senryu.kernels.batch import Batch
from senryu.model.spec import ModelSpec

ATTENTION_COST = 4.0  # of a multiplication in attention over one in an int8 matrix


class Runner(Protocol):
    """What the engine drives: `model.program.Program`, or a fake. `step` returns int32 [sampled] and releases the GIL.

    `fingerprint` stands for all that a page's content depends on besides the tokens: weights, kernels, K/V format.
    """

    spec: ModelSpec
    page_size: int
    pages: int
    max_rows: int
    max_sequences: int
    max_sampled: int
    fingerprint: str

    def step(self, batch: Batch) -> np.ndarray: ...

    def copy_page(self, source: int, target: int) -> None:
        """K/V of page `target` becomes that of page `source`."""

    def read_page(self, page: int) -> bytes:
        """A copy of the page's K/V, all layers, of the same length for every page."""

    def write_page(self, page: int, content: bytes | memoryview) -> None:
        """Put back what `read_page` of any page gave. Raises ValueError for another length."""

    def close(self) -> None: ...


class BatchFiller:
    """Arrays for the largest batch, reused by every step: a batch is views of them and is valid until the next `fill`."""

    def __init__(self, *, max_rows: int, max_sequences: int, max_sampled: int, max_pages: int, vocab: int) -> None:
        self._tokens = np.zeros(max_rows, np.int32)
        self._positions = np.zeros(max_rows, np.int32)
        self._row_start = np.zeros(max_sequences + 1, np.int32)
        self._page_table = np.zeros(max_sequences * max_pages, np.int32)
        self._sample_rows = np.zeros(max_sampled, np.int32)
        self._temperature = np.zeros(max_sampled, np.float32)
        self._top_p = np.zeros(max_sampled, np.float32)
        self._top_k = np.zeros(max_sampled, np.int32)
        self._seeds = np.zeros(max_sampled, np.uint64)
        self._masks = np.zeros((max_sampled, -(-vocab // 32)), np.uint32)
        self._masks_ready = np.zeros(1, np.int64)
        self._count = np.arange(max_rows, dtype=np.int32)

    def fill(self, plan: Plan) -> Batch:
        """The batch of `plan`: rows in the plan's order, sampled where the sequences say.

        With a grammar among them there are masks: all ones, for `constrained` to say which are still to be filled.
        """
        n = len(plan.sequences)
        width = max(sequence.held for sequence in plan.sequences)
        page_table = self._page_table[: n * width].reshape(n, width)
        row = sampled = 0
        masked = False
        for i, (sequence, rows, samples) in enumerate(zip(plan.sequences, plan.rows, plan.samples)):
            start, end = sequence.computed, sequence.computed + rows
            self._row_start[i] = row
            if rows == 1:
                self._tokens[row] = sequence.tokens[start]
                self._positions[row] = start
            else:
                self._tokens[row : row + rows] = sequence.tokens[start:end]
                np.add(self._count[:rows], start, out=self._positions[row : row + rows])
            page_table[i, : sequence.held] = sequence.pages[: sequence.held]
            row += rows
            if samples:
                to = sampled + samples
                known = row - 1 - sequence.drafted
                self._sample_rows[sampled:to] = [known + i for i in sequence.sampled]
                self._temperature[sampled:to] = sequence.temperature
                self._top_p[sampled:to] = sequence.top_p
                self._top_k[sampled:to] = sequence.top_k
                self._seeds[sampled:to] = sequence.seed
                sampled = to
                masked = masked or sequence.matcher is not None
        self._row_start[n] = row
        if masked:
            self._masks[:sampled] = ALL
        return Batch(
            tokens=self._tokens[:row],
            positions=self._positions[:row],
            row_start=self._row_start[: n + 1],
            page_table=page_table,
            sample_rows=self._sample_rows[:sampled],
            temperature=self._temperature[:sampled],
            top_p=self._top_p[:sampled],
            top_k=self._top_k[:sampled],
            seeds=self._seeds[:sampled],
            masks=self._masks[:sampled] if masked else None,
            masks_ready=self._masks_ready if masked else None,
        )


def constrained(plan: Plan) -> list[MaskWork]:
    """What `MaskThread.start` is to do for the batch of `plan`."""
    work: list[MaskWork] = []
    row = 0
    for sequence, samples in zip(plan.sequences, plan.samples):
        if samples and sequence.matcher:
            drafts = sequence.tokens[sequence.length : sequence.length + sequence.drafted].tolist()
            work.append((sequence.matcher, row, drafts, sequence.sampled))
        row += samples
    return work


def doubling_depth(spec: ModelSpec) -> float:
    """The depth in tokens at which computing a row costs about double, infinite where every layer has a window.

    From the multiplications of the matrices against those of attention, which are ATTENTION_COST times as dear. An
    estimate is enough: `Pace` learns the speed, and this only says how it changes with depth.
    """
    q, kv = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
    matrices = len(spec.layers) * spec.hidden * (2 * q + 2 * kv + 3 * spec.ffn)
    attention = 2 * q * sum(layer.window is None for layer in spec.layers)
    return matrices / (ATTENTION_COST * attention) if attention else math.inf


class Pace:
    """How much prefill a step may carry so that it takes about `seconds`, learned from the steps that were full.

    Counted in rows at depth 0; deeper rows count for more (`doubling_depth`), so that a step is not many times longer
    than the last one because it continues a long prompt where that one began a short one.
    Short steps are what lets an abort, a new request and everybody's next token come soon; they cost little, since a
    step of 64 rows runs at over nine tenths of the speed of 512 (LAB.md). Results do not depend on it: a row's values
    are the same however a prompt is cut.
    """

    LEAST = 32  # fewer rows would save little time: a step costs at least what its weights cost to read

    def __init__(self, seconds: float, max_rows: int) -> None:
        self._seconds = seconds
        self._max_rows = max_rows
        self._rate = 2 * self.LEAST / seconds  # rows per second; starts low, since a slow step cannot be taken back

    @property
    def rows(self) -> int:
        """The prefill work that the next step may carry, in rows at depth 0."""
        return min(max(int(self._rate * self._seconds), self.LEAST), self._max_rows)

    def measure(self, work: float, seconds: float) -> None:
        """A step full of prefill work took so long. Slower is believed at once, faster is approached by doubling."""
        self._rate = min(work / max(seconds, 1e-6), 2 * self._rate)
