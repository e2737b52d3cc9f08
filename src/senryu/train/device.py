"""Where and in which number format a stage computes: chosen once, passed on."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor

from senryu.train.recipe import RecipeError

SIZE, ROUNDS = 512, 5


@dataclass(frozen=True)
class Device:
    """The processor of a stage. By itself the plain reference: float32 on the CPU, nothing compiled."""

    name: str = "cpu"  # as torch calls it: cpu, cuda, cuda:1
    dtype: torch.dtype = torch.float32  # of matrix products; weights, their gradients and optimiser states are float32
    compile: bool = False

    @property
    def kind(self) -> str:
        return torch.device(self.name).type

    def autocast(self) -> AbstractContextManager[None]:
        """Inside it, matrix products run in `dtype`."""
        return torch.autocast(self.kind, dtype=self.dtype, enabled=self.dtype is not torch.float32)

    def put(self, batch: list[Tensor]) -> list[Tensor]:
        """CPU tensors on the device. To CUDA they go through pinned memory, while the GPU still computes."""
        if self.kind == "cpu":
            return batch
        return [tensor.pin_memory().to(self.name, non_blocking=True) for tensor in batch]

    def synchronise(self) -> None:
        """Wait until all that was asked of the device is done: before reading a clock."""
        if self.kind == "cuda":
            torch.cuda.synchronize(self.name)


PLAIN = Device()


def choose_device(name: str = "auto", *, compile: bool = True) -> Device:
    """The device called `name`, or with `auto` a GPU where there is one; its number format by what is fast on it.

    bfloat16 needs no scaling of gradients, so it is the only half-precision format here. Raises RecipeError for a device
    that this machine or this build of torch does not have.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cpu":
        return Device(name, min((torch.bfloat16, torch.float32), key=_seconds), compile)
    if not name.startswith("cuda"):
        raise RecipeError(f"device `{name}` is unknown; use auto, cpu, cuda or cuda:N")
    if not torch.cuda.is_available():
        raise RecipeError(f"torch {torch.__version__} finds no CUDA device; use cpu, or install a build of torch for your GPU")
    index, count = torch.device(name).index or 0, torch.cuda.device_count()
    if index >= count:
        raise RecipeError(
            f"device `{name}` is not there: this machine has {count} CUDA devices; use cuda:0 to cuda:{count - 1}"
        )
    native = torch.cuda.is_bf16_supported(including_emulation=False)
    return Device(name, torch.bfloat16 if native else torch.float32, compile)


def _seconds(dtype: torch.dtype) -> float:
    """Of one product on this CPU. One without bfloat16 arithmetic emulates it, tens of times slower than float32."""
    a = torch.ones(SIZE, SIZE, dtype=dtype)
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        a @ a
        times.append(time.perf_counter() - start)
    return median(times)
