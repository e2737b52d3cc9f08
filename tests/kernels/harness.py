"""Runs one operation through the compiled kernel and through its numpy twin, on copies of the same arrays."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

from senryu.kernels import Kernels, pack, reference
from senryu.kernels.layout import BITS, STEP, Operation, aligned, encode, operation, records

CALL = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 3)


def copy(array: np.ndarray) -> np.ndarray:
    """The same values, aligned as kernels need them."""
    result = aligned(array.shape, array.dtype)
    result[...] = array
    return result


def step(**values: Any) -> dict[str, Any]:
    """A step's fields; the arrays that the plan writes are there too."""
    rows = values.setdefault("rows", 1)
    values.setdefault("sequences", 1)
    values.setdefault("sampled", 0)
    for name in ("item_start", "split", "sequence_slot"):
        values.setdefault(name, np.zeros(values["sequences"] + 1, np.int32))
    values.setdefault("row_sequence", np.zeros(rows, np.int32))
    return values


def step_record(values: dict[str, Any]) -> np.ndarray:
    """The same as int64 slots."""
    record = np.zeros(len(STEP), np.int64)
    for name, value in values.items():
        record[STEP.index(name)] = encode(value)
        if f"{name}_stride" in STEP:
            record[STEP.index(f"{name}_stride")] = value.strides[0]
    return record


def compiled(kernels: Kernels, op: Operation, values: dict[str, Any] | np.ndarray) -> None:
    """Run the compiled kernel on the operation's own arrays."""
    record = values if isinstance(values, np.ndarray) else step_record(values)
    row = records([op], kernels.addresses)[0]
    CALL(kernels.addresses[op.kind])(row.ctypes.data, record.ctypes.data, 0)


def both(kernels: Kernels, kind: str, values: dict[str, Any], **fields: Any) -> tuple[Operation, Operation]:
    """(compiled, twin): the operation after each, every array its own copy."""
    pair = []
    for _ in range(2):
        shares: dict[int, np.ndarray] = {}
        copies = {k: shares.setdefault(id(v), copy(v)) if isinstance(v, np.ndarray) else v for k, v in fields.items()}
        pair.append(operation(kind, **copies))
    compiled(kernels, pair[0], values)
    reference.TWINS[kind](pair[1], values)
    return pair[0], pair[1]


def matrix_fields(matrix: pack.PackedMatrix, threads: int = 1) -> dict[str, Any]:
    """The fields of a "gemm" that come from its matrix and its team."""
    columns = {"w": matrix.packed, "w_scale": getattr(matrix, "scale", None), "w_offset": getattr(matrix, "offset", None)}
    return columns | {
        "format": BITS[matrix.format],
        "bias": matrix.bias,
        "k": matrix.k,
        "panels": matrix.panels,
        "rows": "rows",
        "threads": threads,
    }
