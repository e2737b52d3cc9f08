"""`python emulated.py SET CACHE`: the kernels of a set with a u8 x s8 dot, run on a machine that has AVX2 at most.

The dot alone is spelt out in plain LLVM IR; tiles, start values of sums and operands are those of the set.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from llvmlite import ir

from senryu.kernels import target


def dot(b: ir.IRBuilder, total: ir.Value, unsigned: ir.Value, signed: ir.Value) -> ir.Value:
    """What `simd.emit_dot_unsigned` does, by four multiplications of int32."""
    wide, index = ir.VectorType(ir.IntType(32), 64), ir.VectorType(ir.IntType(32), 16)
    products = b.mul(b.zext(unsigned, wide), b.sext(signed, wide))
    for j in range(4):
        total = b.add(total, b.shuffle_vector(products, products, ir.Constant(index, list(range(j, 64, 4)))))
    return total


def main(name: str, cache: str) -> None:
    chosen = replace(target.ISAS[name], needs=target.AVX2.needs)
    target.ISAS.clear()
    target.ISAS[name] = chosen
    from senryu.kernels import simd

    assert not simd.SIGNED
    simd.emit_dot_unsigned = dot
    import test_attention
    import test_formats
    import test_gemm

    from senryu import kernels

    compiled = kernels.load(Path(cache), path=name)
    assert compiled.isa == name
    for rows in (1, 2, 3, 4, 5, 6, 13):
        test_gemm.test_equals_its_twin_bit_for_bit(compiled, rows, 144, 100, 0)
        test_formats.test_compiled_int4_equals_its_twin_bit_for_bit(compiled, rows, 100, 144, 0)
        test_formats.test_compiled_bf16_is_float_arithmetic_but_for_its_roundings(compiled, rows, 100, 144)
    test_gemm.test_integers_are_exact_at_the_extremes(compiled)
    test_formats.test_compiled_int4_is_exact_at_the_extremes(compiled)
    for sequences, *shape in ([(0, 130), (200, 70)], 7, 1, 80, 0), ([(190, 40), (127, 1)], 3, 3, 128, 64):
        test_attention.test_int8_is_close_to_its_twin(compiled, sequences, *shape)
        test_attention.test_close_to_its_twin(compiled, sequences, *shape)


if __name__ == "__main__":
    main(*sys.argv[1:])
