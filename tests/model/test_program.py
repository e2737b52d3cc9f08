"""The whole forward pass: against the definition and the twins, and the equalities that the engine builds on."""

from __future__ import annotations

import ctypes
import time
from dataclasses import replace

import numpy as np
import programs
import pytest
from programs import MakeProgram

from senryu.kernels import reference
from senryu.kernels.layout import COUNTER, FUNCTION, GROUP, Operation
from senryu.kernels.pack import Format, narrow, widen
from senryu.model.layers import head_format
from senryu.model.program import Program
from senryu.model.quantize import quantize_groups, quantize_rows
from senryu.model.spec import ModelError, ModelSpec
from senryu.model.transformer import forward

FAMILIES = pytest.mark.parametrize("family", programs.SPECS)
TOKENS = 150  # three pages, past the windows


def setup(family: str) -> tuple[ModelSpec, object, np.ndarray]:
    spec = programs.SPECS[family]
    return spec, programs.weights(spec), programs.ids(TOKENS, spec.vocab)


def relative(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


@FAMILIES
def test_fp32_path_is_the_definition(make_program: MakeProgram, family: str) -> None:
    spec, weights, ids = setup(family)
    program = make_program(spec, weights, kernels="fp32")
    got = programs.logits_in_chunks(program, ids, 64, [5, 2, 9])
    want = forward(spec, weights, ids)
    np.testing.assert_allclose(got, want, atol=2e-4 * np.abs(want).max())


@FAMILIES
@pytest.mark.parametrize(("format", "most"), [("int8", 0.25), ("int4", 0.9), ("bf16", 0.03)])
def test_formats_stay_within_the_propagated_rounding_error(
    make_program: MakeProgram, family: str, format: Format, most: float
) -> None:
    """Bound: every matrix adds relative noise e = |y_format - y| / |y| = sqrt(ex^2 + ew^2), ex and ew being the relative
    rounding errors of its rows and weights, measured here on the fp32 activations. What lies between matrices (norm,
    softmax, gate, residual) passes relative noise on with a gain of at most 2 (a product of two noisy factors), and
    roundings of different matrices are independent: the logits' relative error is at most 2 * sqrt(sum over all matrices
    of e^2).
    """
    spec, weights, ids = setup(family)
    exact = make_program(spec, weights, kernels="fp32")
    square = 0.0
    step = _open_step(exact, ids)
    for op in exact._operations:
        reference.TWINS[op.kind](op, step)
        if op.kind == "gemm":
            x = op.a[: step[op.rows], : op.k]
            q, scale = reference.quantize(x)
            ex = 0.0 if format == "bf16" else relative((q.astype(np.float32) - 128) * scale[:, None], x)
            square += ex**2 + relative(rounded(op.w, head_format(format) if op.rows == "sampled" else format), op.w) ** 2
    bound = 2 * np.sqrt(square)
    assert bound < most
    got = programs.logits_in_chunks(make_program(spec, weights, format=format), ids, TOKENS, [5, 2, 9])
    assert 0 < relative(got, forward(spec, weights, ids)) < bound


def rounded(w: np.ndarray, format: Format | None) -> np.ndarray:
    """Weights as the format holds them."""
    if format == "bf16":
        return widen(narrow(w))
    if format == "int8":
        q, scale = quantize_rows(w)
        return q * scale[:, None]
    nibbles, half = quantize_groups(w)
    return (nibbles.astype(np.float32) - 8) * np.repeat(widen(half), GROUP, axis=1)[:, : w.shape[1]]


def _open_step(program: Program, ids: np.ndarray) -> reference.Step:
    """The step that program.step would hand to the twins."""
    batch = programs.batch((ids, 0, [5, 2, 9]), sample="all")
    program._grow_rope(len(ids))
    counts = {"rows": len(ids), "sequences": 1, "sampled": len(ids)}
    arrays = {name: getattr(batch, name) for name in batch.__dataclass_fields__}
    return {**counts, **arrays, "cos": program._rope[0], "sin": program._rope[1]}


@FAMILIES
def test_every_operation_equals_its_twin(make_program: MakeProgram, family: str) -> None:
    """In lockstep: before each operation the twin gets the compiled path's buffers, so only one operation's difference is seen.

    All are equal bit for bit but attention, which fuses multiply and add (see tests/kernels/test_attention.py).
    """
    spec, weights, ids = setup(family)
    fast, twin = make_program(spec, weights), make_program(spec, weights, kernels="numpy")
    fast.step(programs.batch((ids, 0, [5, 2, 9]), sample="all"))  # leaves a step's inputs in place
    step, team = _open_step(twin, ids), fast._team
    assert team is not None
    for record, a, b in zip(team._records, fast._operations, twin._operations):
        for name, array in _buffers(a).items():
            getattr(b, name)[...] = array
        record[COUNTER] = 0
        call = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 3)(int(record[FUNCTION]))
        call(record.ctypes.data, team._step.ctypes.data, 0)
        reference.TWINS[b.kind](b, step)
        for name, array in _buffers(a).items():
            if name in ("scratch", "partial", "weights", "histogram"):
                continue
            tolerance = 2e-5 if a.kind == "attend" else 0
            np.testing.assert_allclose(array, getattr(b, name), rtol=0, atol=tolerance, err_msg=f"{a.kind}.{name}")


def _buffers(op: Operation) -> dict[str, np.ndarray]:
    """What an operation may write."""
    names = (
        "x",
        "out",
        "out_scale",
        "out_sums",
        "a",
        "a_scale",
        "qkv",
        "pool",
        "logits",
        "scratch",
        "partial",
        "weights",
        "histogram",
    )
    return {name: op.values[name] for name in names if isinstance(op.values.get(name), np.ndarray)}


@pytest.mark.parametrize("family", ["llama", "cohere2"])
def test_twin_path_steps_and_agrees(make_program: MakeProgram, family: str) -> None:
    """The path for other CPUs, end to end: equal but where attention's last bits tip a rounding, and the same in any chunks."""
    spec, weights, ids = setup(family)
    twin = make_program(spec, weights, kernels="numpy")
    whole = programs.logits_in_chunks(twin, ids, TOKENS, [5, 2, 9])
    np.testing.assert_array_equal(programs.logits_in_chunks(twin, ids, 64, [1, 8, 3]), whole)
    fast = programs.logits_in_chunks(make_program(spec, weights), ids, TOKENS, [5, 2, 9])
    assert relative(whole, fast) < 0.02
    assert (whole.argmax(1) == fast.argmax(1)).mean() > 0.97


@pytest.mark.parametrize("family", ["qwen3", "cohere2"])
@pytest.mark.parametrize("chunk", [1, 7, 64, 200])
def test_chunks_change_no_bit(make_program: MakeProgram, family: str, chunk: int) -> None:
    spec = programs.SPECS[family]
    ids = programs.ids(230, spec.vocab)
    weights = programs.weights(spec)
    whole = programs.logits_in_chunks(make_program(spec, weights), ids, 230, [0, 1, 2, 3])
    cut = programs.logits_in_chunks(make_program(spec, weights), ids, chunk, [7, 3, 9, 0])
    np.testing.assert_array_equal(cut, whole)


def test_threads_change_no_bit(make_program: MakeProgram) -> None:
    """1,100 tokens: two segments, so that decode rows are split over K/V when there are threads to spare."""
    spec = programs.SPECS["cohere2"]
    weights, ids, pages = programs.weights(spec), programs.ids(1100, spec.vocab), list(range(18))
    results = []
    for threads in (1, 2, 3):
        program = make_program(spec, weights, pages=18, threads=threads, max_rows=1099)
        program.step(programs.batch((ids[:1099], 0, pages)))
        program.step(programs.batch((ids[1099:], 1099, pages)))
        results.append(program.logits[0].copy())
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


@FAMILIES
def test_neighbours_change_no_bit(make_program: MakeProgram, family: str) -> None:
    spec, weights, ids = setup(family)
    other = programs.ids(100, spec.vocab, seed=1)
    program = make_program(spec, weights)
    alone = programs.logits_in_chunks(program, ids, TOKENS, [5, 2, 9])
    program.step(programs.batch((other[:70], 0, [0, 1]), (ids[:90], 0, [3, 4]), (other[:9], 0, [6])))
    np.testing.assert_array_equal(program.logits[1], alone[89])
    program.step(programs.batch((ids[90:149], 90, [3, 4, 7]), (other[70:71], 70, [0, 1])))
    program.step(programs.batch((other[71:], 71, [0, 1]), (ids[149:], 149, [3, 4, 7]), (other[9:10], 9, [6])))
    np.testing.assert_array_equal(program.logits[1], alone[149])


def test_sampling_depends_on_the_request_alone(make_program: MakeProgram) -> None:
    spec, weights, ids = setup("llama")
    program = make_program(spec, weights)
    how = {"temperature": 1.5, "top_k": 50, "top_p": 0.95, "seeds": 11}
    alone = program.step(programs.batch((ids[:30], 0, [0]), **how))
    beside = program.step(programs.batch((ids[:40], 0, [1]), (ids[:30], 0, [2]), **how))
    assert beside.dtype == np.int32
    assert beside[1] == alone[0]
    drawn = {int(program.step(programs.batch((ids[:30], 0, [0]), **(how | {"seeds": s})))[0]) for s in range(20)}
    assert len(drawn) > 3
    assert program.step(programs.batch((ids[:30], 0, [0]), temperature=0.0))[0] == program.logits[0].argmax()


def test_a_step_may_sample_nothing(make_program: MakeProgram) -> None:
    spec, weights, ids = setup("qwen2")
    program = make_program(spec, weights)
    want = programs.logits_in_chunks(program, ids[:20], 20, [1])[19]
    silent = programs.batch((ids[:19], 0, [0]))
    for name in ("sample_rows", "temperature", "top_p", "top_k", "seeds"):
        setattr(silent, name, getattr(silent, name)[:0])
    assert len(program.step(silent)) == 0
    program.step(programs.batch((ids[19:20], 19, [0])))
    np.testing.assert_array_equal(program.logits[0], want)


def test_idle_workers_sleep(make_program: MakeProgram) -> None:
    """After a step every worker reaches the futex: its word counts the sleepers."""
    spec, weights, ids = setup("llama")
    program = make_program(spec, weights, threads=3)
    program.step(programs.batch((ids[:5], 0, [0])))
    assert program._team is not None
    deadline = time.monotonic() + 30  # on a busy machine a worker may have to wait for a core first
    while program._team._sync[8] != 2 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert program._team._sync[8] == 2
    first = program.logits[0].copy()
    program.step(programs.batch((ids[:5], 0, [1])))  # and they wake again
    np.testing.assert_array_equal(program.logits[0], first)


def test_refusals(make_program: MakeProgram) -> None:
    spec, weights, ids = setup("llama")
    with pytest.raises(ValueError, match="avx512"):
        Program(spec, weights, pages=1, kernels="cuda")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="int8, int4, bf16"):
        Program(spec, weights, pages=1, kernels="numpy", format="int5")  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="not in int4"):
        Program(spec, weights, pages=1, kernels="fp32", format="int4")
    with pytest.raises(ValueError, match="at least 1"):
        Program(spec, weights, pages=0)
    odd = ModelSpec(family="llama", **(programs.PLAIN | {"ffn": 100}))
    with pytest.raises(ModelError, match="ffn is 100"):
        Program(odd, programs.weights(odd), pages=1, kernels="numpy")
    program = make_program(spec, weights, max_rows=8)
    with pytest.raises(ValueError, match="8 fit in a step"):
        program.step(programs.batch((ids[:9], 0, [0])))
    with pytest.raises(ValueError, match="page_table"):
        program.step(programs.batch((ids[:3], 0, [12])))
    program.close()
    program.close()
    with pytest.raises(RuntimeError, match="closed"):
        program.step(programs.batch((ids[:3], 0, [0])))


def test_sizes_of_the_pool() -> None:
    spec = programs.SPECS["llama"]
    assert Program.page_bytes(spec, "float32") == 3 * 2 * 2 * 32 * 64 * 4
    assert Program.page_bytes(spec, "int8") == 3 * 2 * (2 * 32 * 64 + 2 * 64 * 4)


@pytest.mark.parametrize("kv", ["int8", "float32"])
def test_pages_can_be_read_copied_and_put_back(make_program: MakeProgram, kv: str) -> None:
    """K/V in another page, of another program with the same weights, gives the logits that it gave where it was computed."""
    spec, weights, ids = setup("qwen3")
    first, second = (make_program(spec, weights, kernels="numpy", kv=kv) for _ in range(2))
    want = programs.logits_in_chunks(first, ids, 64, [5, 2, 9])[128:]
    for page, target in ((5, 1), (2, 3)):
        content = first.read_page(page)
        assert len(content) == Program.page_bytes(spec, kv)
        second.write_page(target, memoryview(content))
        assert second.read_page(target) == content
    second.copy_page(1, 7)
    second.write_page(1, bytes(len(content)))
    second.step(programs.batch((ids[128:], 128, [7, 3, 0]), sample="all"))
    np.testing.assert_allclose(second.logits[: len(want)], want, rtol=1e-4, atol=1e-4 * np.abs(want).max())
    with pytest.raises(ValueError, match=r"reshape|size"):
        second.write_page(0, content[:-4])


def test_pages_are_named_after_all_that_they_depend_on(make_program: MakeProgram) -> None:
    spec, weights, _ = setup("qwen3")
    one = make_program(spec, weights, kernels="numpy", kv="int8")
    same = make_program(spec, weights, kernels="numpy", kv="int8", pages=20, max_rows=64)
    others = [
        make_program(spec, weights, kernels="numpy", kv="float32"),
        make_program(spec, weights, kernels="fp32", kv="float32"),
        make_program(spec, weights, kernels="numpy", kv="int8", format="bf16"),
        make_program(spec, programs.weights(spec, 5), kernels="numpy", kv="int8"),
    ]
    assert one.fingerprint == same.fingerprint
    assert len({program.fingerprint for program in (one, *others)}) == 5


def test_the_last_parallel_layer_has_room_for_whole_panels(make_program: MakeProgram) -> None:
    """There gate and up are a matrix of their own behind q, k and v, whose width is no whole number of panels here."""
    spec = replace(programs.SPECS["cohere2"], heads=3, kv_heads=1, head_dim=16, ffn=80)
    weights, ids = programs.weights(spec), programs.ids(40, spec.vocab)
    exact = programs.logits_in_chunks(make_program(spec, weights, kernels="numpy", max_rows=40), ids, 40, [0])
    program = make_program(spec, weights, max_rows=40)
    assert program._buffers.projected.shape[1] - program._buffers.qkv_width >= 192
    np.testing.assert_allclose(programs.logits_in_chunks(program, ids, 40, [0]), exact, atol=1e-3 * np.abs(exact).max())
