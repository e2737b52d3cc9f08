"""Measures llama.cpp on a random Llama-shaped model; run by a Python that has llama-cpp-python and gguf, not by ours.

    python peer_llama_cpp.py '{"shape": {...}, "quant": "q8_0", "threads": 2, "cache": "DIR"}'

Prints {} when ready, then answers each line on stdin with the seconds that it took, {"s": ...}:
    {"do": "prefill", "length": N}
    {"do": "decode", "depth": N, "tokens": M, "kv": "f16"}
    {"do": "batch", "streams": N, "tokens": M}
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gguf  # type: ignore[import-not-found]
import llama_cpp as llama  # type: ignore[import-not-found]
import numpy as np

FILE_TYPES = {"q8_0": 7, "q4_0": 2, "q4_k_m": 15}  # llama_ftype
KV_TYPES = {"f16": 1, "q8_0": 8}  # ggml_type
BATCH, MICRO = 2048, 512
FILLED = 2  # sequences of a context that `fill` works on
PROBE, DEEPEST_WITHOUT = (
    4096,
    16384,
)  # tokens: where on and off are compared; without flash attention, filling more takes an hour
SHORT_S = 10.0
LONG_S = 60.0  # work that takes longer is not done again to be measured


def write_random(path: Path, shape: dict[str, int]) -> None:
    """A random model of this shape as fp16 GGUF: speed does not depend on the values."""
    hidden, heads, kv_heads = shape["hidden"], shape["heads"], shape["kv_heads"]
    head_dim, ffn, vocab = shape["head_dim"], shape["ffn"], shape["vocab"]
    rng = np.random.default_rng(0)

    def tensor(*dims: int) -> np.ndarray:
        return (rng.standard_normal(dims, dtype=np.float32) * 0.02).astype(np.float16)

    out = gguf.GGUFWriter(str(path), "llama")
    out.add_block_count(shape["layers"])
    out.add_context_length(262144)
    out.add_embedding_length(hidden)
    out.add_feed_forward_length(ffn)
    out.add_head_count(heads)
    out.add_head_count_kv(kv_heads)
    out.add_rope_dimension_count(head_dim)
    out.add_rope_freq_base(1e6)
    out.add_layer_norm_rms_eps(1e-6)
    out.add_vocab_size(vocab)
    out.add_file_type(1)
    out.add_tokenizer_model("no_vocab")
    out.add_tensor("token_embd.weight", tensor(vocab, hidden))
    out.add_tensor("output.weight", tensor(vocab, hidden))
    out.add_tensor("output_norm.weight", np.ones(hidden, np.float32))
    matrices = {
        "attn_q": (heads * head_dim, hidden),
        "attn_k": (kv_heads * head_dim, hidden),
        "attn_v": (kv_heads * head_dim, hidden),
        "attn_output": (hidden, heads * head_dim),
        "ffn_gate": (ffn, hidden),
        "ffn_up": (ffn, hidden),
        "ffn_down": (hidden, ffn),
    }
    for layer in range(shape["layers"]):
        for name, dims in matrices.items():
            out.add_tensor(f"blk.{layer}.{name}.weight", tensor(*dims))
        for name in ("attn_norm", "ffn_norm"):
            out.add_tensor(f"blk.{layer}.{name}.weight", np.ones(hidden, np.float32))
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def model_file(shape: dict[str, int], quant: str, cache: Path) -> Path:
    """The random model in a format, made on first use."""
    stem = "random-" + "-".join(str(shape[key]) for key in sorted(shape))
    full, small = cache / f"{stem}-f16.gguf", cache / f"{stem}-{quant}.gguf"
    if not full.exists():
        print(f"making {full.name} ...", file=sys.stderr, flush=True)
        partial = full.with_suffix(".partial")
        write_random(partial, shape)
        partial.rename(full)
    if not small.exists():
        print(f"making {small.name} ...", file=sys.stderr, flush=True)
        params = llama.llama_model_quantize_default_params()
        params.ftype = FILE_TYPES[quant]
        partial = small.with_suffix(".partial")
        if llama.llama_model_quantize(str(full).encode(), str(partial).encode(), params):
            raise SystemExit(f"llama.cpp could not quantise {full}")
        partial.rename(small)
    return small


class Context:
    """A llama.cpp context with room for `tokens`, shared by `sequences`; `filled`: what `fill` has put into sequence 0."""

    def __init__(self, model: Any, threads: int, flash: bool, kv: str, sequences: int, tokens: int) -> None:
        params = llama.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch, params.n_seq_max = tokens, BATCH, MICRO, sequences
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = int(flash)
        params.type_k = params.type_v = KV_TYPES[kv]
        params.kv_unified = sequences == FILLED  # `fill` moves cells between sequences; streams have caches of their own
        self.pointer = llama.llama_init_from_model(model, params)
        if not self.pointer:
            raise SystemExit(f"llama.cpp could not make a context of {tokens} tokens")
        self.memory = llama.llama_get_memory(self.pointer)
        self.tokens, self.filled = tokens, 0

    def clear(self) -> None:
        llama.llama_memory_clear(self.memory, True)
        self.filled = 0

    def run(self, batch: Any) -> None:
        if code := llama.llama_decode(self.pointer, batch):
            raise SystemExit(f"llama_decode failed with {code}")

    def wait(self) -> None:
        llama.llama_synchronize(self.pointer)

    def fill(self, depth: int, ids: Callable[[int], Any]) -> None:
        """Sequence 0 holds positions 0 to depth - 1 and nothing else.

        Speed depends on how many cells there are, not on their values: chunks are read as short sequences that see only
        themselves, at their places, and then given to sequence 0. Reading 64K tokens honestly would take hours.
        """
        if depth == self.filled:
            llama.llama_memory_seq_rm(self.memory, 0, depth, -1)
            return
        self.clear()
        for i in range(0, depth, MICRO):
            count = min(MICRO, depth - i)
            self.run(packed(ids(count), range(i, i + count), 1))
            llama.llama_memory_seq_cp(self.memory, 1, 0, i, i + count)
            llama.llama_memory_seq_rm(self.memory, 1, -1, -1)
        self.filled = depth


class Peer:
    """llama.cpp at its best settings for a CPU: micro-batches of 512; flash attention on or off, whichever is faster.

    Contexts for one number of sequences are kept, so that formats of K/V can be measured in turns; making one is not timed.
    """

    def __init__(self, path: Path, threads: int) -> None:
        self.model = llama.llama_model_load_from_file(str(path).encode(), llama.llama_model_default_params())
        if not self.model:
            raise SystemExit(f"llama.cpp could not load {path}")
        self.threads = threads
        self.vocab = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(self.model))
        self.contexts: dict[tuple[bool, str, int], Context] = {}
        self.flash: dict[tuple[Any, ...], tuple[bool, float]] = {}  # of each work, see `tried`

    def prefill(self, length: int) -> float:
        """Seconds to read `length` random tokens."""

        def run(flash: bool, limit: float) -> float:
            context = self.open(flash, "f16", 1, length)
            context.clear()
            ids = self.random(length)
            start = time.perf_counter()
            for i in range(0, length, BATCH):
                context.run(llama.llama_batch_get_one(tokens_at(ids, i), min(BATCH, length - i)))
                if time.perf_counter() - start > limit:
                    break
            context.wait()
            return time.perf_counter() - start

        flash, seconds = self.tried(("prefill", length), run)
        return seconds if seconds > LONG_S else run(flash, math.inf)

    def decode(self, depth: int, tokens: int, kv: str) -> float:
        """Seconds to write `tokens` tokens one by one behind `depth` others."""

        def run(flash: bool, depth: int) -> float:
            context = self.open(flash, kv, FILLED, depth + tokens + 8)
            context.fill(depth, self.random)
            one = (llama.llama_token * 1)(100)
            start = 0.0
            for _ in range(tokens + 1):  # the first one is not counted, as for us
                context.run(llama.llama_batch_get_one(one, 1))
                context.wait()
                start = start or time.perf_counter()
            return time.perf_counter() - start

        if kv != "f16":
            return run(True, depth)  # quantised V needs flash attention
        probe = min(depth, PROBE)
        flash = self.tried(("decode", probe), lambda flash, limit: run(flash, probe))[0]
        return run(flash or depth > DEEPEST_WITHOUT, depth)

    def batch(self, streams: int, tokens: int) -> float:
        """Seconds to write `tokens` tokens in each of `streams` sequences, all in one batch a step."""

        def run(flash: bool, limit: float) -> float:
            context = self.open(flash, "f16", streams, streams * -(-(64 + tokens + 8) // 256) * 256)
            context.clear()
            for sequence in range(streams):
                context.run(packed(self.random(64), range(64), sequence))
            start = time.perf_counter()
            for position in range(64, 64 + tokens):
                context.run(packed([100] * streams, [position] * streams, None))
            context.wait()
            return time.perf_counter() - start

        return run(self.tried(("batch", streams), run)[0], math.inf)

    def tried(self, work: tuple[Any, ...], run: Callable[[bool, float], float]) -> tuple[bool, float]:
        """(whether this work is faster with flash attention, its seconds then); tried once, in turns where it is short."""
        if work not in self.flash:
            on = run(True, math.inf)
            off = run(False, on)
            if on < SHORT_S:  # the first run of all was a warm-up
                on, off = run(True, math.inf), min(off, run(False, math.inf))
            self.flash[work] = on <= off, min(on, off)
        return self.flash[work]

    def open(self, flash: bool, kv: str, sequences: int, tokens: int) -> Context:
        """The context of these settings, remade when it lacks room; those for other numbers of sequences go."""
        for key in list(self.contexts):
            outgrown = key == (flash, kv, sequences) and self.contexts[key].tokens < tokens
            if key[2] != sequences or outgrown:
                llama.llama_free(self.contexts.pop(key).pointer)
        key = (flash, kv, sequences)
        if key not in self.contexts:
            self.contexts[key] = Context(self.model, self.threads, flash, kv, sequences, tokens)
        return self.contexts[key]

    def random(self, count: int) -> Any:
        return (llama.llama_token * count)(*np.random.default_rng().integers(64, self.vocab, count).tolist())


def tokens_at(ids: Any, start: int) -> Any:
    """A pointer to the ids from `start` on."""
    return ctypes.cast(ctypes.byref(ids, start * ctypes.sizeof(llama.llama_token)), ctypes.POINTER(llama.llama_token))


_PACKED = llama.llama_batch_init(MICRO, 0, 1)


def packed(ids: Sequence[int], positions: Sequence[int], sequence: int | None) -> Any:
    """A batch of these tokens: all of one sequence, logits of the last; or (None) one of each sequence, logits of all."""
    _PACKED.n_tokens = len(ids)
    for i, (token, position) in enumerate(zip(ids, positions)):
        _PACKED.token[i], _PACKED.pos[i], _PACKED.n_seq_id[i] = token, position, 1
        _PACKED.seq_id[i][0] = i if sequence is None else sequence
        _PACKED.logits[i] = sequence is None or i == len(ids) - 1
    return _PACKED


def main() -> None:
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever the packages print is no reply
    options = json.loads(sys.argv[1])
    quiet = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda *_: None)
    llama.llama_log_set(quiet, None)
    llama.llama_backend_init()
    peer = Peer(model_file(options["shape"], options["quant"], Path(options["cache"])), options["threads"])
    print("{}", file=replies, flush=True)
    for line in sys.stdin:
        work = json.loads(line)
        print(json.dumps({"s": getattr(peer, work.pop("do"))(**work)}), file=replies, flush=True)


if __name__ == "__main__":
    main()
