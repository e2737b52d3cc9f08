"""Rotary position frequencies: positions in, cos and sin tables out. The one place that knows llama3 and YaRN scaling."""

from __future__ import annotations

import math

import numpy as np

from senryu.model.spec import ModelSpec, RopeScaling


def rope_table(spec: ModelSpec, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """cos and sin of every angle, float32 [len(positions), head_dim / 2]; YaRN's attention factor is multiplied in.

    Column i turns the pair (2i, 2i + 1) when `spec.rope_interleaved`, else the pair (i, i + head_dim / 2).
    Angles are taken in float32, as transformers takes them: at far positions the rounding is part of the model.
    """
    angles = np.asarray(positions, np.float32)[:, None] * inverse_frequencies(spec)
    factor = np.float32(spec.rope_scaling.attention_factor if spec.rope_scaling else 1.0)
    return np.cos(angles) * factor, np.sin(angles) * factor


def inverse_frequencies(spec: ModelSpec) -> np.ndarray:
    """Radians per position of each pair, float32 [head_dim / 2], after scaling."""
    exponents = np.arange(0, spec.head_dim, 2) / spec.head_dim
    frequencies = spec.rope_theta**-exponents
    if spec.rope_scaling is None:
        scaled = frequencies
    elif spec.rope_scaling.kind == "llama3":
        scaled = _llama3(frequencies, spec.rope_scaling)
    else:
        scaled = _yarn(frequencies, spec.rope_scaling, spec.rope_theta)
    return scaled.astype(np.float32)


def _llama3(frequencies: np.ndarray, scaling: RopeScaling) -> np.ndarray:
    """Llama 3.1: keep short waves, stretch long ones by `factor`, blend between (`turns` = waves in the original context)."""
    turns = scaling.original_max_position * frequencies / (2 * math.pi)
    keep = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    keep = np.clip(keep, 0.0, 1.0)
    return keep * frequencies + (1 - keep) * frequencies / scaling.factor


def _yarn(frequencies: np.ndarray, scaling: RopeScaling, theta: float) -> np.ndarray:
    """YaRN, "NTK by parts" (arXiv:2309.00071, section 3.2): the blend is a ramp over dimensions, not over wavelengths."""
    pairs = len(frequencies)

    def pair_with(turns: float) -> float:  # the (fractional) index of the pair that makes `turns` in the original context
        return pairs * math.log(scaling.original_max_position / (turns * 2 * math.pi)) / math.log(theta)

    low, high = pair_with(scaling.beta_fast), pair_with(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, 2 * pairs - 1)
    stretch = np.clip((np.arange(pairs) - low) / (high - low or 0.001), 0.0, 1.0)
    return stretch * frequencies / scaling.factor + (1 - stretch) * frequencies
