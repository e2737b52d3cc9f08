"""Measures llama.cpp on a random Llama-shaped model; run by a Python that has llama-cpp-python and gguf, not by ours.

    python peer_llama_cpp.py '{"shape": {...}, "quant": "q8_0", "threads": 2, "cache": "DIR"}'

Prints {} when ready, then answers each line {"prompt": N, "tokens": M} on stdin with {"prefill_s": ..., "decode_s": ...}.
"""

from __future__ import annotations

import ctypes
import json
import sys
import time
from pathlib import Path
from typing import Any

import gguf  # type: ignore[import-not-found]
import llama_cpp as llama  # type: ignore[import-not-found]
import numpy as np

FILE_TYPES = {"q8_0": 7, "q4_0": 2, "q4_k_m": 15}  # llama_ftype


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
    """The quantised random model, made on first use."""
    stem = "random-" + "-".join(str(shape[key]) for key in sorted(shape))
    full, small = cache / f"{stem}-f16.gguf", cache / f"{stem}-{quant}.gguf"
    if not small.exists():
        print(f"making {small.name} ...", file=sys.stderr, flush=True)
        if not full.exists():
            write_random(full, shape)
        params = llama.llama_model_quantize_default_params()
        params.ftype = FILE_TYPES[quant]
        partial = small.with_suffix(".partial")
        if llama.llama_model_quantize(str(full).encode(), str(partial).encode(), params):
            raise SystemExit(f"llama.cpp could not quantise {full}")
        partial.rename(small)
    return small


class Peer:
    """One llama.cpp context at its best settings for a CPU: flash attention, micro-batches of 512."""

    def __init__(self, path: Path, threads: int) -> None:
        self.model = llama.llama_model_load_from_file(str(path).encode(), llama.llama_model_default_params())
        self.threads = threads
        self.vocab = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(self.model))
        self.context: Any = None
        self.size = 0

    def room_for(self, tokens: int) -> None:
        """A context that holds `tokens`; remade only when the size grows."""
        if tokens <= self.size:
            return
        if self.context is not None:
            llama.llama_free(self.context)
        params = llama.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = tokens, 2048, 512
        params.n_threads = params.n_threads_batch = self.threads
        params.flash_attn_type = 1
        self.context, self.size = llama.llama_init_from_model(self.model, params), tokens

    def decode(self, ids: Any, count: int) -> None:
        if llama.llama_decode(self.context, llama.llama_batch_get_one(ids, count)):
            raise SystemExit("llama_decode failed")

    def run(self, prompt: int, tokens: int) -> dict[str, float]:
        """Seconds to prefill `prompt` random tokens and to decode `tokens` more, one by one."""
        self.room_for(prompt + tokens + 64)
        llama.llama_memory_clear(llama.llama_get_memory(self.context), True)
        ids = (llama.llama_token * prompt)(*np.random.default_rng().integers(64, self.vocab, prompt).tolist())
        start = time.perf_counter()
        for i in range(0, prompt, 2048):
            self.decode(ctypes.cast(ctypes.byref(ids, i * 4), ctypes.POINTER(llama.llama_token)), min(2048, prompt - i))
        llama.llama_synchronize(self.context)
        middle = time.perf_counter()
        one = (llama.llama_token * 1)(100)
        for _ in range(tokens):
            self.decode(one, 1)
        llama.llama_synchronize(self.context)
        return {"prefill_s": middle - start, "decode_s": time.perf_counter() - middle}


def main() -> None:
    options = json.loads(sys.argv[1])
    quiet = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda *_: None)
    llama.llama_log_set(quiet, None)
    llama.llama_backend_init()
    peer = Peer(model_file(options["shape"], options["quant"], Path(options["cache"])), options["threads"])
    print("{}", flush=True)
    for line in sys.stdin:
        work = json.loads(line)
        print(json.dumps(peer.run(work["prompt"], work["tokens"])), flush=True)


if __name__ == "__main__":
    main()
