"""The tile vocabulary: shapes, signs and strides of one product."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from senryu.kernels import available

pytestmark = pytest.mark.skipif("amx" not in available(), reason="no AMX here")


def product(signs: str) -> Any:
    """f(left, right, out, rows, k): out int32 [rows, 16] = left [rows, k] x right [k / 4, 16, 4], rows 64 bytes apart."""
    from llvmlite import ir
    from numba import njit, types
    from numba.extending import intrinsic

    from senryu.kernels import amx

    @intrinsic
    def call(typingctx, left, right, out, rows, k):
        def lower(context: Any, b: Any, sig: Any, args: Any) -> Any:
            left, right, out, rows, k = args
            stride = ir.Constant(amx.I64, 64)
            amx.configure(b, [(rows, 64), (rows, k), (b.udiv(k, ir.Constant(amx.I64, 4)), 64)])
            amx.zero(b, 0)
            amx.load(b, 1, left, stride)
            amx.load(b, 2, right, stride)
            amx.dot(b, 0, 1, 2, signs)
            amx.store(b, 0, out, stride)
            amx.release(b)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 5), lower

    return njit(lambda left, right, out, rows, k: call(left, right, out, rows, k))


@pytest.mark.parametrize("signs", ["us", "su", "ss", "uu"])
def test_products_are_exact_for_every_shape(signs: str) -> None:
    run = product(signs)
    kinds = [np.int8 if sign == "s" else np.uint8 for sign in signs]
    rng = np.random.default_rng(0)
    for rows, k in ((16, 64), (16, 48), (3, 16), (1, 4)):
        left = rng.integers(0, 256, (16, 64)).astype(np.uint8).view(kinds[0])
        right = rng.integers(0, 256, (16, 16, 4)).astype(np.uint8).view(kinds[1])
        out = np.full((16, 16), 7, np.int32)
        run(left.ctypes.data, right.ctypes.data, out.ctypes.data, rows, k)
        want = left[:rows, :k].astype(np.int64) @ right.transpose(0, 2, 1).reshape(64, 16)[:k].astype(np.int64)
        np.testing.assert_array_equal(out[:rows], want)
        assert (out[rows:] == 7).all()
