"""From spec and weights to the list of operations: where the families differ, and the buffers that operations share."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from senryu.kernels.layout import (
    BITS,
    BUCKETS,
    GROUP,
    PANEL,
    STATE_EXTRA,
    Operation,
    aligned,
    kv_bytes,
    operation,
    scratch_floats,
)
from senryu.kernels.pack import FloatMatrix, Format, PackedMatrix
from senryu.model.packed import PackedWeights
from senryu.model.spec import ModelSpec

PARTIALS = 16384  # states that split sequences may leave between attention's phases; a sequence that finds no room is not split


class Buffers:
    """Everything a step writes: activations, K/V pool, logits. Rows are padded to whole panels so that tiles need no edges."""

    def __init__(
        self,
        spec: ModelSpec,
        pages: int,
        max_rows: int,
        max_sequences: int,
        max_sampled: int,
        threads: int,
        *,
        format: Format | None,
        kv8: bool,
    ) -> None:
        head = head_format(format)
        q, kv = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
        self.x, self.x_last = (_zeros(rows, _whole(spec.hidden)) for rows in (max_rows, max_sampled))
        self.normed = self._rows(max_rows, spec.hidden, format)
        self.qkv_width, gate_up = q + 2 * kv, _whole(2 * spec.ffn)
        beside = gate_up if spec.parallel_block else 0  # a matrix of its own in the last layer: whole panels behind q, k, v
        self.projected = _zeros(max_rows, _whole(max(self.qkv_width + beside, gate_up)))
        self.attended, self.attended_rows = _zeros(max_rows, q), self._rows(max_rows, q, format)
        self.gated_rows = self._rows(max_rows, spec.ffn, format)
        self.last_rows = self._rows(max_sampled, spec.hidden, head)
        self.logits = _zeros(max_sampled, _whole(spec.vocab))
        self.sampled = np.zeros(max_sampled, np.int32)
        size = kv_bytes(spec.head_dim, quantized=kv8)
        self.pool = _untouched(np.uint8, len(spec.layers), pages, spec.kv_heads, size)
        if not kv8:
            self.pool = self.pool.view(np.float32).reshape(*self.pool.shape[:3], 2, -1)
        self.partial = _untouched(np.float32, PARTIALS, spec.head_dim + STATE_EXTRA)
        self.scratch = _zeros(threads, scratch_floats(spec.head_dim))
        self.weights = _zeros(threads, _whole(spec.vocab))
        self.histogram = np.zeros((threads, 2 * BUCKETS), np.float64)
        self.plan = {name: np.zeros(max_sequences + 1, np.int32) for name in ("item_start", "split", "sequence_slot")}
        self.plan["row_sequence"] = np.zeros(max_rows, np.int32)

    def _rows(self, rows: int, n: int, format: Format | None) -> dict[str, np.ndarray | None]:
        """The output fields of an operation that hands rows to a matrix of that format."""
        quantized = format in ("int8", "int4")
        return {
            "out": aligned((rows, n), np.uint8 if quantized else np.float32),
            "out_scale": aligned((rows,), np.float32) if quantized else None,
            "out_sums": aligned((rows, -(-n // GROUP)), np.int32) if format == "int4" else None,
        }


def head_format(format: Format | None) -> Format | None:
    """The format of the last matrix: in int4 it would cost half as much accuracy as all the others together, so it is int8."""
    return "int8" if format == "int4" else format


def _whole(n: int) -> int:
    return -(-n // PANEL) * PANEL


def _zeros(rows: int, n: int) -> np.ndarray:
    array = aligned((rows, -(-n // 16) * 16), np.float32)
    array[...] = 0
    return array


def _untouched(kind: Any, *shape: int) -> np.ndarray:
    """Zero, aligned, and taking no memory until it is written: the system hands out pages of zeros on first use."""
    size = math.prod(shape) * np.dtype(kind).itemsize
    raw = np.zeros(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(kind).reshape(shape)


def build_operations(
    spec: ModelSpec, weights: PackedWeights, buffers: Buffers, threads: int, *, format: Format | None
) -> list[Operation]:
    """The forward pass of any supported family. Weights are read, packed and dropped one matrix at a time.

    format: of the matrices; None is float32, for the reference path.
    """
    return list(_Builder(spec, weights, buffers, threads, format).operations())


class _Builder:
    """Holds what every operation of one model needs."""

    def __init__(self, spec: ModelSpec, weights: PackedWeights, buffers: Buffers, threads: int, format: Format | None) -> None:
        self.spec, self.packed, self.buffers, self.threads = spec, weights, buffers, threads
        self.weights, self.matrix, self.head_format = weights.weights, weights.matrix, head_format(format)
        # gated activations have outliers ten times their mean size: they are spread before they are rounded to int8
        self.block = 0 if format not in ("int8", "int4") else (64 if spec.ffn % 64 == 0 else 16)
        self.heads = {"heads": spec.heads, "kv_heads": spec.kv_heads}

    def operations(self) -> Iterator[Operation]:
        spec, b = self.spec, self.buffers
        yield operation("plan", **self.heads, threads=self.threads, capacity=len(b.partial))
        table = self.packed.table("model.embed_tokens.weight")
        yield operation("embed", table=table, half=int(table.dtype == np.uint16), hidden=spec.hidden, x=b.x)
        for layer in range(len(spec.layers)):
            yield from self.parallel_layer(layer) if spec.parallel_block else self.sequential_layer(layer)
        yield self.norm("model.norm", b.x_last, b.last_rows, "sampled")
        head = "model.embed_tokens" if spec.tied_head else "lm_head"
        last = self.matrix(head, factor=spec.logit_scale, format=self.head_format)
        yield self.gemm(last, b.last_rows, b.logits, rows="sampled")
        sampling = {"weights": b.weights, "histogram": b.histogram}
        yield operation("sample", logits=b.logits, vocab=spec.vocab, out=b.sampled, **sampling)

    def sequential_layer(self, layer: int) -> Iterator[Operation]:
        """x += attention(norm(x)); x += mlp(norm(x))."""
        b, name = self.buffers, f"model.layers.{layer}"
        yield self.norm(f"{name}.input_layernorm", b.x, b.normed)
        yield self.gemm(self.matrix(*self.qkv(name)), b.normed, b.projected)
        yield from self.attention(layer)
        x, rows = self.residual(layer)
        yield from self.pick(layer)
        yield self.gemm(self.matrix(f"{name}.self_attn.o_proj"), b.attended_rows, x, 1, rows)
        yield self.norm(f"{name}.post_attention_layernorm", x, b.normed, rows)
        yield self.gemm(self.matrix(*self.gate_up(name)), b.normed, b.projected, 0, rows)
        yield from self.gated(layer, b.projected, x, rows)

    def parallel_layer(self, layer: int) -> Iterator[Operation]:
        """x += attention(n) + mlp(n), n = norm(x): one matrix makes q, k, v, gate and up, but for the last layer."""
        b, name = self.buffers, f"model.layers.{layer}"
        x, rows = self.residual(layer)
        gate_up = b.projected[:, b.qkv_width :]
        yield self.norm(f"{name}.input_layernorm", b.x, b.normed)
        if self.is_last(layer):
            yield self.gemm(self.matrix(*self.qkv(name)), b.normed, b.projected)
            yield from self.attention(layer)
            yield from self.pick(layer)
            yield self.norm(f"{name}.input_layernorm", x, b.normed, rows)
            yield self.gemm(self.matrix(*self.gate_up(name)), b.normed, gate_up, 0, rows)
        else:
            yield self.gemm(self.matrix(*self.qkv(name), *self.gate_up(name)), b.normed, b.projected)
            yield from self.attention(layer)
        yield self.gemm(self.matrix(f"{name}.self_attn.o_proj"), b.attended_rows, x, 1, rows)
        yield from self.gated(layer, gate_up, x, rows)

    def is_last(self, layer: int) -> bool:
        return layer == len(self.spec.layers) - 1

    def residual(self, layer: int) -> tuple[np.ndarray, str]:
        """What a layer adds to behind its K/V, and which rows: in the last layer only those that are sampled matter."""
        return (self.buffers.x_last, "sampled") if self.is_last(layer) else (self.buffers.x, "rows")

    def pick(self, layer: int) -> Iterator[Operation]:
        b = self.buffers
        if self.is_last(layer):
            yield operation("pick", x=b.x, n=self.spec.hidden, out=b.x_last)

    def gated(self, layer: int, gate_up: np.ndarray, x: np.ndarray, rows: str) -> Iterator[Operation]:
        """x += down(act(gate) * up)."""
        b, spec = self.buffers, self.spec
        yield operation("glu", x=gate_up, n=spec.ffn, block=self.block, **b.gated_rows, rows=rows)
        down = self.matrix(f"model.layers.{layer}.mlp.down_proj", block=self.block)
        yield self.gemm(down, b.gated_rows, x, 1, rows)

    def attention(self, layer: int) -> Iterator[Operation]:
        """From projected q, k, v to quantised rows for o_proj."""
        spec, b = self.spec, self.buffers
        kind, name = spec.layers[layer], f"model.layers.{layer}.self_attn"
        shape: dict[str, Any] = {**self.heads, "head_dim": spec.head_dim}
        place = {"qkv": b.projected, "pool": b.pool[layer], "quantized": int(b.pool.dtype == np.uint8), **shape}
        norms = {
            side: np.ascontiguousarray(self.weights.float32(f"{name}.{side}.weight")) if spec.qk_norm else None
            for side in ("q_norm", "k_norm")
        }
        rope = 0 if not kind.rope else (2 if spec.rope_interleaved else 1)
        yield operation("rope", **place, **norms, rope=rope, eps=spec.norm_eps, q_scale=spec.head_dim**-0.5)
        rows, room = self.residual(layer)[1], {"scratch": b.scratch, "partial": b.partial}
        share = {"rows": rows, "threads": self.threads}
        yield operation("attend", **place, window=kind.window or 0, out=b.attended, **room, **share)
        yield operation("gather", x=b.attended, **shape, partial=b.partial, **b.attended_rows, rows=rows)

    def qkv(self, name: str) -> list[str]:
        return [f"{name}.self_attn.{side}_proj" for side in "qkv"]

    def gate_up(self, name: str) -> list[str]:
        return [f"{name}.mlp.gate_proj", f"{name}.mlp.up_proj"]

    def norm(self, name: str, x: np.ndarray, target: dict[str, np.ndarray | None], rows: str = "rows") -> Operation:
        spec = self.spec
        weight = np.ascontiguousarray(self.weights.float32(f"{name}.weight"))
        how = {"eps": spec.norm_eps, "centred": int(spec.norm == "layer"), "rows": rows}
        return operation("norm", x=x, weight=weight, n=spec.hidden, **how, **target)

    def gemm(
        self,
        matrix: PackedMatrix | FloatMatrix,
        source: dict[str, np.ndarray | None],
        out: np.ndarray,
        add: int = 0,
        rows: str = "rows",
    ) -> Operation:
        """The operation that multiplies by a matrix of its format."""
        parts = {name: getattr(matrix, name, None) for name in ("scale", "offset")}
        return operation(
            "gemm",
            format=BITS[matrix.format],
            a=source["out"],
            a_scale=source["out_scale"],
            a_sums=source["out_sums"],
            w=matrix.packed,
            w_scale=parts["scale"],
            w_offset=parts["offset"],
            bias=matrix.bias,
            k=matrix.k,
            panels=matrix.panels,
            out=out,
            add=add,
            rows=rows,
            threads=self.threads,
        )
