"""An engine without a model, for tests of everything above the engine: real scheduling and pages, invented tokens."""

from __future__ import annotations

import time
import zlib
from collections.abc import AsyncGenerator, Callable
from collections.abc import Sequence as Ids
from pathlib import Path
from typing import Any

import numpy as np

from senryu.engine.grammar import GrammarCompiler
from senryu.engine.interface import TokenEvent, TokenRequest
from senryu.engine.local import LocalEngine
from senryu.kernels.batch import Batch, await_masks
from senryu.kernels.reference import allowed
from senryu.model.spec import LayerSpec, ModelSpec


class FakeProgram:
    """A `Program` whose K/V page slots hold the token ids themselves.

    The next token is a function of all ids that a row finds through its page table, so a page that is missing, shared
    wrongly or overwritten too early changes the output, as it would with a model. At temperature > 0 it depends on the
    seed too. Where a mask refuses that token it is one of those that are allowed.
    """

    page_size = 64
    fingerprint = "fake"

    def __init__(
        self,
        *,
        pages: int = 4096,
        max_rows: int = 512,
        max_sequences: int = 64,
        max_position: int = 1 << 20,
        tokens: range = range(64, 4096),
        seconds_per_step: float = 0.0,
        seconds_per_row: float = 0.0,
    ) -> None:
        """tokens: the ids that may be sampled; `tokens.stop` is the vocabulary's size."""
        self.pages = pages
        self.max_rows = max_rows
        self.max_sequences = max_sequences
        self.max_sampled = max_sequences + 16
        self.spec = _spec(tokens.stop, max_position)
        self.closed = False
        self._tokens = tokens
        self._seconds_per_step = seconds_per_step
        self._seconds_per_row = seconds_per_row
        self._slots = np.full((pages, self.page_size), -1, np.int32)
        self._script: dict[int, int] = {}

    def script(self, prompt: Ids[int], reply: Ids[int]) -> None:
        """After `prompt`, greedy or not, the next tokens are `reply`; what follows is invented again."""
        context = zlib.crc32(np.asarray(prompt, np.int32).tobytes())
        for token in reply:
            self._script[context] = token
            context = zlib.crc32(np.int32(token).tobytes(), context)

    def step(self, batch: Batch) -> np.ndarray:
        """See `Program.step`: refuses what that refuses. Takes seconds_per_step + rows * seconds_per_row, asleep."""
        limits = {"max_rows": self.max_rows, "max_sequences": self.max_sequences, "max_sampled": self.max_sampled}
        batch.check(vocab=self.spec.vocab, pages=self.pages, **limits)
        if delay := self._seconds_per_step + len(batch.tokens) * self._seconds_per_row:
            time.sleep(delay)
        owner = np.repeat(np.arange(len(batch.row_start) - 1), np.diff(batch.row_start))
        page, slot = np.divmod(batch.positions, self.page_size)
        self._slots[batch.page_table[owner, page], slot] = batch.tokens
        sampled = np.zeros(len(batch.sample_rows), np.int32)
        for i, row in enumerate(batch.sample_rows.tolist()):
            length = int(batch.positions[row]) + 1
            pages = batch.page_table[owner[row], : -(-length // self.page_size)]
            context = zlib.crc32(self._slots[pages].reshape(-1)[:length].tobytes())
            seed = int(batch.seeds[i]) if batch.temperature[i] > 0 else 0
            sampled[i] = self._script.get(context, self._invent(context, seed))
        if batch.masks is not None and batch.masks_ready is not None:
            await_masks(batch.masks_ready)
            for i, mask in enumerate(batch.masks):
                choice = np.flatnonzero(allowed(mask, self.spec.vocab))
                if sampled[i] not in choice:
                    sampled[i] = choice[int(sampled[i]) % len(choice)]
        return sampled

    def copy_page(self, source: int, target: int) -> None:
        """See `Runner`."""
        self._slots[target] = self._slots[source]

    def read_page(self, page: int) -> bytes:
        """See `Runner`."""
        return self._slots[page].tobytes()

    def write_page(self, page: int, content: bytes | memoryview) -> None:
        """See `Runner`."""
        self._slots[page] = np.frombuffer(content, np.int32).reshape(self.page_size)

    def close(self) -> None:
        self.closed = True

    def _invent(self, context: int, seed: int) -> int:
        return self._tokens[(zlib.crc32(seed.to_bytes(8, "little"), context) * 2654435761 >> 8) % len(self._tokens)]


class FakeEngine(LocalEngine):
    """`LocalEngine` over a `FakeProgram`.

    reply: the answer to a request, as token ids (end it with a stop id to stop); None invents tokens.
    options: `FakeProgram`'s.
    """

    def __init__(
        self,
        reply: Callable[[TokenRequest], Ids[int]] | None = None,
        *,
        max_context: int | None = None,
        step_seconds: float = 0.08,
        spill_directory: Path | None = None,
        spill_bytes: int = 0,
        drafts: bool = True,
        grammars: GrammarCompiler | None = None,
        check: bool = False,
        **options: float | range,
    ) -> None:
        self.program = FakeProgram(**options)  # type: ignore[arg-type]
        self._reply = reply
        how: dict[str, Any] = {"step_seconds": step_seconds, "drafts": drafts, "grammars": grammars, "check": check}
        how |= {"spill_directory": spill_directory, "spill_bytes": spill_bytes}
        super().__init__(self.program, max_context=max_context, **how)

    def generate(self, request: TokenRequest) -> AsyncGenerator[TokenEvent, None]:
        """See `Engine.generate`."""
        if self._reply is not None:
            self.program.script(request.ids, self._reply(request))
        return super().generate(request)


def _spec(vocab: int, max_position: int) -> ModelSpec:
    """With a window, since the fake's rows take the same time at any depth."""
    return ModelSpec(
        family="llama", hidden=64, layers=(LayerSpec(window=64, rope=True),), heads=1, kv_heads=1, head_dim=64, ffn=64,
        vocab=vocab, max_position=max_position, norm="rms", norm_eps=1e-5, parallel_block=False, qk_norm=False,
        qkv_bias=False, o_bias=False, mlp_bias=False, tied_head=True, rope_theta=1e4, rope_interleaved=False,
        rope_scaling=None, logit_scale=1.0, bos_id=None, eos_ids=(),
    )  # fmt: skip
