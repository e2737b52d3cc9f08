"""A batch that a kernel could not survive is refused, and the field is named."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from senryu.kernels import Batch

LIMITS = {"vocab": 100, "pages": 8, "max_rows": 200, "max_sequences": 3, "max_sampled": 4}


def good() -> Batch:
    """Two sequences, of 3 and of 1 rows."""
    return Batch(
        tokens=np.array([1, 2, 3, 99], np.int32),
        positions=np.array([63, 64, 65, 0], np.int32),
        row_start=np.array([0, 3, 4], np.int32),
        page_table=np.array([[7, 0], [3, -1]], np.int32),
        sample_rows=np.array([2, 3], np.int32),
        temperature=np.array([0, 1], np.float32),
        top_p=np.array([1, 0.5], np.float32),
        top_k=np.array([0, 5], np.int32),
        seeds=np.array([0, 2**64 - 1], np.uint64),
    )


def test_a_good_batch_passes() -> None:
    good().check(**LIMITS)
    nothing = {"sample_rows": np.int32, "temperature": np.float32, "top_p": np.float32, "top_k": np.int32, "seeds": np.uint64}
    replace(good(), **{name: np.empty(0, kind) for name, kind in nothing.items()}).check(**LIMITS)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tokens", [1, 2, 3, 100]),
        ("tokens", [-1, 2, 3, 4]),
        ("positions", [63, 64, 66, 0]),
        ("positions", [127, 128, 129, 0]),
        ("positions", [-1, 0, 1, 0]),
        ("positions", [63, 64, 65]),
        ("row_start", [0, 3, 3]),
        ("row_start", [0, 4, 4]),
        ("row_start", [1, 3, 4]),
        ("row_start", [0, 3]),
        ("row_start", [0]),
        ("page_table", [[7, 8], [3, -1]]),
        ("page_table", [[7, -1], [3, -1]]),
        ("page_table", [[7, 0]]),
        ("page_table", [[7, 3], [3, -1]]),
        ("sample_rows", [2, 4]),
        ("sample_rows", [-1, 3]),
        ("sample_rows", [2]),
        ("sample_rows", [3, 3]),
        ("sample_rows", [3, 2]),
        ("temperature", [0, -1]),
        ("temperature", [0, np.nan]),
        ("top_p", [0, 1]),
        ("top_p", [1, 1.5]),
        ("top_p", [1, np.nan]),
        ("top_k", [0, -1]),
        ("seeds", [1]),
    ],
)
def test_values_out_of_range(field: str, value: Any) -> None:
    batch = good()
    array = np.array(value, getattr(batch, field).dtype)
    with pytest.raises(ValueError, match=r"batch\."):
        replace(batch, **{field: array}).check(**LIMITS)


def test_limits_of_a_step() -> None:
    for name, value in {"max_rows": 3, "max_sequences": 1}.items():
        with pytest.raises(ValueError, match="fit in a step"):
            good().check(**(LIMITS | {name: value}))
    with pytest.raises(ValueError, match="at most 1 can be sampled"):
        good().check(**(LIMITS | {"max_sampled": 1}))


@pytest.mark.parametrize("field", ["tokens", "page_table", "temperature", "seeds"])
def test_wrong_types(field: str) -> None:
    batch = good()
    for wrong in (getattr(batch, field).astype(np.int64), getattr(batch, field)[None], [1, 2]):
        with pytest.raises(TypeError, match=field):
            replace(batch, **{field: wrong}).check(**LIMITS)


def test_masks_are_checked_but_not_read() -> None:
    masks, ready = np.zeros((2, 4), np.uint32), np.zeros(1, np.int64)
    replace(good(), masks=masks, masks_ready=ready).check(**LIMITS)
    for wrong in (masks[:1], masks[:, :3].copy(), np.zeros((2, 5), np.uint32)):
        with pytest.raises(ValueError, match="masks"):
            replace(good(), masks=wrong, masks_ready=ready).check(**LIMITS)
    for wrong in (masks.astype(np.int32), np.zeros((2, 8), np.uint32)[:, ::2]):
        with pytest.raises(TypeError, match="masks"):
            replace(good(), masks=wrong, masks_ready=ready).check(**LIMITS)
    with pytest.raises(TypeError, match="masks_ready"):
        replace(good(), masks=masks).check(**LIMITS)
