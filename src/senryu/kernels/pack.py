"""The weight formats: matrices in the order in which kernels read them. numpy only.

Columns (outputs) stand in panels of 64, one stream of memory each; columns of padding are zeros.
    int8   [panels, K / 4, 64, 4]: each 64-byte line feeds one dot instruction, four k of sixteen columns. Activations are
           unsigned (q + 128); `offset` takes the 128 back: -128 * sum over k of w. One float32 scale a column.
    int4   [panels, K / 8, 64, 4]: w = (nibble - 8) * scale of its group of 128 k. Byte j of chunk i holds k = 8i + j in its low
           half and k = 8i + 4 + j in its high half, so that either half of a line, masked, is a line of the int8 format.
    bf16   [panels, K, 64]: the upper halves of float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from senryu.kernels.layout import GROUP, PANEL, aligned

Format = Literal["int8", "int4", "bf16"]
FORMATS: tuple[Format, ...] = ("int8", "int4", "bf16")


@dataclass(frozen=True, slots=True)
class _Matrix:
    """y = x @ W.T + bias, W [n, k]."""

    n: int
    k: int
    packed: np.ndarray
    bias: np.ndarray  # float32 [panels * 64]

    @property
    def panels(self) -> int:
        return -(-self.n // PANEL)


@dataclass(frozen=True, slots=True)
class Int8Matrix(_Matrix):
    """`packed`: int8 [panels, k / 4, 64, 4]."""

    format: ClassVar[Format] = "int8"
    scale: np.ndarray  # float32 [panels * 64]
    offset: np.ndarray  # int32 [panels * 64]


@dataclass(frozen=True, slots=True)
class Int4Matrix(_Matrix):
    """`packed`: uint8 [panels, k / 8, 64, 4]."""

    format: ClassVar[Format] = "int4"
    scale: np.ndarray  # bfloat16 as uint16 [panels, groups, 64]

    @property
    def groups(self) -> int:
        return self.scale.shape[1]


@dataclass(frozen=True, slots=True)
class Bf16Matrix(_Matrix):
    """`packed`: bfloat16 as uint16 [panels, k, 64]."""

    format: ClassVar[Format] = "bf16"


@dataclass(frozen=True, slots=True)
class FloatMatrix(_Matrix):
    """`packed`: float32 [n, k] in plain order, for the fp32 reference path."""

    format: ClassVar[str] = "fp32"


PackedMatrix = Int8Matrix | Int4Matrix | Bf16Matrix
_CLASSES: dict[str, Any] = {kind.format: kind for kind in (Int8Matrix, Int4Matrix, Bf16Matrix)}


def arrays(n: int, k: int, format: Format) -> dict[str, tuple[tuple[int, ...], Any]]:
    """Shape and dtype of every array of a matrix, by field. Raises ValueError when k is not a multiple of 16."""
    if k % 16:
        raise ValueError(f"a matrix with {k} inputs cannot be packed: inputs must be a multiple of 16")
    panels = -(-n // PANEL)
    bias: dict[str, tuple[tuple[int, ...], Any]] = {"bias": ((panels * PANEL,), np.float32)}
    if format == "int8":
        columns = {"scale": ((panels * PANEL,), np.float32), "offset": ((panels * PANEL,), np.int32)}
        return {"packed": ((panels, k // 4, PANEL, 4), np.int8), **columns, **bias}
    if format == "int4":
        scale = ((panels, -(-k // GROUP), PANEL), np.uint16)
        return {"packed": ((panels, k // 8, PANEL, 4), np.uint8), "scale": scale, **bias}
    return {"packed": ((panels, k, PANEL), np.uint16), **bias}


def matrix(n: int, k: int, format: Format, fields: dict[str, np.ndarray]) -> PackedMatrix:
    """A matrix of arrays that are there already. Raises ValueError when they are not those that `arrays` names."""
    wanted = {name: (shape, np.dtype(dtype)) for name, (shape, dtype) in arrays(n, k, format).items()}
    if {name: (array.shape, array.dtype) for name, array in fields.items()} != wanted:
        raise ValueError(f"these are not the arrays of a {format} matrix [{n}, {k}]")
    result: PackedMatrix = _CLASSES[format](n, k, **fields)
    return result


def empty(n: int, k: int, format: Format = "int8") -> PackedMatrix:
    """A matrix to be filled by `fill`. Raises ValueError when k is not a multiple of 16."""
    fields = {name: aligned(shape, dtype) for name, (shape, dtype) in arrays(n, k, format).items()}
    for name, array in fields.items():
        (array[-1] if name == "packed" else array)[...] = 0
    return matrix(n, k, format, fields)


def fill(
    matrix: PackedMatrix, first: int, w: np.ndarray, scale: np.ndarray | None = None, bias: np.ndarray | None = None
) -> None:
    """Write rows `first`.. of W; threads may fill different rows at once.

    int8: w int8 [rows, k], scale float32 [rows]. int4: w nibbles uint8 [rows, k], scale uint16 [rows, groups].
    bf16: w uint16 [rows, k], no scale. bias: float32 [rows].
    """
    end = first + len(w)
    if isinstance(matrix, Int8Matrix):
        _spread(matrix.packed.view(np.int32)[..., 0], first, np.ascontiguousarray(w).view(np.int32))
        matrix.scale[first:end] = scale
        matrix.offset[first:end] = -128 * w.sum(axis=1, dtype=np.int32)
    elif isinstance(matrix, Int4Matrix):
        assert scale is not None
        low, high = w.reshape(len(w), w.shape[1] // 8, 2, 4).transpose(2, 0, 1, 3)
        _spread(matrix.packed.view(np.int32)[..., 0], first, (low | high << 4).view(np.int32)[..., 0])
        _spread(matrix.scale, first, scale)
    else:
        _spread(matrix.packed, first, w)
    if bias is not None:
        matrix.bias[first:end] = bias


def _spread(place: np.ndarray, first: int, rows: np.ndarray) -> None:
    """place[panel, i, column] = rows[row, i] for row number `first`.. of all panels' columns."""
    end = first + len(rows)
    for panel in range(first // PANEL, -(-end // PANEL)):
        start, stop = max(first, panel * PANEL), min(end, (panel + 1) * PANEL)
        place[panel, :, start - panel * PANEL : stop - panel * PANEL] = rows[start - first : stop - first].T


def unpack(packed: np.ndarray) -> np.ndarray:
    """int8 [panels * 64, k] of an int8 matrix's packed array, padding included."""
    panels, fours = packed.shape[:2]
    return packed.transpose(0, 2, 1, 3).reshape(panels * PANEL, fours * 4)


def unpack4(packed: np.ndarray) -> np.ndarray:
    """Nibbles, uint8 [panels * 64, k], of an int4 matrix's packed array, padding included."""
    panels, chunks = packed.shape[:2]
    halves = np.stack([packed & 15, packed >> 4], axis=3)
    return halves.transpose(0, 2, 1, 3, 4).reshape(panels * PANEL, chunks * 8)


def unpack16(packed: np.ndarray) -> np.ndarray:
    """float32 [panels * 64, k] of a bf16 matrix's packed array, padding included."""
    return widen(packed.transpose(0, 2, 1).reshape(-1, packed.shape[1]))


def widen(half: np.ndarray) -> np.ndarray:
    """bfloat16 (as uint16) -> float32, exactly."""
    return (half.astype(np.uint32) << 16).view(np.float32)


def narrow(x: np.ndarray) -> np.ndarray:
    """float32 -> bfloat16 (as uint16), rounded half to even."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((bits + (0x7FFF + (bits >> 16 & 1))) >> 16).astype(np.uint16)
