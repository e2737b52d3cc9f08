"""Number formats: rounding, errors, fused matrices, lossless halves."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from senryu.kernels import pack
from senryu.model.quantize import CHUNK, float_rows, halve, pack_rows, quantize_groups, quantize_rows, relative_error


def test_rounding_is_within_half_a_step() -> None:
    w = np.random.default_rng(0).standard_normal((20, 300)).astype(np.float32)
    w[3] = 0
    q, scale = quantize_rows(w)
    assert np.abs(q).max() == 127
    assert scale[3] == 0
    assert (np.abs(w - q * scale[:, None]) <= scale[:, None] * 0.5001).all()
    assert 0.004 < relative_error(w[:3]) < 0.009


def restored(nibbles: np.ndarray, scale: np.ndarray) -> np.ndarray:
    return (nibbles.astype(np.float32) - 8) * np.repeat(pack.widen(scale), 128, axis=1)[:, : nibbles.shape[1]]


@pytest.mark.parametrize("k", [16, 128, 144, 1024])
def test_int4_is_better_than_scales_by_the_widest_weight(k: int) -> None:
    """Against max|w| / 7 and against the widest weight at -8, rounded to bf16 as ours are."""
    w = np.random.default_rng(k).standard_t(5, (40, k)).astype(np.float32)
    w[3] = 0
    w[4, :100] = 1e-36
    nibbles, scale = quantize_groups(w)
    assert nibbles.shape == (40, k)
    assert nibbles.max() <= 15
    assert scale.shape == (40, -(-k // 128))
    assert not restored(nibbles, scale)[3].any()
    ours = np.square(restored(nibbles, scale) - w).sum(1)
    for divisor in (7, -8):
        plain = np.zeros_like(w)
        for start in range(0, k, 128):
            part = w[:, start : start + 128]
            widest = np.take_along_axis(part, np.abs(part).argmax(1)[:, None], 1)
            step = pack.widen(pack.narrow((np.abs(widest) if divisor == 7 else widest) / np.float32(divisor)))
            plain[:, start : start + 128] = np.clip(np.rint(part / np.where(step == 0, 1, step)), -8, 7) * step
        theirs = np.square(plain - w).sum(1)
        assert ours.sum() < theirs.sum() * 0.97


def test_int4_steps_are_those_of_the_scale_as_rounded() -> None:
    """Each weight takes the nearest step that there is, so what is off by more than half a step lies beyond the ends."""
    w = np.random.default_rng(0).standard_normal((20, 256)).astype(np.float32)
    nibbles, scale = quantize_groups(w)
    step = np.repeat(np.abs(pack.widen(scale)), 128, axis=1)
    beyond = np.abs(restored(nibbles, scale) - w) > step * 0.5001
    assert np.isin(nibbles[beyond], (0, 15)).all()
    assert 0 < beyond.mean() < 0.02


@pytest.mark.parametrize("format", pack.FORMATS)
def test_threads_pack_what_one_call_packs(format: pack.Format) -> None:
    """Pieces of a large matrix are converted apart; columns, scales and biases land where one call puts them."""
    k, rng = 256, np.random.default_rng(5)
    w, bias = rng.standard_normal((3 * CHUNK // k + 10, k), np.float32), rng.standard_normal(3 * CHUNK // k + 10, np.float32)
    whole, rows = pack_rows([w], [bias], format=format), [700, 1, 500]
    cuts = np.cumsum([0, *rows, len(w) - sum(rows)])
    parts = [slice(a, b) for a, b in pairwise(cuts)]
    apart = pack_rows([w[part] for part in parts], [bias[part] for part in parts], format=format)
    for name in pack.arrays(*w.shape, format):
        np.testing.assert_array_equal(getattr(apart, name), getattr(whole, name))


def test_parts_become_one_matrix() -> None:
    rng = np.random.default_rng(1)
    parts = [rng.standard_normal((n, 48)).astype(np.float32) for n in (32, 16, 27)]
    biases = [None, np.ones(16, np.float32), None]
    m = pack_rows(parts, biases, factor=0.5)
    w = pack.unpack(m.packed).astype(np.float32) * m.scale[:, None]
    np.testing.assert_allclose(w[:75], np.concatenate(parts) / 2, atol=0.02)
    assert (m.bias[32:48] == 0.5).all()
    assert m.bias.sum() == 8
    f = float_rows(parts, biases, factor=0.5)
    np.testing.assert_array_equal(f.packed, np.concatenate(parts) / 2)


def test_halves_lose_nothing() -> None:
    table = np.random.default_rng(2).standard_normal((30, 16)).astype(np.float32)
    assert halve(table) is table
    rounded = (table.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    half = halve(rounded)
    assert half.dtype == np.uint16
    np.testing.assert_array_equal((half.astype(np.uint32) << 16).view(np.float32), rounded)
