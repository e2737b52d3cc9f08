"""Number formats: float weights to int8 with a scale per output channel, matrices fused, and the error that it costs.

W8: scale = max|w| / 127 over a row, q = round half to even(w / scale), so |w - q * scale| <= scale / 2. Activations get the
same treatment per row (token) inside the kernels.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

from senryu.kernels import pack
from senryu.kernels.layout import PANEL
from senryu.kernels.pack import PackedMatrix
from senryu.model.spec import ModelSpec
from senryu.model.weights import expected_shapes

CHUNK = 1 << 22  # weights converted at a time: float copies stay small


def quantize_rows(w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float32 [n, k] -> (int8 [n, k], float32 scale [n]). A row of zeros has scale 0."""
    high = np.maximum(w.max(axis=1), -w.min(axis=1))
    factor = np.float32(127) / np.where(high > 0, high, np.float32(1))
    scaled = w * factor[:, None]
    np.rint(scaled, out=scaled)
    return scaled.astype(np.int8), (high / np.float32(127)).astype(np.float32)


def relative_error(w: np.ndarray) -> float:
    """|w - dequantised w| / |w| (Frobenius): about 0.006 for Gaussian rows of some hundreds."""
    q, scale = quantize_rows(w)
    return float(np.linalg.norm(w - q * scale[:, None]) / max(float(np.linalg.norm(w)), 1e-30))


def pack_rows(parts: Sequence[np.ndarray], biases: Sequence[np.ndarray | None], factor: float = 1.0) -> PackedMatrix:
    """Matrices that read the same input, one below the other, as one packed matrix; results are multiplied by `factor`.

    Raises ValueError when inputs are not a multiple of 16.
    """
    k = parts[0].shape[1]
    matrix = pack.empty(sum(len(part) for part in parts), k)
    first = 0
    for part, bias in zip(parts, biases):
        step = max(PANEL, CHUNK // k // PANEL * PANEL)
        for start in range(0, len(part), step):
            q, scale = quantize_rows(np.asarray(part[start : start + step], np.float32))
            piece = None if bias is None else bias[start : start + step] * np.float32(factor)
            pack.fill(matrix, first + start, q, scale * np.float32(factor), piece)
        first += len(part)
    return matrix


def float_rows(parts: Sequence[np.ndarray], biases: Sequence[np.ndarray | None], factor: float = 1.0) -> PackedMatrix:
    """The same as a float32 matrix [n, k], for the fp32 reference path."""
    w = parts[0] if len(parts) == 1 else np.concatenate(parts)
    w = w * np.float32(factor) if factor != 1.0 else w
    bias = np.concatenate([np.zeros(len(p), np.float32) if b is None else b for p, b in zip(parts, biases)]) * np.float32(
        factor
    )
    panels = -(-len(w) // PANEL)
    return PackedMatrix(len(w), w.shape[1], w, np.ones(panels * PANEL, np.float32), np.zeros(panels * PANEL, np.int32), bias)


def halve(table: np.ndarray) -> np.ndarray:
    """The upper halves of float32 (bfloat16, as uint16) when nothing is lost by it, else the table itself."""
    for start in range(0, len(table), 4096):
        if (np.ascontiguousarray(table[start : start + 4096]).view(np.uint32) & 0xFFFF).any():
            return table
    half = np.empty(table.shape, np.uint16)
    for start in range(0, len(table), 4096):
        half[start : start + 4096] = np.ascontiguousarray(table[start : start + 4096]).view(np.uint32) >> 16
    return half


class RandomWeights:
    """Gaussian weights (sigma 0.02, norms 1, biases included) for any spec, made when read: for measuring speed.

    They repeat one random pool at different offsets: their values do not matter there, the time to make them does.
    """

    def __init__(self, spec: ModelSpec, seed: int = 0) -> None:
        self.shapes = expected_shapes(spec)
        self.fingerprint = f"random-{seed}"
        pool = np.random.default_rng(seed).standard_normal(1 << 20, dtype=np.float32) * np.float32(0.02)
        self._pool = (pool.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)  # bfloat16 values, as checkpoints have

    def __contains__(self, name: object) -> bool:
        return name in self.shapes

    def float32(self, name: str) -> np.ndarray:
        """The tensor of that Hugging Face name. Raises KeyError when the spec has none."""
        shape = self.shapes[name]
        if "norm" in name:
            return np.ones(shape, np.float32)
        start = zlib.crc32(name.encode()) % len(self._pool)
        return np.resize(np.roll(self._pool, start), shape)
