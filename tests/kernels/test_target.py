"""One generator, several instruction sets: which is chosen, equal bits from narrower sets, Arm code as we mean it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from test_attention import digest

from senryu import kernels
from senryu.kernels import target

HERE = Path(__file__).parent
AMX = "+avx2,+fma,+avx512f,+avx512bw,+avx512dq,+avx512vl,+avx512vnni,+amx-tile,+amx-int8"
NARROW = """
import sys
from pathlib import Path
import numpy as np
import test_attention, test_formats, test_gemm
from senryu import kernels
from senryu.kernels import target

compiled = kernels.load(Path(sys.argv[1]), path=sys.argv[2])
assert compiled.isa == sys.argv[2]
for rows in (1, 2, 3, 4, 5, 6, 13, 50, 65):
    test_gemm.test_equals_its_twin_bit_for_bit(compiled, rows, 144, 100, 0)
    test_formats.test_compiled_int4_equals_its_twin_bit_for_bit(compiled, rows, 100, 144, 0)
test_gemm.test_integers_are_exact_at_the_extremes(compiled)
test_attention.test_int8_is_close_to_its_twin(compiled, [(0, 130), (200, 70)], 7, 1, 80, 0)
test_attention.test_close_to_its_twin(compiled, [(0, 130), (200, 70)], 7, 1, 80, 0)
assert target.supported()[0].name == compiled.isa  # better ones are hidden from Numba too
print(test_attention.digest(compiled))
"""


def run(*arguments: str) -> str:
    """The output of a Python process of its own: a process generates kernels for one set."""
    done = subprocess.run([sys.executable, *arguments], cwd=HERE, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_the_best_set_is_chosen_by_the_features_that_numba_compiles_for(monkeypatch: pytest.MonkeyPatch) -> None:
    import numba

    monkeypatch.setattr(target, "tiles_permitted", lambda: True)
    for features, names in [
        ("+avx2,+fma,-avx512f", ["avx2"]),
        ("+avx2,+fma,+avxvnni", ["avxvnni", "avx2"]),
        ("+avx2,+fma,+avx512f,+avx512bw,+avx512dq,+avx512vl,+avx512vnni", ["avx512", "avx2"]),
        ("+avx2,+fma,+avx512f,+avx512bw,+avx512dq,+avx512vl,+avx512vnni,+amx-tile", ["avx512", "avx2"]),
        (AMX, ["amx", "avx512", "avx2"]),
        ("+avx2,-fma", []),
        ("+neon,+dotprod", ["neon"]),
    ]:
        monkeypatch.setattr(numba.config, "CPU_FEATURES", features)
        assert [isa.name for isa in target.supported()] == names


def test_tiles_need_the_systems_permission(monkeypatch: pytest.MonkeyPatch) -> None:
    import numba

    monkeypatch.setattr(numba.config, "CPU_FEATURES", AMX)
    monkeypatch.setattr(target, "tiles_permitted", lambda: False)
    assert [isa.name for isa in target.supported()] == ["avx512", "avx2"]
    with pytest.raises(RuntimeError, match="cannot run amx kernels: it lacks the system's permission to use tiles"):
        target.narrow("amx")


def test_a_set_that_does_not_run_here_is_refused_by_name() -> None:
    missing = next(name for name in target.ISAS if name not in kernels.available())
    with pytest.raises(RuntimeError, match=f"cannot run {missing} kernels: it lacks "):
        target.narrow(missing)


def test_one_process_runs_one_set(compiled_kernels: kernels.Kernels, tmp_path: Path) -> None:
    others = [name for name in kernels.available() if name in target.ISAS and name != compiled_kernels.isa]
    for name in others:
        with pytest.raises(RuntimeError, match="another set needs a process of its own"):
            kernels.load(tmp_path, path=name)


@pytest.mark.parametrize("name", [n for n in kernels.available()[1:] if n in target.ISAS])
def test_a_narrower_set_gives_the_same_bits(
    compiled_kernels: kernels.Kernels, name: str, request: pytest.FixtureRequest
) -> None:
    printed = run("-c", NARROW, str(request.config.cache.mkdir("kernels")), name)
    assert printed.strip() == digest(compiled_kernels)


@pytest.mark.skipif("avx2" not in kernels.available(), reason="the emulation takes AVX2 for everything but the dot")
@pytest.mark.parametrize("name", ["amx", "avx512", "avxvnni"])
def test_unsigned_dots_give_the_same_results(
    compiled_kernels: kernels.Kernels, name: str, request: pytest.FixtureRequest
) -> None:
    """Tiles and start values of the sets whose dot takes value + 128, checked where they cannot run."""
    folder = request.config.cache.mkdir(f"emulated-{name}")  # apart: their names are those of real ones
    assert run("emulated.py", name, str(folder)).strip() == digest(compiled_kernels)


ZEN4 = "+avx,+avx2,+fma,+f16c,+bmi,+bmi2,+avx512f,+avx512bw,+avx512vl,+avx512dq,+avx512cd,+avx512vnni,+avx512vbmi"
MACHINES = {
    "neon": ("aarch64-unknown-linux-gnu", "generic", "+neon,+dotprod"),
    "avx512": ("x86_64-unknown-linux-gnu", "znver4", ZEN4),
    "amx": ("x86_64-unknown-linux-gnu", "sapphirerapids", ZEN4 + ",+amx-tile,+amx-int8"),
}


@pytest.mark.parametrize("name", MACHINES)
def test_code_for_other_machines_is_generated_and_its_sums_stay_in_registers(name: str) -> None:
    """Compiled and inspected, not run: no loop of an int8 tile, and none of attention's, touches the stack.

    NEON's dots are of four sums, so its tiles of 6 x 16 are loops of 24, as AVX-512's of 6 x 64 are.
    """
    loops = json.loads(run("cross.py", *MACHINES[name]))
    assert {dots for dots, _ in loops["gemm tiles"]} == ({4} if name == "amx" else set())
    assert {"gemm", "attend", "rope", "sample", "step"} <= loops.keys()
    assert 24 in [dots for dots, _ in loops["gemm"]]
    assert not any(stack for dots, stack in loops["gemm"] if dots <= 24)
    assert loops["attend"]
    assert not any(stack for _, stack in loops["attend"])
