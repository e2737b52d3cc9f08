"""The int8 weight format: quantised matrices in the order that the dot instruction reads them. numpy only.

Packed: int8 [panels, K / 4, 64, 4]: panel of 64 columns, group of four k, column, k within the group. A panel is one stream
of memory, and each of its 64-byte lines feeds one vpdpbusd. Activations are unsigned (q + 128); `offset` takes the 128 back:
-128 * sum over k of w.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from senryu.kernels.layout import PANEL, aligned


@dataclass(frozen=True, slots=True)
class PackedMatrix:
    """y = x @ W.T + bias with W [n, k] int8 per-row scales. Columns are padded with zeros to whole panels."""

    n: int
    k: int
    packed: np.ndarray  # int8 [panels, k / 4, 64, 4]
    scale: np.ndarray  # float32 [panels * 64]
    offset: np.ndarray  # int32 [panels * 64]
    bias: np.ndarray  # float32 [panels * 64]

    @property
    def panels(self) -> int:
        return len(self.scale) // PANEL

    @property
    def nbytes(self) -> int:
        return self.packed.nbytes + self.scale.nbytes + self.offset.nbytes + self.bias.nbytes


def empty(n: int, k: int) -> PackedMatrix:
    """A matrix to be filled by `fill`. Raises ValueError when k is not a multiple of 16."""
    if k % 16:
        raise ValueError(f"a matrix with {k} inputs cannot be packed: inputs must be a multiple of 16")
    panels = -(-n // PANEL)
    scale, offset, bias = (aligned((panels * PANEL,), kind) for kind in (np.float32, np.int32, np.float32))
    matrix = PackedMatrix(n, k, aligned((panels, k // 4, PANEL, 4), np.int8), scale, offset, bias)
    for array in (matrix.packed[-1], matrix.scale, matrix.offset, matrix.bias):
        array[...] = 0
    return matrix


def fill(matrix: PackedMatrix, first: int, q: np.ndarray, scale: np.ndarray, bias: np.ndarray | None = None) -> None:
    """Write rows `first`.. of W: q int8 [rows, k], scale float32 [rows], bias float32 [rows]."""
    end = first + len(q)
    fours, place = np.ascontiguousarray(q).view(np.int32), matrix.packed.view(np.int32)[..., 0]  # four k move as one number
    for panel in range(first // PANEL, -(-end // PANEL)):
        start, stop = max(first, panel * PANEL), min(end, (panel + 1) * PANEL)
        place[panel, :, start - panel * PANEL : stop - panel * PANEL] = fours[start - first : stop - first].T
    matrix.scale[first:end] = scale
    matrix.offset[first:end] = -128 * q.sum(axis=1, dtype=np.int32)
    if bias is not None:
        matrix.bias[first:end] = bias


def unpack(packed: np.ndarray) -> np.ndarray:
    """int8 [panels * 64, k] of a packed array, padding included."""
    panels, groups = packed.shape[:2]
    return packed.transpose(0, 2, 1, 3).reshape(panels * PANEL, groups * 4)
