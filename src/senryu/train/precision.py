"""Which number format matrices are multiplied in on this CPU: a measurement, once a process."""

from __future__ import annotations

import time
from functools import cache
from statistics import median

import torch

SIZE, ROUNDS = 512, 5


@cache
def matmul_dtype() -> torch.dtype:
    """bfloat16 where it is faster than float32. A CPU without bfloat16 arithmetic emulates it, tens of times slower."""
    return min((torch.bfloat16, torch.float32), key=_seconds)


def _seconds(dtype: torch.dtype) -> float:
    a = torch.ones(SIZE, SIZE, dtype=dtype)
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        a @ a
        times.append(time.perf_counter() - start)
    return median(times)
