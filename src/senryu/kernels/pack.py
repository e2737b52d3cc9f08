"""The int8 weight format: quantised matrices in the order that the dot instruction reads them. numpy only.

Packed: int8 [panels * 4, K / 4, 16, 4]: column block, group of four k, column within the block, k within the group, so that
one 64-byte load feeds vpdpbusd. Activations are unsigned (q + 128); `offset` takes the 128 back: -128 * sum over k of w.
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
    packed: np.ndarray  # int8 [panels * 4, k / 4, 16, 4]
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
    width = -(-n // PANEL) * PANEL
    scale, offset, bias = (aligned((width,), kind) for kind in (np.float32, np.int32, np.float32))
    matrix = PackedMatrix(n, k, aligned((width // 16, k // 4, 16, 4), np.int8), scale, offset, bias)
    for array in (matrix.packed[n // 16 :], matrix.scale, matrix.offset, matrix.bias):
        array[...] = 0
    return matrix


def fill(matrix: PackedMatrix, first: int, q: np.ndarray, scale: np.ndarray, bias: np.ndarray | None = None) -> None:
    """Write rows `first`.. of W: q int8 [rows, k], scale float32 [rows]. Both must be multiples of 16, or end at n."""
    rows, k = q.shape
    blocks = -(-rows // 16)
    whole = rows // 16
    view = matrix.packed[first // 16 : first // 16 + blocks]
    fours, place = np.ascontiguousarray(q).view(np.int32), view.view(np.int32)[..., 0]  # four k move as one number
    place[:whole] = fours[: whole * 16].reshape(whole, 16, k // 4).transpose(0, 2, 1)
    if whole < blocks:
        place[whole, :, : rows - whole * 16] = fours[whole * 16 :].T
    matrix.scale[first : first + rows] = scale
    matrix.offset[first : first + rows] = -128 * q.sum(axis=1, dtype=np.int32)
    if bias is not None:
        matrix.bias[first : first + rows] = bias


def unpack(packed: np.ndarray) -> np.ndarray:
    """int8 [columns, k] of a packed array, padding included."""
    blocks, groups = packed.shape[:2]
    return packed.transpose(0, 2, 1, 3).reshape(blocks * 16, groups * 4)
