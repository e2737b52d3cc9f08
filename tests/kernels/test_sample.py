"""Sampling: ties, limits, reproducibility, and the distribution that is drawn from."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from harness import both, compiled, copy, step

from senryu.kernels import Kernels, reference
from senryu.kernels.layout import BUCKETS, operation


def sample(kernels: Kernels, logits: np.ndarray, **how: Any) -> np.ndarray:
    """Both paths on rows of logits, checked equal."""
    rows, vocab = logits.shape
    masks = how.pop("masks", None)
    padded = np.zeros((rows, -(-vocab // 64) * 64), np.float32)
    padded[:, :vocab] = logits
    kinds = {"temperature": np.float32, "top_p": np.float32, "top_k": np.int32, "seeds": np.uint64, "positions": np.int32}
    usual = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "seeds": 1, "positions": np.arange(rows)} | how
    values = step(
        rows=rows,
        sampled=rows,
        sample_rows=np.arange(rows, dtype=np.int32),
        **{name: np.ascontiguousarray(np.broadcast_to(usual[name], rows).astype(kind)) for name, kind in kinds.items()},
        **({} if masks is None else {"masks": masks, "masks_ready": np.ones(1, np.int64)}),
    )
    fast, twin = both(
        kernels,
        "sample",
        values,
        logits=padded,
        vocab=vocab,
        weights=np.zeros((1, padded.shape[1]), np.float32),
        histogram=np.zeros((1, 2 * BUCKETS), np.float64),
        out=np.zeros(rows, np.int32),
    )
    np.testing.assert_array_equal(fast.out, twin.out)
    return fast.out


def logits(seed: int, rows: int, vocab: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, vocab)).astype(np.float32) * 3


def test_greedy_takes_the_lowest_id_of_the_largest(compiled_kernels: Kernels) -> None:
    x = logits(0, 4, 77)
    x[0, [70, 5, 33]] = 50
    x[1] = -1  # all equal, below the zeros of the padding
    x[2, 76] = 60
    out = sample(compiled_kernels, x, temperature=0)
    assert out.tolist() == [5, 0, 76, int(x[3].argmax())]


def test_top_k_of_one_and_a_tiny_top_p_are_greedy(compiled_kernels: Kernels) -> None:
    x = logits(1, 8, 1000)
    x[0, [10, 20]] = 50  # a tie at the top
    best = x.argmax(1)
    np.testing.assert_array_equal(sample(compiled_kernels, x, top_k=1), best)
    np.testing.assert_array_equal(sample(compiled_kernels, x, top_p=1e-6), best)
    np.testing.assert_array_equal(sample(compiled_kernels, x, temperature=1e-6)[1:], best[1:])


@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (5, 1.0), (0, 0.9), (40, 0.7), (5000, 0.5), (3, 0.999)])
def test_equals_its_twin(compiled_kernels: Kernels, top_k: int, top_p: float) -> None:
    x = logits(2, 60, 300)
    x[30:] = np.round(x[30:])  # many equal weights
    out = sample(compiled_kernels, x, top_k=top_k, top_p=top_p, temperature=0.8)
    for row, token in zip(x, out):
        allowed = reference.distribution(row, 0.8, top_k, top_p)
        assert allowed[token] > 0
        assert (allowed > 0).sum() <= (top_k or 300)


def test_the_draw_depends_on_seed_position_and_logits_alone(compiled_kernels: Kernels) -> None:
    x = np.repeat(logits(3, 1, 500) / 9, 6, axis=0)
    positions = np.array([7, 8, 7, 7, 100_000, 8])
    seeds = np.array([1, 1, 1, 2**63 + 5, 1, 1], np.uint64)
    out = sample(compiled_kernels, x, positions=positions, seeds=seeds)
    assert out[0] == out[2]
    assert out[1] == out[5]
    assert len(set(out.tolist())) > 2
    alone = sample(compiled_kernels, x[:1], positions=np.array([8]), seeds=np.array([1], np.uint64))
    assert alone[0] == out[1]


def masks_of(allowed: np.ndarray) -> np.ndarray:
    """uint32 [rows, ceil(vocab / 32)] of bool [rows, vocab]; bits past the vocabulary are set: they must not count."""
    rows, vocab = allowed.shape
    bits = np.ones((rows, -(-vocab // 32) * 32), bool)
    bits[:, :vocab] = allowed
    return np.packbits(bits, axis=1, bitorder="little").view(np.uint32)


@pytest.mark.parametrize("vocab", [77, 300, 4096])
@pytest.mark.parametrize(("top_k", "top_p"), [(0, 1.0), (5, 1.0), (0, 0.9), (40, 0.7), (5000, 0.5), (40, 0.999999)])
def test_masked_tokens_are_as_if_their_logits_were_minus_infinity(
    compiled_kernels: Kernels, vocab: int, top_k: int, top_p: float
) -> None:
    x = logits(5, 60, vocab)
    allowed = np.random.default_rng(6).random((60, vocab)) < np.repeat([0.5, 0.02, 1.0], 20)[:, None]
    allowed[np.arange(60), x.argmin(1)] = True  # never none, and one that would not have been drawn
    for temperature in (0.0, 0.8):
        how = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "seeds": np.arange(60)}
        out = sample(compiled_kernels, x, masks=masks_of(allowed), **how)
        assert allowed[np.arange(60), out].all()
        np.testing.assert_array_equal(out, sample(compiled_kernels, np.where(allowed, x, np.float32(-np.inf)), **how))
        np.testing.assert_array_equal(out[40:], sample(compiled_kernels, x, **how)[40:])  # a full mask changes nothing


def test_a_row_with_one_allowed_token_takes_it(compiled_kernels: Kernels) -> None:
    x = logits(7, 50, 500)
    only = np.arange(50) * 10 % 500
    allowed = np.zeros((50, 500), bool)
    allowed[np.arange(50), only] = True
    for how in ({"temperature": 0}, {"temperature": 1e6}, {"top_k": 3, "top_p": 0.5}, {"top_k": 400}, {"temperature": 1e-6}):
        np.testing.assert_array_equal(sample(compiled_kernels, x, masks=masks_of(allowed), **how), only)


def test_the_kernel_waits_until_the_masks_are_ready(compiled_kernels: Kernels) -> None:
    x = logits(8, 2, 100)
    masks, ready = np.full((2, 4), 0xFFFFFFFF, np.uint32), np.zeros(1, np.int64)
    values = step(
        rows=2,
        sampled=2,
        sample_rows=np.arange(2, dtype=np.int32),
        temperature=np.zeros(2, np.float32),
        masks=masks,
        masks_ready=ready,
    )
    padded = np.zeros((2, 128), np.float32)
    padded[:, :100] = x

    def fill() -> None:
        masks[...] = 0
        masks[:, 1] = 1 << 5
        ready[0] = 1

    outs = []
    for run in (lambda op: compiled(compiled_kernels, op, values), lambda op: reference.TWINS["sample"](op, values)):
        masks[...], ready[0] = 0xFFFFFFFF, 0
        scratch = {"weights": np.zeros((1, 128), np.float32), "histogram": np.zeros((1, 2 * BUCKETS), np.float64)}
        op = operation("sample", logits=copy(padded), vocab=100, out=np.full(2, -1, np.int32), **scratch)
        timer = threading.Timer(0.05, fill)
        timer.start()
        run(op)
        timer.join()
        outs.append(op.out.tolist())
    assert outs == [[37, 37], [37, 37]]


def test_draws_follow_the_softmax(compiled_kernels: Kernels) -> None:
    """Pearson's chi-square, 12 tokens, 4,000 draws of fixed seeds: above 31.3 once in a thousand (11 degrees of freedom)."""
    x = np.repeat(logits(4, 1, 12) / 2, 4000, axis=0)
    out = sample(compiled_kernels, x, temperature=1.3, seeds=np.arange(4000, dtype=np.uint64), positions=9)
    p = np.exp(x[0].astype(np.float64) / 1.3)
    expected = 4000 * p / p.sum()
    chi = ((np.bincount(out, minlength=12) - expected) ** 2 / expected).sum()
    assert chi < 31.3


def test_uniform_numbers_fill_the_unit_interval() -> None:
    draws = np.array([reference.uniform(seed, position) for seed in range(40) for position in range(50)])
    assert draws.min() >= 0
    assert draws.max() < 1
    assert np.abs(np.histogram(draws, 20, (0, 1))[0] - 100).max() < 45
