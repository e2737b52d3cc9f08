"""The packed order of weights, and its inverse."""

from __future__ import annotations

import numpy as np
import pytest

from senryu.kernels import pack


@pytest.mark.parametrize(("n", "k"), [(1, 16), (16, 16), (64, 32), (70, 48), (200, 64)])
def test_unpack_returns_what_was_packed(n: int, k: int) -> None:
    q = np.random.default_rng(n).integers(-127, 128, (n, k)).astype(np.int8)
    m = pack.empty(n, k)
    middle = n // 3
    pack.fill(m, 0, q[:middle], np.ones(middle, np.float32)) if middle else None
    pack.fill(m, middle, q[middle:], np.full(n - middle, 2, np.float32), np.ones(n - middle, np.float32))
    whole = pack.unpack(m.packed)
    np.testing.assert_array_equal(whole[:n], q)
    assert not whole[n:].any()
    np.testing.assert_array_equal(m.offset[:n], -128 * q.astype(np.int32).sum(1))
    assert m.panels == -(-n // 64)
    assert (m.scale[middle:n] == 2).all()
    assert not m.scale[n:].any()
    assert m.nbytes > n * k


def test_inputs_that_do_not_fit_the_instruction_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 16"):
        pack.empty(64, 20)
