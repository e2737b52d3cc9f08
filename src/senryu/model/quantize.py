"""Number formats: float weights to int8, int4 or bf16, matrices fused, and the error that it costs.

int8: scale = max|w| / 127 over a row, q = round half to even(w / scale), so |w - q * scale| <= scale / 2.
int4: q in -8..7, one bf16 scale for a group of 128 inputs: of a few scales about the one that its widest weight asks for, each
refined by least squares, the one that leaves the least squared error; then q against the scale as rounded.
Activations beside both are int8, one scale a row (token), made inside the kernels. bf16 is rounded half to even.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from senryu.config import usable_threads
from senryu.kernels import pack
from senryu.kernels.layout import GROUP, PANEL
from senryu.kernels.pack import FloatMatrix, Format, PackedMatrix

CHUNK = 1 << 17  # weights converted at a time: float copies stay in the second-level cache
SHRINKS = (0.8, 0.87, 0.94, 1.01)  # of the scale that takes a group's widest weight to -8
TINY = np.float32(1e-30)


def quantize_rows(w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float32 [n, k] -> (int8 [n, k], float32 scale [n]). A row of zeros has scale 0."""
    high = np.maximum(w.max(axis=1), -w.min(axis=1))
    factor = np.float32(127) / np.where(high > 0, high, np.float32(1))
    scaled = w * factor[:, None]
    np.rint(scaled, out=scaled)
    return scaled.astype(np.int8), (high / np.float32(127)).astype(np.float32)


def quantize_groups(w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float32 [n, k] -> (nibbles uint8 [n, k], scale bfloat16 as uint16 [n, groups]); w is about (nibble - 8) * scale.

    A scale may be negative: a group's widest weight goes to -8, of which there is no positive counterpart.
    """
    n, k = w.shape
    groups = -(-k // GROUP)
    x = w if k % GROUP == 0 else np.pad(w, ((0, 0), (0, groups * GROUP - k)))
    x = np.ascontiguousarray(x, np.float32).reshape(n, groups, GROUP)
    high, low = x.max(axis=2), x.min(axis=2)
    widest = np.where(high > -low, high, low) / np.float32(-8)
    scale, most, q = np.zeros_like(widest), np.zeros_like(widest), np.empty_like(x)
    for shrink in SHRINKS:
        _to_steps(x, widest * np.float32(shrink), q)
        xq, qq = np.einsum("ngk,ngk->ng", x, q), np.einsum("ngk,ngk->ng", q, q)
        fit = xq / np.maximum(qq, np.float32(1))  # the best scale for these q; it takes xq * fit off the squared error
        better = xq * fit > most
        most, scale = np.where(better, xq * fit, most), np.where(better, fit, scale)
    half = pack.narrow(scale)
    _to_steps(x, pack.widen(half), q)
    q += 8
    return q.astype(np.uint8).reshape(n, -1)[:, :k], half


def _to_steps(x: np.ndarray, scale: np.ndarray, q: np.ndarray) -> None:
    """q = x / scale rounded, within -8..7; 0 where the scale is (nearly) 0."""
    inverse = np.float32(1) / np.where(np.abs(scale) > TINY, scale, np.float32(np.inf))
    np.multiply(x, inverse[..., None], out=q)
    np.rint(q, out=q)
    np.clip(q, -8, 7, out=q)


def relative_error(w: np.ndarray) -> float:
    """|w - dequantised w| / |w| (Frobenius): about 0.006 for Gaussian rows of some hundreds."""
    q, scale = quantize_rows(w)
    return float(np.linalg.norm(w - q * scale[:, None]) / max(float(np.linalg.norm(w)), 1e-30))


def pack_rows(
    parts: Sequence[np.ndarray], biases: Sequence[np.ndarray | None], factor: float = 1.0, format: Format = "int8"
) -> PackedMatrix:
    """Matrices that read the same input, one below the other, as one packed matrix; results are multiplied by `factor`.

    Raises ValueError when inputs are not a multiple of 16.
    """
    k, by = parts[0].shape[1], np.float32(factor)
    matrix = pack.empty(sum(len(part) for part in parts), k, format)
    step = max(PANEL, CHUNK // k // PANEL * PANEL)

    def convert(piece: tuple[int, np.ndarray, np.ndarray | None]) -> None:
        first, w, bias = piece
        w, bias = np.asarray(w, np.float32), None if bias is None else bias * by
        if format == "int8":
            q, scale = quantize_rows(w)
            pack.fill(matrix, first, q, scale * by, bias)
        elif format == "int4":
            pack.fill(matrix, first, *quantize_groups(w * by), bias)
        else:
            pack.fill(matrix, first, pack.narrow(w * by), bias=bias)

    pieces, first = [], 0
    for part, bias in zip(parts, biases):
        for start in range(0, len(part), step):
            end = start + step
            pieces.append((first + start, part[start:end], None if bias is None else bias[start:end]))
        first += len(part)
    with ThreadPoolExecutor(usable_threads()) as pool:
        list(pool.map(convert, pieces))
    return matrix


def float_rows(parts: Sequence[np.ndarray], biases: Sequence[np.ndarray | None], factor: float = 1.0) -> FloatMatrix:
    """The same as a float32 matrix [n, k], for the fp32 reference path."""
    w = parts[0] if len(parts) == 1 else np.concatenate(parts)
    w = w * np.float32(factor) if factor != 1.0 else w
    bias = np.concatenate([np.zeros(len(p), np.float32) if b is None else b for p, b in zip(parts, biases)])
    return FloatMatrix(len(w), w.shape[1], w, bias * np.float32(factor))


def halve(table: np.ndarray) -> np.ndarray:
    """The upper halves of float32 (bfloat16, as uint16) when nothing is lost by it, else the table itself."""
    for start in range(0, len(table), 4096):
        if (np.ascontiguousarray(table[start : start + 4096]).view(np.uint32) & 0xFFFF).any():
            return table
    half = np.empty(table.shape, np.uint16)
    for start in range(0, len(table), 4096):
        half[start : start + 4096] = np.ascontiguousarray(table[start : start + 4096]).view(np.uint32) >> 16
    return half
