"""From spec and weights to the list of operations: where the families differ, and the buffers that operations share."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from senryu.kernels.layout import (
    BUCKETS,
    INT8,
    PAGE,
    PANEL,
    QUERY_BLOCK,
    STATE_EXTRA,
    Operation,
    aligned,
    kv_bytes,
    operation,
)
from senryu.kernels.pack import PackedMatrix
from senryu.kernels.reference import hadamard
from senryu.model.quantize import float_rows, halve, pack_rows
from senryu.model.spec import ModelSpec
from senryu.model.transformer import Float32Weights

PARTIALS = 16384  # states that split sequences may leave between attention's phases; a sequence that finds no room is not split


class Buffers:
    """Everything a step writes: activations, K/V pool, logits. Rows are padded to whole panels so that tiles need no edges."""

    def __init__(
        self, spec: ModelSpec, pages: int, max_rows: int, max_sequences: int, threads: int, *, quantized: bool, kv8: bool
    ) -> None:
        self.activation = np.uint8 if quantized else np.float32
        q, kv = spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
        self.x = _zeros(max_rows, _whole(spec.hidden))
        self.normed = self._rows(max_rows, spec.hidden)
        self.qkv_width, width = q + 2 * kv, q + 2 * kv + (2 * spec.ffn if spec.parallel_block else 0)
        self.projected = _zeros(max_rows, _whole(max(width, 2 * spec.ffn)))
        self.attended, self.attended_rows = _zeros(max_rows, q), self._rows(max_rows, q)
        self.gated_rows = self._rows(max_rows, spec.ffn)
        self.last_rows = self._rows(max_sequences, spec.hidden)
        self.logits = _zeros(max_sequences, _whole(spec.vocab))
        self.sampled = np.zeros(max_sequences, np.int32)
        size = kv_bytes(spec.head_dim, quantized=kv8)
        self.pool = _untouched(np.uint8, len(spec.layers), pages, spec.kv_heads, size)
        if not kv8:
            self.pool = self.pool.view(np.float32).reshape(*self.pool.shape[:3], 2, -1)
        state = spec.head_dim + STATE_EXTRA
        self.partial = _untouched(np.float32, PARTIALS, state)
        self.scratch = _zeros(threads, QUERY_BLOCK * (2 * state + PAGE + 4 + spec.head_dim // 4))
        self.weights = _zeros(threads, _whole(spec.vocab))
        self.histogram = np.zeros((threads, 2 * BUCKETS), np.float64)
        self.plan = {name: np.zeros(max_sequences + 1, np.int32) for name in ("item_start", "split", "sequence_slot")}
        self.plan["row_sequence"] = np.zeros(max_rows, np.int32)

    def _rows(self, rows: int, n: int) -> dict[str, np.ndarray]:
        """The output fields of an operation that hands int8 rows to a matrix."""
        return {"out": aligned((rows, n), self.activation), "out_scale": aligned((rows,), np.float32)}


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
    spec: ModelSpec, weights: Float32Weights, buffers: Buffers, threads: int, *, quantized: bool
) -> list[Operation]:
    """The forward pass of any supported family. Weights are read, packed and dropped one matrix at a time."""
    return list(_Builder(spec, weights, buffers, threads, quantized).operations())


class _Builder:
    """Holds what every operation of one model needs."""

    def __init__(self, spec: ModelSpec, weights: Float32Weights, buffers: Buffers, threads: int, quantized: bool) -> None:
        self.spec, self.weights, self.buffers, self.threads = spec, weights, buffers, threads
        self.make = pack_rows if quantized else float_rows
        # gated activations have outliers ten times their mean size: they are spread before they are rounded to int8
        self.block = 0 if not quantized else (64 if spec.ffn % 64 == 0 else 16)
        self.heads = {"heads": spec.heads, "kv_heads": spec.kv_heads}

    def operations(self) -> Iterator[Operation]:
        spec, b = self.spec, self.buffers
        yield operation("plan", **self.heads, threads=self.threads, capacity=len(b.partial))
        table = halve(self.weights.float32("model.embed_tokens.weight"))
        half = table.dtype == np.uint16
        yield operation("embed", table=np.ascontiguousarray(table), half=int(half), hidden=spec.hidden, x=b.x)
        for layer in range(len(spec.layers)):
            yield from self.parallel_layer(layer) if spec.parallel_block else self.sequential_layer(layer)
        yield self.norm("model.norm", b.last_rows, rows="sampled")
        head = "model.embed_tokens" if spec.tied_head else "lm_head"
        yield self.gemm(self.matrix(head, factor=spec.logit_scale), b.last_rows, b.logits, rows="sampled")
        sampling = {"weights": b.weights, "histogram": b.histogram}
        yield operation("sample", logits=b.logits, vocab=spec.vocab, out=b.sampled, **sampling)

    def sequential_layer(self, layer: int) -> Iterator[Operation]:
        """x += attention(norm(x)); x += mlp(norm(x))."""
        b, name = self.buffers, f"model.layers.{layer}"
        yield self.norm(f"{name}.input_layernorm", b.normed)
        yield self.gemm(self.matrix(*self.qkv(name)), b.normed, b.projected)
        yield from self.attention(layer)
        yield self.gemm(self.matrix(f"{name}.self_attn.o_proj"), b.attended_rows, b.x, add=1)
        yield self.norm(f"{name}.post_attention_layernorm", b.normed)
        yield self.gemm(self.matrix(*self.gate_up(name)), b.normed, b.projected)
        yield operation("glu", x=b.projected, n=self.spec.ffn, block=self.block, **b.gated_rows)
        yield self.gemm(self.matrix(f"{name}.mlp.down_proj", block=self.block), b.gated_rows, b.x, add=1)

    def parallel_layer(self, layer: int) -> Iterator[Operation]:
        """x += attention(n) + mlp(n), n = norm(x): one matrix makes q, k, v, gate and up."""
        b, name = self.buffers, f"model.layers.{layer}"
        yield self.norm(f"{name}.input_layernorm", b.normed)
        yield self.gemm(self.matrix(*self.qkv(name), *self.gate_up(name)), b.normed, b.projected)
        gate_up = b.projected[:, b.qkv_width :]
        yield operation("glu", x=gate_up, n=self.spec.ffn, block=self.block, **b.gated_rows)
        yield from self.attention(layer)
        yield self.gemm(self.matrix(f"{name}.self_attn.o_proj"), b.attended_rows, b.x, add=1)
        yield self.gemm(self.matrix(f"{name}.mlp.down_proj", block=self.block), b.gated_rows, b.x, add=1)

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
        yield operation("attend", **place, window=kind.window or 0, out=b.attended, scratch=b.scratch, partial=b.partial)
        yield operation("gather", x=b.attended, **shape, partial=b.partial, **b.attended_rows)

    def qkv(self, name: str) -> list[str]:
        return [f"{name}.self_attn.{side}_proj" for side in "qkv"]

    def gate_up(self, name: str) -> list[str]:
        return [f"{name}.mlp.gate_proj", f"{name}.mlp.up_proj"]

    def matrix(self, *names: str, factor: float = 1.0, block: int = 0) -> PackedMatrix:
        """Matrices that read the same rows, as one; `block`: those rows were spread by it."""
        biases = [self.weights.float32(f"{n}.bias") if f"{n}.bias" in self.weights else None for n in names]
        parts = [self.weights.float32(f"{n}.weight") for n in names]
        if block:
            parts = [hadamard(part, block) / np.float32(block) for part in parts]
        return self.make(parts, biases, factor)

    def norm(self, name: str, target: dict[str, np.ndarray], rows: str = "rows") -> Operation:
        spec = self.spec
        weight = np.ascontiguousarray(self.weights.float32(f"{name}.weight"))
        how = {"eps": spec.norm_eps, "centred": int(spec.norm == "layer"), "rows": rows}
        return operation("norm", x=self.buffers.x, weight=weight, n=spec.hidden, **how, **target)

    def gemm(
        self, matrix: PackedMatrix, source: dict[str, np.ndarray], out: np.ndarray, add: int = 0, rows: str = "rows"
    ) -> Operation:
        return operation(
            "gemm",
            format=INT8,
            a_sums=None,
            a=source["out"],
            a_scale=source["out_scale"],
            w=matrix.packed,
            w_scale=matrix.scale,
            w_offset=matrix.offset,
            bias=matrix.bias,
            k=matrix.k,
            panels=matrix.panels,
            out=out,
            add=add,
            rows=rows,
        )
