"""The records that model/ fills and compiled kernels read: what each int64 slot of an operation and of a step means.

A forward pass is a list of operations, run in order with a barrier after each. An operation's record is one row of int64:
slot 0 the kernel's address, slot 1 its work counter, then the fields below. An array field holds its address, `<name>_stride`
the bytes from one of its rows to the next, a float field the bits of a float64. All arrays are C-contiguous per row.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

PAGE = 64  # tokens of one K/V page
SEGMENT = 4  # pages whose softmax is finished before it is merged into the row's: fixed, so results never depend on splits
PANEL = 64  # output columns of one packed weight panel
GROUP = 128  # inputs that share one scale of an int4 matrix; the last group of a row may be shorter
QUERY_BLOCK = 128  # query vectors of one attention work item at most: a segment of K/V is read once for all of them
QUERY_STRIP = 32  # of them work together on a page: all that they need fits the first-level cache
STATE_EXTRA = 32  # floats of a query vector's state after its head_dim sums: sixteen partial weights, then the maximum
BITS = {"int8": 8, "int4": 4, "bf16": 16, "fp32": 32}  # of a weight: what `format` of a matrix means; fp32 is numpy's alone
BUCKETS = 2048  # of a radix level in sampling; each holds a float64 mass and an int64 count
SYNC_WORDS = 32  # int64 words that the thread team meets at

OUTPUT = ("out", "out_stride", "out_scale", "out_sums", "out_sums_stride")
"""Rows for a matrix: uint8 q + 128 with a float32 scale a row (`out_scale`), and for an int4 matrix the sum of q over each
group of a row (`out_sums`, int32 [rows, groups]; else None). Without `out_scale` the rows stay float32."""

OPERATIONS: dict[str, tuple[str, ...]] = {
    "plan": ("heads", "kv_heads", "threads", "capacity"),
    "embed": ("table", "table_stride", "half", "hidden", "x", "x_stride"),
    "pick": ("x", "x_stride", "n", "out", "out_stride"),
    "norm": ("x", "x_stride", "weight", "n", "eps", "centred", *OUTPUT, "rows"),
    "gemm": (
        *("format", "a", "a_stride", "a_scale", "a_sums", "a_sums_stride", "w", "w_scale", "w_offset", "bias", "k", "panels"),
        *("out", "out_stride", "add", "rows", "threads"),
    ),
    "rope": (
        *("qkv", "qkv_stride", "heads", "kv_heads", "head_dim", "rope", "q_norm", "k_norm", "eps", "q_scale"),
        *("quantized", "pool", "pool_stride"),
    ),
    "attend": (
        *("qkv", "qkv_stride", "heads", "kv_heads", "head_dim", "window", "quantized", "pool", "pool_stride"),
        *("out", "out_stride", "scratch", "scratch_stride", "partial", "partial_stride", "rows", "threads"),
    ),
    "gather": (
        *("x", "x_stride", "heads", "kv_heads", "head_dim", "partial", "partial_stride"),
        *OUTPUT,
        "rows",
    ),
    "glu": ("x", "x_stride", "n", "block", *OUTPUT, "rows"),
    "sample": ("logits", "logits_stride", "vocab", "weights", "weights_stride", "histogram", "histogram_stride", "out"),
}
"""Fields by kind. `rows` names the step's count of rows to work on: "rows", or "sampled" behind the last layer's K/V, where
only rows that are sampled matter: "pick" and "gather" take those of their input, "attend" may leave out the others."""

STEP = (
    *("rows", "sequences", "sampled", "tokens", "positions", "row_start", "page_table", "page_table_stride"),
    *("sample_rows", "temperature", "top_p", "top_k", "seeds", "cos", "sin", "cos_stride"),
    *("masks", "masks_stride", "masks_ready"),  # 0, or Batch.masks; whoever fills them sets masks_ready[0] last
    # written by the "plan" kernel: attention's work items and how long rows are split over K/V
    *("items", "item_start", "split", "row_sequence", "slots", "sequence_slot", "query_block"),
)

# Attention's scratch of one thread: states of a block, then of a strip; then at these offsets, in bytes, arrays with an entry
# for each vector of a block: what its int8 scores start at, int32 [16]; its position, factor and maximum so far. For each
# vector of a strip: uint8 weights of a page, a maximum in sixteen parts, numbers. Once: 1 / V's scales of a page. Behind them
# what depends on head_dim: int8 queries of a block, then a strip's scores (float32 or int32 [64]) or sums (int32 [head_dim]).
STARTS, PLACES, FACTORS, TOTAL_TOPS = (QUERY_BLOCK * i for i in (0, 64, 68, 72))
_STRIP = 76 * QUERY_BLOCK
WEIGHTS, PEAKS, TOPS, BASES, ALPHAS, BETAS, UNROUND, WIDEST = (
    _STRIP + QUERY_STRIP * i for i in (0, 64, 128, 132, 136, 140, 144, 148)
)
INVERSES = _STRIP + 152 * QUERY_STRIP
QUERIES = INVERSES + 4 * PAGE


def scratch_floats(head_dim: int) -> int:
    """float32 of a thread's scratch in attention."""
    states = (QUERY_BLOCK + QUERY_STRIP) * (head_dim + STATE_EXTRA)
    return states + (QUERIES + QUERY_BLOCK * head_dim) // 4 + QUERY_STRIP * max(PAGE, head_dim)


HEADER = 2
FUNCTION, COUNTER = 0, 1
WIDTH = HEADER + max(map(len, OPERATIONS.values()))


def slots(kind: str) -> tuple[int, ...]:
    """Slot numbers of the fields of one kind, in order."""
    return tuple(range(HEADER, HEADER + len(OPERATIONS[kind])))


def kv_bytes(head_dim: int, *, quantized: bool) -> int:
    """Bytes of K/V that one page of one layer and head takes; kernels/kv.py has the layout."""
    return PAGE * (2 * head_dim + 8) if quantized else PAGE * 8 * head_dim


@dataclass(slots=True)
class Operation:
    """One entry of the list: the kind and the values of its fields (arrays, ints, floats, or the name of a step's count)."""

    kind: str
    values: dict[str, Any] = field(default_factory=dict)

    def __getattr__(self, name: str) -> Any:
        try:
            return self.values[name]
        except KeyError:
            raise AttributeError(f"operation {self.kind} has no field {name}") from None


def operation(kind: str, **values: Any) -> Operation:
    """An operation with every field given; the strides are read off the arrays."""
    for name in OPERATIONS[kind]:
        base = name.removesuffix("_stride")
        if base != name and name not in values:
            values[name] = values[base].strides[0] if values[base] is not None else 0
    missing = set(OPERATIONS[kind]) ^ set(values)
    if missing:
        raise TypeError(f"operation {kind}: fields {sorted(missing)} are missing or unknown")
    return Operation(kind, values)


def encode(value: Any) -> int:
    """One field as the int64 that a kernel reads."""
    if value is None:
        return 0
    if isinstance(value, np.ndarray):
        return value.ctypes.data
    if isinstance(value, str):
        return STEP.index(value)
    if isinstance(value, float | np.floating):
        return int(np.float64(value).view(np.int64))
    return int(value)


def records(operations: list[Operation], addresses: dict[str, int]) -> np.ndarray:
    """int64 [operations, WIDTH], ready for kernels/forward.py. The caller keeps the arrays alive."""
    block = aligned((len(operations), WIDTH), np.int64)
    block[:] = 0
    for row, op in zip(block, operations):
        row[FUNCTION] = addresses[op.kind]
        row[HEADER : HEADER + len(op.values)] = [encode(op.values[name]) for name in OPERATIONS[op.kind]]
    return block


def aligned(shape: tuple[int, ...], dtype: Any, align: int = 64) -> np.ndarray:
    """An uninitialised array whose first byte lies on a multiple of `align` bytes."""
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    raw = np.empty(size + align, np.uint8)
    start = -raw.ctypes.data % align
    return raw[start : start + size].view(dtype).reshape(shape)
