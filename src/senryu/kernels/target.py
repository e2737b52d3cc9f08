"""Which instruction set the kernels are generated for. One per process: kernels are generated when their modules are imported.

Every set computes the same bits: dots are exact in int32, and a `simd.F32x16` is sixteen lanes everywhere, held in one, two or
four registers. Only tile shapes and the dot instruction differ. AMX is AVX-512 and tiles for blocks of many rows (`amx.py`).
"""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass, replace
from functools import cache
from typing import Any


@dataclass(frozen=True, slots=True)
class Isa:
    """An instruction set and the tiles that its registers hold.

    dot: the instruction behind `simd.emit_dot`. blocks[rows]: how many 16-column blocks of a matrix tile with that many rows
    stay in registers. int4_rows: the most rows of an int4 tile, whose nibbles need registers too. float_blocks: the same as
    blocks for attention's tiles of four rows. prefetch: how many bytes ahead of itself a read of weights asks for more, or 0.
    scales: whether powers of 2 have instructions (vreduceps, vscalefps). tiles: whether AMX is there too, which needs the
    system's permission beside the CPU's features.
    """

    name: str
    needs: tuple[str, ...]  # LLVM's names of CPU features
    dot: str
    blocks: dict[int, int]
    int4_rows: int
    float_blocks: int
    prefetch: int
    futex: int  # Linux' number of that system call
    pause: tuple[str, int | None]  # LLVM's name of the spin-wait hint, and its argument
    scales: bool = False
    tiles: bool = False

    @property
    def rows(self) -> int:
        """The most rows of a matrix tile."""
        return max(self.blocks)


X86_PAUSE, ARM_YIELD = ("llvm.x86.sse2.pause", None), ("llvm.aarch64.hint", 1)
# AVX-512: 32 registers hold 6 x 64 sums (24), 4 lines of weights and an activation. 16 registers of half the width hold 4 x 16
# (8) beside the steps of a product, or 6 x 16 (12) where one instruction does the dot. NEON's 32 hold 6 x 16 (24).
AVX512 = Isa(
    "avx512",
    ("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vnni"),
    "vnni512",
    dict.fromkeys(range(1, 7), 4),
    5,
    4,
    0,
    202,
    X86_PAUSE,
    scales=True,
)
AMX = replace(AVX512, name="amx", needs=(*AVX512.needs, "amx-tile", "amx-int8"), tiles=True)
AVXVNNI = Isa(
    "avxvnni", ("avx2", "fma", "avxvnni"), "vnni256", {1: 4, 2: 2, 3: 1, 4: 1, 5: 1, 6: 1}, 4, 1, 2048, 202, X86_PAUSE
)
AVX2 = Isa("avx2", ("avx2", "fma"), "maddubs", {1: 4, 2: 2, 3: 1, 4: 1}, 4, 1, 2048, 202, X86_PAUSE)
NEON = Isa("neon", ("neon", "dotprod"), "sdot", {1: 4, 2: 2, 3: 1, 4: 1, 5: 1, 6: 1}, 4, 1, 0, 98, ARM_YIELD)
ISAS = {isa.name: isa for isa in (AMX, AVX512, AVXVNNI, AVX2, NEON)}  # best first


def cpu_features() -> dict[str, bool]:
    """LLVM's features of the CPU that Numba compiles for: the host, or what NUMBA_CPU_FEATURES makes of it."""
    import numba
    from llvmlite import binding

    config: Any = numba.config
    if config.CPU_FEATURES is not None:
        return {name[1:]: name[0] == "+" for name in config.CPU_FEATURES.split(",") if name}
    return dict(binding.get_host_cpu_features())


@cache
def tiles_permitted() -> bool:
    """Ask Linux, once, that this process may use AMX's tile registers: they make the state of a thread that uses them 8 KB
    larger. Threads that are there already are permitted too."""
    if sys.platform != "linux":
        return False
    arch_prctl, request, tile_data = 158, 0x1023, 18  # the system call, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return ctypes.CDLL(None, use_errno=True).syscall(arch_prctl, request, tile_data) == 0


def supported() -> list[Isa]:
    """The sets that run here, best first."""
    return [isa for isa in ISAS.values() if not _lacks(isa)]


@cache
def target() -> Isa:
    """The set that this process generates kernels for: the best one, unless `narrow` was called first.

    Raises RuntimeError when none runs here.
    """
    found = supported()
    if not found:
        raise RuntimeError('this CPU has none of AVX-512 VNNI, AVX2 with FMA, or NEON dot product: use kernels="numpy"')
    return found[0]


def narrow(name: str) -> Isa:
    """Make `name` the target by hiding better sets from Numba, whose code then fits any CPU with `name`.

    Raises RuntimeError when it does not run here, or when this process has generated kernels for another set.
    """
    import numba

    config: Any = numba.config
    isa = ISAS[name]
    if isa not in supported():
        raise RuntimeError(f"this CPU cannot run {name} kernels: it lacks {', '.join(_lacks(isa))}")
    if not target.cache_info().currsize and isa is not supported()[0]:
        features = {feature: on and not _hidden(feature, isa) for feature, on in cpu_features().items()}
        config.CPU_FEATURES = ",".join(("+" if on else "-") + feature for feature, on in sorted(features.items()))
    if target() is not isa:
        raise RuntimeError(f"this process runs {target().name} kernels already: another set needs a process of its own")
    return isa


def _hidden(feature: str, isa: Isa) -> bool:
    """Whether only sets that are better than `isa` have that feature."""
    if feature in isa.needs:
        return False
    better = list(ISAS.values())[: list(ISAS).index(isa.name)]
    families = [family for family in ("avx512", "amx") if not any(need.startswith(family) for need in isa.needs)]
    return feature.startswith(tuple(families)) or any(feature in other.needs for other in better)


def _lacks(isa: Isa) -> list[str]:
    """What stops `isa` here: features of the CPU, or the system."""
    have = cpu_features()
    missing = [name for name in isa.needs if not have.get(name)]
    return missing or (["the system's permission to use tiles"] if isa.tiles and not tiles_permitted() else [])
