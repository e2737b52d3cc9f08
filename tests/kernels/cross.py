"""`python cross.py TRIPLE CPU FEATURES`: the kernels as assembly of another machine.

Prints JSON: kernel -> [dot instructions, accesses of the stack] of each of its inner loops that dot, and "gemm tiles" -> the
same of loops that dot in AMX's tiles. Numba compiles for the
machine it runs on, so what it would emit there is taken as LLVM IR before that and given to the other back end. Run in a
process of its own: the target is chosen once.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from types import FunctionType
from typing import Any

import numba
from llvmlite import binding
from numba.core import compiler, cpu
from numba.core.codegen import JITCPUCodegen
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import cpu_target

from senryu.kernels import build, target

DOT = {"aarch64": "sdot", "x86_64": "vpdpbusd"}
TILE_DOT = "tdpbusd"
STACK = {"aarch64": "[sp", "x86_64": "(%rsp"}


def assembly(function: FunctionType, arguments: int, machine: Any) -> str:
    flags = compiler.Flags()
    flags.no_compile, flags.error_model = True, "numpy"
    context = cpu_target.target_context
    signature = [numba.types.int64] * arguments
    result = compiler.compile_extra(cpu_target.typing_context, context, function, signature, numba.types.void, flags, {})
    with global_compiler_lock:
        result.library.finalize()  # links what the kernel calls
    lines = [line for line in result.library.get_llvm_str().splitlines() if not line.startswith("target ")]
    module = binding.parse_assembly("\n".join(lines))
    module.triple, module.data_layout = machine.triple, str(machine.target_data)
    module.verify()
    return machine.emit_assembly(module)


def loops(text: str, dot: str, stack: str) -> list[tuple[int, int]]:
    """(dots, accesses of the stack) of each loop of one block that dots."""
    parts = re.split(r"^(\.LBB\w+):", text, flags=re.MULTILINE)
    found = []
    for label, body in zip(parts[1::2], parts[2::2]):
        branch = re.search(rf"\t(?:b\.|j)\w+\t{re.escape(label)}\b", body)
        loop = body[: branch.start()] if branch else ""
        if dot in loop:
            found.append((loop.count(dot), loop.count(stack)))
    return found


def main(triple: str, name: str, features: str) -> None:
    numba.config.CPU_NAME, numba.config.CPU_FEATURES = name, features
    # nothing is emitted for this machine, whose back end may not know the other's instructions
    cpu.CPUContext.get_executable = lambda *_: [].append  # type: ignore[method-assign,assignment]  # a distinct builtin
    JITCPUCodegen._add_module = lambda self, module: None
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    machine = binding.Target.from_triple(triple).create_target_machine(cpu=name, features=features, opt=3)
    found: dict[str, list[tuple[int, int]]] = {}
    target.tiles_permitted = lambda: True  # there, not here
    arch = triple.split("-")[0]
    for module in (importlib.import_module(f"senryu.kernels.{m}") for m in build.MODULES):
        for kernel, function in (module.KERNELS | getattr(module, "ENTRIES", {})).items():
            text = assembly(function, 6 if kernel in getattr(module, "ENTRIES", {}) else 3, machine)
            found[kernel] = loops(text, DOT[arch], STACK[arch])
            found[f"{kernel} tiles"] = loops(text, TILE_DOT, STACK[arch])
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
