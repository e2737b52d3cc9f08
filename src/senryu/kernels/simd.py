"""The vector vocabulary: what kernels may ask of the CPU, as Numba intrinsics. The port boundary between CPUs.

Addresses are int64 bytes. A `F32x16` is sixteen float32 lanes in as many registers as they take (LLVM splits them); operations
on it round once per step and never contract, so numpy can follow bit for bit, except `emit_fma`. What
differs between instruction sets stands in this file and in `target.py` alone: the dot, the spin-wait hint, the futex call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic, models, register_model

from senryu.kernels.target import target

I8, I16, I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
F32, F64 = ir.FloatType(), ir.DoubleType()
V16F, V16I, V64B = ir.VectorType(F32, 16), ir.VectorType(I32, 16), ir.VectorType(I8, 64)
LANES = 16


class F32x16(types.Type):
    """Sixteen float32 lanes."""

    def __init__(self) -> None:
        super().__init__(name="F32x16")


@register_model(F32x16)
class _F32x16Model(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Any) -> None:
        super().__init__(dmm, fe_type, V16F)


vec = F32x16()
Emit = Callable[..., ir.Value]


def declare(b: ir.IRBuilder, name: str, result: ir.Type, arguments: list[ir.Type], variadic: bool = False) -> ir.Function:
    """The external or LLVM function of that full name (llvmlite cannot mangle vector types itself)."""
    return b.module.globals.get(name) or ir.Function(b.module, ir.FunctionType(result, arguments, variadic), name=name)


def at(b: ir.IRBuilder, address: ir.Value, kind: ir.Type) -> ir.Value:
    return b.inttoptr(address, ir.PointerType(kind))


def offset(b: ir.IRBuilder, address: ir.Value, count: int) -> ir.Value:
    return b.add(address, ir.Constant(I64, count)) if count else address


def broadcast(b: ir.IRBuilder, value: ir.Value, kind: ir.VectorType) -> ir.Value:
    empty = ir.Constant(kind, ir.Undefined)
    return b.shuffle_vector(b.insert_element(empty, value, ir.Constant(I32, 0)), empty, ir.Constant(V16I, [0] * 16))


def emit_fma(b: ir.IRBuilder, x: ir.Value, y: ir.Value, z: ir.Value) -> ir.Value:
    return b.call(declare(b, "llvm.fma.v16f32", V16F, [V16F] * 3), [x, y, z])


# *** the dot ***
#
# total[i] += sum over j < 4 of x[4i + j] * y[4i + j], sixteen int32 lanes i. One operand holds value + 128 as u8, the other s8;
# one of the two is a register that many dots share. emit_shared and emit_single turn bytes into what the instruction wants of
# each. The sum is then of value * y where SIGNED, else of (value + 128) * y, and whoever starts the sum takes 128 * y off.

SIGNED = target().dot in ("maddubs", "sdot")


def emit_signed(b: ir.IRBuilder, offset: ir.Value) -> ir.Value:
    """u8 value + 128 -> s8 value."""
    return b.xor(offset, ir.Constant(V64B, [-128] * 64))


def _parts(b: ir.IRBuilder, x: ir.Value, count: int) -> list[ir.Value]:
    """`count` equal pieces of a vector, in order."""
    lanes = x.type.count // count
    index = [ir.Constant(ir.VectorType(I32, lanes), list(range(i * lanes, (i + 1) * lanes))) for i in range(count)]
    return [b.shuffle_vector(x, x, lane) for lane in index]


def _joined(b: ir.IRBuilder, parts: list[ir.Value]) -> ir.Value:
    while len(parts) > 1:
        lanes = ir.Constant(ir.VectorType(I32, 2 * parts[0].type.count), list(range(2 * parts[0].type.count)))
        parts = [b.shuffle_vector(low, high, lanes) for low, high in zip(parts[::2], parts[1::2])]
    return parts[0]


def emit_shared(b: ir.IRBuilder, x: ir.Value, *, offset: bool) -> tuple[ir.Value, ...]:
    """The operand of `emit_dot` that stays in a register: s8, or u8 value + 128 if `offset`."""
    if not SIGNED:
        return (x,)
    x = emit_signed(b, x) if offset else x
    if target().dot == "sdot":
        return (x,)
    return x, b.call(declare(b, "llvm.abs.v64i8", V64B, [V64B, ir.IntType(1)]), [x, ir.Constant(ir.IntType(1), 0)])


def emit_single(b: ir.IRBuilder, x: ir.Value, *, offset: bool) -> ir.Value:
    """The other operand of `emit_dot`. Of the two, one is `offset` and one is not."""
    return emit_signed(b, x) if SIGNED and offset else x


def emit_dot(b: ir.IRBuilder, total: ir.Value, shared: tuple[ir.Value, ...], single: ir.Value, *, offset: bool) -> ir.Value:
    """One more product of `emit_shared` by `emit_single`; `offset`: the shared one is the one that was value + 128.

    AVX2 has u8 x s8 with sums of two that saturate in 16 bits: |x| * (y with x's sign) stays below 2 * 127 * 127.
    """
    if target().dot == "maddubs":
        halves = zip(*(_parts(b, x, 2) for x in (total, *shared, single)))
        return _joined(b, [_maddubs(b, t, size, _sign(b, y, x)) for t, x, size, y in halves])
    if target().dot == "sdot":
        quarters = zip(*(_parts(b, x, 4) for x in (total, *shared, single)))
        return _joined(b, [b.call(_sdot(b), list(each)) for each in quarters])
    unsigned, signed = (shared[0], single) if offset else (single, shared[0])
    return emit_dot_unsigned(b, total, unsigned, signed)


def emit_dot_unsigned(b: ir.IRBuilder, total: ir.Value, unsigned: ir.Value, signed: ir.Value) -> ir.Value:
    """Sixteen int32 sums of four products of u8 (at most 127) x s8: nothing is prepared, nothing to take off."""
    kind = target().dot
    if kind == "vnni512":
        return b.call(declare(b, "llvm.x86.avx512.vpdpbusd.512", V16I, [V16I, V64B, V64B]), [total, unsigned, signed])
    if kind == "sdot":
        return _joined(b, [b.call(_sdot(b), list(e)) for e in zip(*(_parts(b, x, 4) for x in (total, unsigned, signed)))])
    halves = zip(*(_parts(b, x, 2) for x in (total, unsigned, signed)))
    if kind == "maddubs":
        return _joined(b, [_maddubs(b, t, u, s) for t, u, s in halves])
    v8i, v32b = ir.VectorType(I32, 8), ir.VectorType(I8, 32)
    dot = declare(b, "llvm.x86.avx512.vpdpbusd.256", v8i, [v8i, v32b, v32b])
    return _joined(b, [b.call(dot, list(each)) for each in halves])


def emit_dots_small(b: ir.IRBuilder, total: ir.Value, pairs: list[tuple[ir.Value, ir.Value]]) -> ir.Value:
    """total plus the dots of up to eight pairs of u8 (at most 15) x s8: AVX2 may add them up in 16 bits first."""
    if target().dot != "maddubs":
        for unsigned, signed in pairs:
            total = emit_dot_unsigned(b, total, unsigned, signed)
        return total
    halves = []
    for i, part in enumerate(_parts(b, total, 2)):
        products = [_pairs(b, _parts(b, u, 2)[i], _parts(b, s, 2)[i]) for u, s in pairs]
        while len(products) > 1:
            products = [b.add(x, y) for x, y in zip(products[::2], products[1::2])] + products[len(products) // 2 * 2 :]
        halves.append(_widened(b, part, products[0]))
    return _joined(b, halves)


def _sign(b: ir.IRBuilder, y: ir.Value, x: ir.Value) -> ir.Value:
    v32b = ir.VectorType(I8, 32)
    return b.call(declare(b, "llvm.x86.avx2.psign.b", v32b, [v32b, v32b]), [y, x])


def _maddubs(b: ir.IRBuilder, total: ir.Value, unsigned: ir.Value, signed: ir.Value) -> ir.Value:
    return _widened(b, total, _pairs(b, unsigned, signed))


def _pairs(b: ir.IRBuilder, unsigned: ir.Value, signed: ir.Value) -> ir.Value:
    """Sixteen int16 sums of two u8 x s8 products, saturating."""
    v32b, v16s = ir.VectorType(I8, 32), ir.VectorType(I16, 16)
    return b.call(declare(b, "llvm.x86.avx2.pmadd.ub.sw", v16s, [v32b, v32b]), [unsigned, signed])


def _widened(b: ir.IRBuilder, total: ir.Value, pairs: ir.Value) -> ir.Value:
    """Eight int32 totals plus two int16 each."""
    v16s, v8i = ir.VectorType(I16, 16), ir.VectorType(I32, 8)
    ones = ir.Constant(v16s, [1] * 16)
    return b.add(total, b.call(declare(b, "llvm.x86.avx2.pmadd.wd", v8i, [v16s, v16s]), [pairs, ones]))


def _sdot(b: ir.IRBuilder) -> ir.Function:
    v4i, v16b = ir.VectorType(I32, 4), ir.VectorType(I8, 16)
    return declare(b, "llvm.aarch64.neon.sdot.v4i32.v16i8", v4i, [v4i, v16b, v16b])


def _constant(value: float) -> ir.Constant:
    return ir.Constant(V16F, [value] * 16)


def _lowered(result: Any, emit: Emit) -> Callable[..., Any]:
    """What Numba wants of an intrinsic: code for it, and a value even where there is none."""

    def lower(context: Any, b: Any, sig: Any, args: Any) -> Any:
        value = emit(b, *args)
        return context.get_dummy_value() if result is types.void else value

    return lower


def nullary(result: Any, emit: Emit) -> Any:
    @intrinsic
    def call(typingctx):
        return result(), _lowered(result, emit)

    return call


def unary(result: Any, first: Any, emit: Emit) -> Any:
    @intrinsic
    def call(typingctx, x):
        return result(first), _lowered(result, emit)

    return call


def binary(result: Any, first: Any, second: Any, emit: Emit) -> Any:
    @intrinsic
    def call(typingctx, x, y):
        return result(first, second), _lowered(result, emit)

    return call


def ternary(result: Any, kinds: tuple[Any, Any, Any], emit: Emit) -> Any:
    @intrinsic
    def call(typingctx, x, y, z):
        return result(*kinds), _lowered(result, emit)

    return call


def quaternary(result: Any, kinds: tuple[Any, Any, Any, Any], emit: Emit) -> Any:
    @intrinsic
    def call(typingctx, x, y, z, w):
        return result(*kinds), _lowered(result, emit)

    return call


# *** memory ***

address = types.int64
f32 = unary(types.float32, address, lambda b, a: b.load(at(b, a, F32), align=4))
f64 = unary(types.float64, address, lambda b, a: b.load(at(b, a, F64), align=8))
i64 = unary(types.int64, address, lambda b, a: b.load(at(b, a, I64), align=8))
i32 = unary(types.int64, address, lambda b, a: b.sext(b.load(at(b, a, I32), align=4), I64))
get = binary(
    *(types.int64, address, types.int64),
    lambda b, a, slot: b.load(at(b, b.add(a, b.shl(slot, ir.Constant(I64, 3))), I64), align=8),
)
put_f32 = binary(types.void, address, types.float32, lambda b, a, v: b.store(v, at(b, a, F32), align=4))
put_f64 = binary(types.void, address, types.float64, lambda b, a, v: b.store(v, at(b, a, F64), align=8))
put_i32 = binary(types.void, address, types.int64, lambda b, a, v: b.store(b.trunc(v, I32), at(b, a, I32), align=4))
put_i64 = binary(types.void, address, types.int64, lambda b, a, v: b.store(v, at(b, a, I64), align=8))
load = unary(vec, address, lambda b, a: b.load(at(b, a, V16F), align=4))
store = binary(types.void, address, vec, lambda b, a, v: b.store(v, at(b, a, V16F), align=4))


def emit_load_bf16(b: ir.IRBuilder, a: ir.Value) -> ir.Value:
    """Sixteen bfloat16 are the upper halves of sixteen float32."""
    wide = b.zext(b.load(at(b, a, ir.VectorType(I16, 16)), align=2), V16I)
    return b.bitcast(b.shl(wide, ir.Constant(V16I, [16] * 16)), V16F)


def _rint(b: ir.IRBuilder, v: ir.Value) -> ir.Value:
    """Round half to even."""
    return b.call(declare(b, "llvm.rint.v16f32", V16F, [V16F]), [v])


def _store_bytes(b: ir.IRBuilder, a: ir.Value, v: ir.Value, plus: int) -> ir.Value:
    """Rounded, plus `plus`, as bytes: v must fit in a byte then."""
    whole = b.add(b.fptosi(_rint(b, v), V16I), ir.Constant(V16I, [plus] * 16))
    return b.store(b.trunc(whole, ir.VectorType(I8, 16)), at(b, a, ir.VectorType(I8, 16)), align=1)


load_bf16 = unary(vec, address, emit_load_bf16)


def _copy_signed(b: ir.IRBuilder, to: ir.Value, a: ir.Value) -> ir.Value:
    """One byte, u8 value + 128 -> s8 value."""
    return b.store(b.xor(b.load(at(b, a, I8), align=1), ir.Constant(I8, -128)), at(b, to, I8), align=1)


store_i8 = binary(types.void, address, vec, lambda b, a, v: _store_bytes(b, a, v, 0))
store_u8 = binary(types.void, address, vec, lambda b, a, v: _store_bytes(b, a, v, 128))
copy_signed = binary(types.void, address, address, _copy_signed)

# *** arithmetic ***

splat = unary(vec, types.float32, lambda b, x: broadcast(b, x, V16F))
add = binary(vec, vec, vec, lambda b, x, y: b.fadd(x, y))
sub = binary(vec, vec, vec, lambda b, x, y: b.fsub(x, y))
mul = binary(vec, vec, vec, lambda b, x, y: b.fmul(x, y))
div = binary(vec, vec, vec, lambda b, x, y: b.fdiv(x, y))


def _maximum(b: ir.IRBuilder, x: ir.Value, y: ir.Value) -> ir.Value:
    return b.select(b.fcmp_ordered(">", x, y), x, y)


def _absolute(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    return b.call(declare(b, "llvm.fabs.v16f32", V16F, [V16F]), [x])


def _reduce(b: ir.IRBuilder, x: ir.Value, combine: Emit) -> ir.Value:
    """Halves are combined until one lane is left: a fixed order."""
    lanes = 16
    while lanes > 1:
        lanes //= 2
        high = ir.Constant(ir.VectorType(I32, lanes), list(range(lanes, 2 * lanes)))
        low = ir.Constant(ir.VectorType(I32, lanes), list(range(lanes)))
        x = combine(b, b.shuffle_vector(x, x, low), b.shuffle_vector(x, x, high))
    return b.extract_element(x, ir.Constant(I32, 0))


def _keep(b: ir.IRBuilder, x: ir.Value, first: ir.Value, end: ir.Value, other: ir.Value) -> ir.Value:
    """Lanes first <= i < end of x, `other` elsewhere. first and end must fit in 32 bits."""
    lane = ir.Constant(V16I, list(range(16)))
    low, high = (broadcast(b, b.trunc(value, I32), V16I) for value in (first, end))
    inside = b.and_(b.icmp_signed(">=", lane, low), b.icmp_signed("<", lane, high))
    return b.select(inside, x, broadcast(b, other, V16F))


def _hadamard(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """The 16-point Walsh-Hadamard transform of the lanes (unnormalised), from the widest butterfly to the narrowest."""
    for half in (8, 4, 2, 1):
        partner = b.shuffle_vector(x, x, ir.Constant(V16I, [lane ^ half for lane in range(16)]))
        upper = ir.Constant(ir.VectorType(ir.IntType(1), 16), [bool(lane & half) for lane in range(16)])
        x = b.select(upper, b.fsub(partner, x), b.fadd(x, partner))
    return x


EXP_LOW, EXP_HIGH, LOG2E = -87.33654, 88.0, 1.4426950408889634
LN2_HIGH, LN2_LOW = 0.693359375, -2.12194440e-4
EXP_POLYNOMIAL = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)


def _exp(b: ir.IRBuilder, x: ir.Value) -> ir.Value:
    """exp by Cephes' expf (2 ulp), input clamped to the range of normal float32; exp(0) is exactly 1."""
    x = _maximum(b, x, _constant(EXP_LOW))
    x = b.select(b.fcmp_ordered("<", x, _constant(EXP_HIGH)), x, _constant(EXP_HIGH))
    n = _rint(b, b.fmul(x, _constant(LOG2E)))
    r = b.fsub(x, b.fmul(n, _constant(LN2_HIGH)))
    r = b.fsub(r, b.fmul(n, _constant(LN2_LOW)))
    p = _constant(EXP_POLYNOMIAL[0])
    for coefficient in EXP_POLYNOMIAL[1:]:
        p = b.fadd(b.fmul(p, r), _constant(coefficient))
    y = b.fadd(b.fadd(b.fmul(b.fmul(p, r), r), r), _constant(1.0))
    power = b.shl(b.fptosi(n, V16I), ir.Constant(V16I, [23] * 16))
    return b.bitcast(b.add(b.bitcast(y, V16I), power), V16F)


WHOLE, WHOLE_BITS = 12582912.0, 0x4B400000  # 1.5 * 2^23: a number added to it is rounded to a whole one in its lowest bits


def emit_power(b: ir.IRBuilder, x: ir.Value, coefficients: Sequence[float]) -> ir.Value:
    """2^x for x where that is a normal number; 2^r, |r| <= 1/2, by a polynomial in fused steps."""

    def polynomial(r: ir.Value) -> ir.Value:
        p = _constant(coefficients[0])
        for coefficient in coefficients[1:]:
            p = emit_fma(b, p, r, _constant(coefficient))
        return p

    if not target().scales:
        shifted = b.fadd(x, _constant(WHOLE))
        p = polynomial(b.fsub(x, b.fsub(shifted, _constant(WHOLE))))
        power = b.shl(b.bitcast(shifted, V16I), ir.Constant(V16I, [23] * 16))  # WHOLE's own bits leave at the top
        return b.bitcast(b.add(b.bitcast(p, V16I), power), V16F)
    all_lanes, nearest, current = ir.Constant(I16, -1), ir.Constant(I32, 8), ir.Constant(I32, 4)
    reduce = declare(b, "llvm.x86.avx512.mask.reduce.ps.512", V16F, [V16F, I32, V16F, I16, I32])
    scale = declare(b, "llvm.x86.avx512.mask.scalef.ps.512", V16F, [V16F, V16F, V16F, I16, I32])
    r = b.call(reduce, [x, nearest, x, all_lanes, current])
    return b.call(scale, [polynomial(r), b.fsub(x, r), x, all_lanes, current])


maximum = binary(vec, vec, vec, _maximum)
hadamard = unary(vec, vec, _hadamard)
absolute = unary(vec, vec, _absolute)
nearest = unary(vec, vec, _rint)
exp = unary(vec, vec, _exp)
sum_lanes = unary(types.float32, vec, lambda b, x: _reduce(b, x, lambda b, x, y: b.fadd(x, y)))
max_lanes = unary(types.float32, vec, lambda b, x: _reduce(b, x, _maximum))
keep = quaternary(vec, (vec, types.int64, types.int64, types.float32), _keep)

# *** threads ***

FUTEX_WAIT, FUTEX_WAKE = 128, 129  # Linux: operations with the private flag


def _futex(b: ir.IRBuilder, word: ir.Value, operation: int, value: ir.Value) -> ir.Value:
    null = ir.Constant(I64, 0)
    arguments = [ir.Constant(I64, target().futex), word, ir.Constant(I64, operation), value, null, null, null]
    return b.call(declare(b, "syscall", I64, [I64], variadic=True), arguments)


def _call_kernel(b: ir.IRBuilder, function: ir.Value, op: ir.Value, step: ir.Value, thread: ir.Value) -> ir.Value:
    kind = ir.FunctionType(ir.VoidType(), [I64] * 3)
    return b.call(b.inttoptr(function, ir.PointerType(kind)), [op, step, thread])


def _pause(b: ir.IRBuilder) -> ir.Value:
    name, argument = target().pause
    arguments = [] if argument is None else [ir.Constant(I32, argument)]
    return b.call(declare(b, name, ir.VoidType(), [a.type for a in arguments]), arguments)


def _prefetch(b: ir.IRBuilder, a: ir.Value) -> ir.Value:
    """Ask for a line to be read, into the second-level cache."""
    fetch = declare(b, "llvm.prefetch.p0", ir.VoidType(), [ir.PointerType(I8), I32, I32, I32])
    return b.call(fetch, [at(b, a, I8), *(ir.Constant(I32, x) for x in (0, 2, 1))])


prefetch = unary(types.void, address, _prefetch)
fetch_add = binary(types.int64, address, types.int64, lambda b, a, v: b.atomic_rmw("add", at(b, a, I64), v, "seq_cst"))
load_acquire = unary(types.int64, address, lambda b, a: b.load_atomic(at(b, a, I64), ordering="seq_cst", align=8))
pause = nullary(types.void, _pause)
yield_core = nullary(types.void, lambda b: b.call(declare(b, "sched_yield", I32, []), []))
futex_wait = binary(types.int64, address, types.int64, lambda b, a, v: _futex(b, a, FUTEX_WAIT, v))
futex_wake = binary(types.int64, address, types.int64, lambda b, a, v: _futex(b, a, FUTEX_WAKE, v))
call_kernel = quaternary(types.void, (types.int64,) * 4, _call_kernel)
