"""Register tiles: the loops over K that matrices and attention share, as LLVM IR. Callers add what comes before and after.

A tile is `rows` x 16 * `blocks` columns whose sums stay in registers. The right side is read line by line, each line holding
all columns for one step of K; the left side is broadcast, row by row.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from llvmlite import ir

from senryu.kernels.simd import (
    F32,
    I8,
    I32,
    I64,
    V16F,
    V16I,
    V64B,
    at,
    broadcast,
    declare,
    emit_dot,
    emit_dot_unsigned,
    emit_fma,
    emit_shared,
    emit_single,
    offset,
)
from senryu.kernels.target import target

Sums = list[list[ir.Value]]
Step = Callable[[ir.Value, Sums], Sums]  # (bytes of a left row done, sums) -> sums


def k_loop(b: ir.IRBuilder, start: Sums, size: ir.Value, stride: int, step: Step) -> Sums:
    """Run `step` for i = 0, stride, .. below `size` (at least once) with the sums in registers; the sums after the last."""
    entry, loop, done = b.block, b.append_basic_block("k"), b.append_basic_block("done")
    b.branch(loop)
    b.position_at_end(loop)
    i = b.phi(I64)
    sums = [[b.phi(value.type) for value in row] for row in start]
    new = step(i, sums)
    following = b.add(i, ir.Constant(I64, stride))
    for phi, first, then in [(i, ir.Constant(I64, 0), following)] + [
        cell for row in zip(sums, start, new) for cell in zip(*row)
    ]:
        phi.add_incoming(first, entry)
        phi.add_incoming(then, b.block)
    b.cbranch(b.icmp_signed("<", following, size), loop, done)
    b.position_at_end(done)
    return new


def row_addresses(b: ir.IRBuilder, first: ir.Value, stride: ir.Value, rows: int) -> list[ir.Value]:
    """Addresses of `rows` rows that lie `stride` bytes apart."""
    return [b.add(first, b.mul(stride, ir.Constant(I64, r))) for r in range(rows)]


def load_columns(b: ir.IRBuilder, address: ir.Value, kind: ir.VectorType, blocks: int) -> list[ir.Value]:
    """`blocks` vectors of 64 bytes, one after the other."""
    return [b.load(at(b, offset(b, address, 64 * c), kind), align=64) for c in range(blocks)]


def stream_columns(b: ir.IRBuilder, address: ir.Value, kind: ir.VectorType, blocks: int) -> list[ir.Value]:
    """`load_columns` of weights, which are read once and in order: with the set's distance of prefetching, if it has one."""
    if ahead := target().prefetch:
        pointer, integer = ir.PointerType(I8), I32
        fetch = declare(b, "llvm.prefetch.p0", ir.VoidType(), [pointer, integer, integer, integer])
        for c in range(blocks):  # to be read, into all levels, as data
            b.call(fetch, [at(b, offset(b, address, ahead + 64 * c), I8), *(ir.Constant(I32, x) for x in (0, 3, 1))])
    return load_columns(b, address, kind, blocks)


def four_bytes(b: ir.IRBuilder, address: ir.Value, *, signed: bool = False) -> ir.Value:
    """Four bytes of a left row in every lane; `signed`: u8 value + 128 becomes s8 value before it is spread."""
    four = b.load(at(b, address, I32), align=4)
    if signed:
        four = b.xor(four, ir.Constant(I32, -0x7F7F7F80))
    return b.bitcast(broadcast(b, four, V16I), V64B)


def int8_sums(
    b: ir.IRBuilder,
    left: Sequence[ir.Value],
    lines: ir.Value,
    line_stride: ir.Value,
    size: ir.Value,
    start: Sums,
    kind: Literal["weights", "keys", "values"],
) -> Sums:
    """start + left @ right in int32 over `size` bytes of K, four a step.

    weights: left u8 value + 128, right s8. keys: left s8, right u8 value + 128. values: left u8 up to 127, right s8.
    Where `simd.SIGNED` is false, start must hold -128 times the sum of the s8 side (weights, keys).
    """
    blocks = len(start[0])

    def step(i: ir.Value, sums: Sums) -> Sums:
        line = b.add(lines, b.mul(b.udiv(i, ir.Constant(I64, 4)), line_stride))
        right = (stream_columns if kind == "weights" else load_columns)(b, line, V64B, blocks)
        if kind == "values":
            fours = [four_bytes(b, b.add(row, i)) for row in left]
            return [[emit_dot_unsigned(b, t, a, w) for t, w in zip(row, right)] for a, row in zip(fours, sums)]
        shared = [emit_shared(b, x, offset=kind == "keys") for x in right]
        new = []
        for address, row in zip(left, sums):
            single = emit_single(b, four_bytes(b, b.add(address, i)), offset=kind == "weights")
            new.append([emit_dot(b, t, x, single, offset=kind == "keys") for t, x in zip(row, shared)])
        return new

    return k_loop(b, start, size, 4, step)


def float_sums(
    b: ir.IRBuilder,
    left: Sequence[ir.Value],
    lines: ir.Value,
    line_stride: ir.Value,
    steps: ir.Value,
    start: Sums,
    load: Callable[[ir.Value, int], list[ir.Value]],
) -> Sums:
    """start + left @ right in float32, k in order, fused. load(line, blocks): a line's columns as float32."""

    def step(i: ir.Value, sums: Sums) -> Sums:
        right = load(b.add(lines, b.mul(i, line_stride)), len(start[0]))
        four = b.mul(i, ir.Constant(I64, 4))
        new = []
        for address, row in zip(left, sums):
            x = broadcast(b, b.load(at(b, b.add(address, four), F32), align=4), V16F)
            new.append([emit_fma(b, x, w, t) for t, w in zip(row, right)])
        return new

    return k_loop(b, start, steps, 1, step)


def zeros(kind: ir.VectorType, rows: int, blocks: int) -> Sums:
    """Sums that start at nothing."""
    return [[ir.Constant(kind, [0] * 16)] * blocks for _ in range(rows)]


def row_scalars(b: ir.IRBuilder, address: ir.Value, rows: int, kind: ir.Type = F32) -> list[ir.Value]:
    """One four-byte value per row, each in every lane."""
    wide = V16F if kind == F32 else V16I
    return [broadcast(b, b.load(at(b, offset(b, address, 4 * r), kind), align=4), wide) for r in range(rows)]
