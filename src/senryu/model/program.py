"""A model ready to run: spec + packed weights become the list of operations that the kernels walk, over one pool of K/V pages.

The list is the same for compiled kernels, for their numpy twins and for the fp32 reference; only formats and runner differ.
"""

from __future__ import annotations

import hashlib
import os
import threading
import weakref
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from senryu import kernels as kernel_package
from senryu.kernels import reference
from senryu.kernels.batch import DTYPES, Batch
from senryu.kernels.layout import PAGE, STEP, SYNC_WORDS, Operation, aligned, encode, kv_bytes, records
from senryu.kernels.pack import FORMATS, Format
from senryu.model.layers import Buffers, build_operations
from senryu.model.packed import PackedWeights, cache_file
from senryu.model.rope import rope_table
from senryu.model.spec import ModelError, ModelSpec
from senryu.model.transformer import Float32Weights

KernelPath = Literal["auto", "amx", "avx512", "avxvnni", "avx2", "neon", "numpy", "fp32"]
KV_FORMATS = ("int8", "float32")


class Program:
    """A model ready to run on this CPU: packed weights, K/V page pool, thread team. One step at a time.

    Not thread-safe: one caller. Results of a row are bit-identical whatever else is in the batch, however a prompt is cut
    into steps and however many threads run (compiled kernels; the numpy paths hold to that but for the last bits of BLAS).
    """

    page_size = PAGE
    DRAFTED = 16  # rows of a step that can be sampled beside one for each sequence: those that verify drafts

    def __init__(
        self,
        spec: ModelSpec,
        weights: Float32Weights,
        *,
        pages: int,
        max_rows: int = 512,
        max_sequences: int = 64,
        threads: int | None = None,
        kernels: KernelPath = "auto",
        format: Format = "int8",
        kv: str = "float32",
        cache_dir: Path | None = None,
        weights_dir: Path | None = None,
        spare: int = 0,
        progress: kernel_package.Progress | None = None,
    ) -> None:
        """Quantise and pack the weights; with compiled kernels, load or compile them first and start the team.

        pages: K/V pages of 64 tokens in the pool. max_rows, max_sequences: the most one step may carry. threads: the
        usable cores unless given. format: of the packed weights; kernels="fp32" reads them as they are and takes no other.
        kv: the format of K/V, see `choose_kv`. cache_dir: where compiled kernels are kept (default ~/.senryu/cache/kernels).
        weights_dir: where packed weights are kept; without it they are packed at every start. spare: bytes that they may take
        in memory of their own, which kernels read faster than a mapped file, a twentieth in decode.
        Raises ModelError when the sizes do not suit the packed formats, ValueError for other arguments out of range.
        """
        self.spec, self.pages, self.max_rows, self.max_sequences = spec, pages, max_rows, max_sequences
        self.max_sampled = max_sequences + self.DRAFTED
        if min(pages, max_rows, max_sequences) < 1 or (threads is not None and threads < 1):
            raise ValueError("pages, max_rows, max_sequences and threads must be at least 1")
        self.kernels, self.format = choose_kernels(spec, kernels), choose_format(format, kernels)
        compiled = None
        if self.kernels not in ("numpy", "fp32"):
            root = cache_dir or Path.home() / ".senryu" / "cache" / "kernels"
            compiled = kernel_package.load(root, progress, self.kernels)
        self.threads = (threads or usable_cores()) if compiled else 1
        self.kv = choose_kv(kv, self.kernels)
        made_for = (weights.fingerprint, spec, self.kernels, self.format, self.kv, _sources(), np.__version__)
        self.fingerprint = repr(made_for)  # of K/V pages
        file = cache_file(weights_dir, spec, weights, self.format) if weights_dir and self.format else None
        packed = PackedWeights(weights, self.format, file, spare)
        sizes = pages, max_rows, max_sequences, self.max_sampled, self.threads
        self._buffers = Buffers(spec, *sizes, format=self.format, kv8=self.kv == "int8")
        self._operations = build_operations(spec, packed, self._buffers, self.threads, format=self.format)
        packed.keep()
        self.logits = self._buffers.logits[:, : spec.vocab]
        self._inputs = {name: self._input(name) for name in DTYPES}
        self._rope = (np.empty((0, spec.head_dim // 2), np.float32),) * 2
        self._team = _Team(compiled, self._operations, self._buffers, self._inputs, self.threads) if compiled else None
        self._closed = False

    def _input(self, name: str) -> np.ndarray:
        """The fixed place of one of the batch's arrays."""
        if name == "page_table":
            return np.zeros((self.max_sequences, self.pages), np.int32)
        size = {"tokens": self.max_rows, "positions": self.max_rows, "row_start": self.max_sequences + 1}
        return aligned((size.get(name, self.max_sampled),), DTYPES[name])

    def step(self, batch: Batch) -> np.ndarray:
        """Compute the batch's rows, write their K/V, and sample: int32 [sampled]. The GIL is released while compiled code runs.

        Afterwards `logits[i]` holds the logits of batch.sample_rows[i], -inf where a mask refuses, until the next step. Raises
        TypeError or ValueError for a batch that does not fit, before anything is written, and RuntimeError after close().
        """
        if self._closed:
            raise RuntimeError("this program is closed")
        limits = {"max_rows": self.max_rows, "max_sequences": self.max_sequences, "max_sampled": self.max_sampled}
        batch.check(vocab=self.spec.vocab, pages=self.pages, **limits)
        if batch.page_table.shape[1] * PAGE > len(self._rope[0]):
            self._grow_rope(int(batch.positions.max()) + 1)
        rows, sequences, sampled = len(batch.tokens), len(batch.row_start) - 1, len(batch.sample_rows)
        if self._team:
            for name, place in self._inputs.items():
                array = getattr(batch, name)
                if array.ndim == 2:  # a table may be wider than any sequence needs
                    width = min(array.shape[1], place.shape[1])
                    place[: len(array), :width] = array[:, :width]
                else:
                    place[: len(array)] = array
            self._team.run((rows, sequences, sampled), self._rope, batch.masks, batch.masks_ready)
        else:
            step: reference.Step = {name: getattr(batch, name) for name in DTYPES}
            step |= {"rows": rows, "sequences": sequences, "sampled": sampled, "cos": self._rope[0], "sin": self._rope[1]}
            step |= {"masks": batch.masks, "masks_ready": batch.masks_ready}
            reference.run(self._operations, step)
        return self._buffers.sampled[:sampled].copy()

    def _grow_rope(self, positions: int) -> None:
        """Tables for all positions so far, doubled when outgrown: a long context pays for itself only when it comes."""
        have = len(self._rope[0])
        if positions > have:
            more = rope_table(self.spec, np.arange(have, max(positions, 2 * have, 1024)))
            cos, sin = (np.concatenate(pair) for pair in zip(self._rope, more))
            self._rope = cos, sin

    def copy_page(self, source: int, target: int) -> None:
        """K/V of page `target` becomes that of page `source`."""
        self._buffers.pool[:, target] = self._buffers.pool[:, source]

    def read_page(self, page: int) -> bytes:
        """A copy of the page's K/V: `page_bytes` bytes, layer after layer."""
        return self._buffers.pool[:, page].tobytes()

    def write_page(self, page: int, content: bytes | memoryview) -> None:
        """Put back what `read_page` of any page gave, under the same `fingerprint`. Raises ValueError for another length."""
        place = self._buffers.pool[:, page]
        place[...] = np.frombuffer(content, place.dtype).reshape(place.shape)

    def close(self) -> None:
        """Stop the team. The program cannot run any more; closing twice is fine."""
        self._closed = True
        if self._team:
            self._team.close()

    @staticmethod
    def page_bytes(spec: ModelSpec, kv: str) -> int:
        """Bytes of K/V that one page of 64 tokens takes in format `kv`, all layers together."""
        return len(spec.layers) * spec.kv_heads * kv_bytes(spec.head_dim, quantized=kv == "int8")


class _Team:
    """The compiled path: records filled once, threads that wait inside compiled code, and a call per step."""

    def __init__(
        self,
        compiled: kernel_package.Kernels,
        operations: list[Operation],
        buffers: Buffers,
        inputs: dict[str, np.ndarray],
        threads: int,
    ) -> None:
        self._records = records(operations, compiled.addresses)
        self._step, self._sync = aligned((len(STEP),), np.int64), aligned((SYNC_WORDS,), np.int64)
        self._step[:], self._sync[:] = 0, 0
        self._set(page_table_stride=inputs["page_table"].strides[0], **inputs, **buffers.plan)
        self._rope: tuple[np.ndarray, ...] = ()
        self._masked = False
        self._entry = compiled.entries["step"]
        shared = (self._records.ctypes.data, len(operations), self._step.ctypes.data, self._sync.ctypes.data, threads)
        self._arguments = (*shared, 0)
        workers = [
            threading.Thread(target=self._entry, args=(*shared, t), name=f"senryu-kernel-{t}", daemon=True)
            for t in range(1, threads)
        ]
        for worker in workers:
            worker.start()
        # the arrays must outlive the workers, which know only their addresses: the finaliser keeps them
        kept = (operations, buffers, inputs, self._records, self._step, self._sync)
        self._finalizer = weakref.finalize(self, _leave, compiled.entries["close"], self._arguments, workers, kept)

    def _set(self, **values: Any) -> None:
        for name, value in values.items():
            self._step[STEP.index(name)] = encode(value)

    def run(
        self,
        counts: tuple[int, int, int],
        rope: tuple[np.ndarray, np.ndarray],
        masks: np.ndarray | None,
        masks_ready: np.ndarray | None,
    ) -> None:
        """counts: rows, sequences, sampled, the first three slots of a step. masks: used where they are, not copied, since
        they may be filled while the step runs."""
        self._step[:3] = counts
        if masks is not None:
            self._set(masks=masks, masks_stride=masks.strides[0], masks_ready=masks_ready)
        elif self._masked:
            self._set(masks=None)
        self._masked = masks is not None
        if rope is not self._rope:
            self._rope = rope
            self._set(cos=rope[0], sin=rope[1], cos_stride=rope[0].strides[0])
        self._entry(*self._arguments)

    def close(self) -> None:
        self._finalizer()


def _leave(close: Callable[..., None], arguments: tuple[int, ...], workers: list[threading.Thread], kept: Any) -> None:
    close(*arguments)
    for worker in workers:
        worker.join()


@cache
def _sources() -> str:
    """Every file that K/V's values depend on, in one name."""
    digest = hashlib.sha256()
    for package in (Path(kernel_package.__file__).parent, Path(__file__).parent):
        for source in sorted(package.glob("*.py")):
            digest.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    return digest.hexdigest()


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def choose_kernels(spec: ModelSpec, wanted: str) -> str:
    """The kernel path to take. Raises ModelError when the int8 formats do not suit the spec, ValueError for an unknown name."""
    if wanted not in (known := ("auto", *kernel_package.PATHS)):
        raise ValueError(f'kernels is "{wanted}": choose {", ".join(known)}')
    if wanted == "fp32":
        return wanted
    for name in ("hidden", "ffn", "head_dim"):
        if getattr(spec, name) % 16:
            raise ModelError(f'{name} is {getattr(spec, name)}, and packed weights need a multiple of 16: use kernels="fp32"')
    return kernel_package.available()[0] if wanted == "auto" else wanted


def choose_format(wanted: Format, kernels: str) -> Format | None:
    """The packed weights' format; None for the fp32 path.

    Raises ValueError for an unknown name, and ModelError for one that fp32 would ignore.
    """
    if wanted not in FORMATS:
        raise ValueError(f'weights are "{wanted}": choose {", ".join(FORMATS)}')
    if kernels != "fp32":
        return wanted
    if wanted != "int8":
        raise ModelError(f'kernels="fp32" reads the weights as they are, not in {wanted}: leave one of the two out')
    return None


def choose_kv(wanted: str, kernels: str) -> str:
    """The format of K/V: int8 (a scale per token and head) or float32; fp32 keeps float32 whatever is wanted.

    Raises ValueError for an unknown name.
    """
    if wanted not in KV_FORMATS:
        raise ValueError(f'kv is "{wanted}": choose {" or ".join(KV_FORMATS)}')
    return "float32" if kernels == "fp32" else wanted
