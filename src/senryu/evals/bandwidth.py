"""The yardstick of decode: how fast this machine reads memory, and how many bytes a decoded token must read."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from senryu.model.spec import ModelSpec
from senryu.model.weights import expected_shapes

BUFFER = 512 << 20  # bytes: far beyond any cache
BYTES = {
    "int8": 1.0,
    "int4": 0.5 + 2 / 128,
    "bf16": 2.0,
    "fp32": 4.0,
}  # of a weight, its share of an int4 group's scale included


class Reads:
    """A subject beside those that decode, so that both meet the same machine: its rate is of plain reads, in GB/s."""

    name = "memory"

    def __init__(self, threads: int, size: int = BUFFER) -> None:
        """size: bytes of the buffer that all threads read together, far beyond any cache."""
        self._parts = np.array_split(np.ones(size // 4, np.int32), threads)
        self._pool = ThreadPoolExecutor(threads)

    def decode(self, depth: int, tokens: int) -> float:
        """The best of five passes over the buffer, whatever is asked for.

        The maximum of int32 is the reduction of numpy that comes closest to plain loads (LAB.md).
        """
        times = []
        for _ in range(5):
            start = time.perf_counter()
            list(self._pool.map(np.max, self._parts))
            times.append(time.perf_counter() - start)
        return sum(part.nbytes for part in self._parts) / min(times) / 1e9

    def close(self) -> None:
        self._pool.shutdown()


def decode_bytes(spec: ModelSpec, number_format: str) -> float:
    """Bytes of weights that one decoded token reads: every matrix once; of an embedding only a row, unless it is the head too.

    number_format: int8, int4, bf16 or fp32.
    """
    table = spec.vocab * spec.hidden
    weights = sum(int(np.prod(shape)) for shape in expected_shapes(spec).values()) - table * (1 if spec.tied_head else 2)
    head = "int8" if number_format == "int4" else number_format  # model/layers.py: head_format
    return weights * BYTES[number_format] + table * BYTES[head]
