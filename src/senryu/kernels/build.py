"""Compiling, caching and loading the kernels: the one place that starts Numba.

Cache files are pickles, so they are code: they lie in a private directory whose name is a hash of every kernel source, the
Numba version and the CPU. Numba itself does not notice changes in imported files; the hash does.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from senryu import caches
from senryu.kernels.target import ISAS, cpu_features, narrow, supported, target

Progress = Callable[[str, int, int], None]
OF_INTEREST = (*dict.fromkeys(name for isa in ISAS.values() for name in isa.needs), "avx512bf16", "amx-bf16", "i8mm")
MODULES = ("attention", "fused", "gemm", "gemm_amx", "sample", "forward")  # a later one's kernel takes an earlier one's place


@dataclass(slots=True)
class Kernels:
    """The compiled kernels: entry points to call through ctypes (which releases the GIL) and addresses for the records."""

    isa: str  # the instruction set
    entries: dict[str, Any]
    addresses: dict[str, int]
    directory: Path
    compiled: int  # how many were compiled now; the rest came from the cache
    seconds: float
    keep: list[Any] = field(repr=False, default_factory=list)


def features() -> list[str]:
    """The CPU features that matter to us, of those this machine has."""
    have = cpu_features()
    return [name for name in OF_INTEREST if have.get(name)]


def available() -> list[str]:
    """Kernel paths that run here, best first: instruction sets, then numpy."""
    return [*([isa.name for isa in supported()] if sys.platform == "linux" else []), "numpy", "fp32"]


@cache
def _fingerprint() -> str:
    """Sources, Numba, CPU and the sets that run on it in one name."""
    import numba
    from llvmlite import binding

    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    host = [numba.__version__, sys.version, binding.get_host_cpu_name(), str(sorted(cpu_features().items()))]
    host += [isa.name for isa in supported()]  # the system may refuse what the CPU has
    digest.update("\0".join(host).encode())
    return digest.hexdigest()[:16]


def cache_directory(root: Path) -> Path:
    """Where under `root` this machine's compiled kernels lie. Not created."""
    return Path(root) / _fingerprint()


_loaded: list[Kernels] = []  # compiled code lives as long as the process; a second load returns the first


def load(cache_dir: Path, progress: Progress | None = None, path: str | None = None) -> Kernels:
    """The kernels of the instruction set `path` (by default the best), from the cache below `cache_dir` or compiled now, which
    takes under a minute and calls `progress(name, index, total)`.

    Progress is called only when something is compiled; the last call has index == total. Raises RuntimeError where that set
    does not run or this process runs another, PermissionError when others own, or can write to, the cache directory.
    """
    if sys.platform != "linux":
        raise RuntimeError('compiled kernels need Linux: use kernels="numpy"')
    isa = narrow(path) if path else target()
    if _loaded:
        return _loaded[0]
    directory = cache_directory(cache_dir)
    _secure(directory)
    caches.use(directory)
    import numba

    config: Any = numba.config
    previous, config.CACHE_DIR = config.CACHE_DIR, str(directory)
    try:
        _loaded.append(_compile(isa.name, directory, progress))
    finally:
        config.CACHE_DIR = previous
    return _loaded[0]


def _secure(directory: Path) -> None:
    """Create the directory for this user alone, or refuse one that others could have written to."""
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    state = directory.stat()
    if state.st_uid != os.getuid() or state.st_mode & 0o022:
        raise PermissionError(
            f"kernel cache {directory} belongs to another user or is writable by others, and its files are code: "
            "remove it, or choose another SENRYU_HOME"
        )


def _cache_class() -> Any:
    """Numba's cache, but what is found in it is loaded without first importing and registering all that Numba could compile,
    which takes as long as the loading. Cached code needs Numba's runtime alone, which it is linked with."""
    from numba.core.caching import FunctionCache
    from numba.core.runtime.nrt import rtsys

    class Cache(FunctionCache):
        def load_overload(self, sig: Any, target_context: Any) -> Any:
            rtsys.initialize(target_context)
            found = self._load_overload(sig, target_context)
            return super().load_overload(sig, target_context) if found is None else found

    return Cache


def _compile(isa: str, directory: Path, progress: Progress | None) -> Kernels:
    """Every kernel as a C function with its own cache entry: small units, none compiled twice."""
    from numba import types
    from numba.core.ccallback import CFunc

    cache_class = _cache_class()
    start = time.perf_counter()
    modules = [importlib.import_module(f"senryu.kernels.{name}") for name in MODULES]
    functions = {name: function for module in modules for name, function in module.KERNELS.items()}
    entries = modules[-1].ENTRIES
    options: dict[str, Any] = {"boundscheck": False, "error_model": "numpy"}
    result = Kernels(isa, {}, {}, directory, 0, 0.0)
    total = len(functions) + len(entries)
    cold = sum(1 for _ in directory.rglob("*.nbc")) < total
    for index, (name, function) in enumerate({**functions, **entries}.items()):
        if progress and cold:
            progress(name, index, total)
        arguments = 6 if name in entries else 3
        compiled: Any = CFunc(function, ((types.int64,) * arguments, types.void), {}, options)  # as numba.cfunc does
        compiled._cache = cache_class(function)
        compiled.compile()
        result.keep.append(compiled)
        result.compiled += int(not compiled.cache_hits)
        if name in entries:
            result.entries[name] = compiled.ctypes
        else:
            result.addresses[name] = int(compiled.address or 0)
    result.seconds = time.perf_counter() - start
    if progress and cold:
        progress("done", total, total)
    return result
