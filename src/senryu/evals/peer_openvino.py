"""Measures OpenVINO GenAI on a random Llama-shaped model; run by a Python that has it and optimum-intel.

    python peer_openvino.py '{"shape": {...}, "quant": "int8", "threads": 2, "cache": "DIR"}'

Prints {} when ready, then answers each line on stdin with the seconds that it took, {"s": ...}; the lines are those of
peer_llama_cpp.py.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import openvino  # type: ignore[import-not-found]
import openvino_genai as genai  # type: ignore[import-not-found]

COMPRESSION: dict[str, dict[str, Any]] = {
    "int8": {"bits": 8},
    "int4": {"bits": 4, "group_size": 128, "sym": True, "ratio": 1.0},
}


def write_random(folder: Path, shape: dict[str, int]) -> None:
    """A random model of this shape in Hugging Face's layout: speed does not depend on the values."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        hidden_size=shape["hidden"],
        num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"],
        num_key_value_heads=shape["kv_heads"],
        head_dim=shape["head_dim"],
        intermediate_size=shape["ffn"],
        vocab_size=shape["vocab"],
        max_position_embeddings=262144,
        tie_word_embeddings=False,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


def model_folder(shape: dict[str, int], quant: str, cache: Path) -> Path:
    """The random model as OpenVINO runs it, weights compressed, made on first use."""
    stem = "random-" + "-".join(str(shape[key]) for key in sorted(shape))
    source, target = cache / f"{stem}-hf", cache / f"{stem}-openvino-{quant}"
    if not target.exists():
        from optimum.intel import OVModelForCausalLM, OVWeightQuantizationConfig  # type: ignore[import-not-found]

        print(f"making {target.name} ...", file=sys.stderr, flush=True)
        partial = target.with_suffix(".partial")
        for folder in (source, partial):
            shutil.rmtree(folder, ignore_errors=True)
        write_random(source, shape)
        compression = OVWeightQuantizationConfig(**COMPRESSION[quant])
        OVModelForCausalLM.from_pretrained(source, export=True, compile=False, quantization_config=compression).save_pretrained(
            partial
        )
        shutil.rmtree(source)
        partial.rename(target)
    return target


class Peer:
    """The pipeline as a user gets it: continuous batching, 8-bit K/V. Prompts are new each time, so that none is in a cache."""

    def __init__(self, folder: Path, vocab: int, threads: int) -> None:
        self.pipeline = genai.LLMPipeline(str(folder), "CPU", INFERENCE_NUM_THREADS=threads)
        self.vocab = vocab
        self.rng = np.random.default_rng()

    def prefill(self, length: int) -> float:
        """Seconds to the first token."""
        return self._run(1, length, 1)[0]

    def decode(self, depth: int, tokens: int, kv: str) -> float:
        """Seconds to write `tokens` tokens after the first one."""
        return self._run(1, max(depth, 1), tokens + 1)[1]

    def batch(self, streams: int, tokens: int) -> float:
        """Seconds to write `tokens` tokens in each of `streams` sequences."""
        return self._run(streams, 64, tokens + 1)[1]

    def _run(self, streams: int, length: int, tokens: int) -> tuple[float, float]:
        """Seconds to the first token, and from there to the end."""
        ids = self.rng.integers(64, self.vocab, (streams, length))
        inputs = genai.TokenizedInputs(openvino.Tensor(ids), openvino.Tensor(np.ones_like(ids)))
        config = genai.GenerationConfig(max_new_tokens=tokens, ignore_eos=True, do_sample=False)
        result: Any = self.pipeline.generate(inputs, config)
        if any(len(row) != tokens for row in result.tokens):
            raise SystemExit(f"OpenVINO wrote {[len(row) for row in result.tokens]} tokens, not {tokens}")
        first = result.perf_metrics.get_ttft().mean / 1e3
        return first, result.perf_metrics.get_generate_duration().mean / 1e3 - first


def main() -> None:
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever the packages print is no reply
    options = json.loads(sys.argv[1])
    folder = model_folder(options["shape"], options["quant"], Path(options["cache"]))
    peer = Peer(folder, options["shape"]["vocab"], options["threads"])
    print("{}", file=replies, flush=True)
    for line in sys.stdin:
        work = json.loads(line)
        print(json.dumps({"s": getattr(peer, work.pop("do"))(**work)}), file=replies, flush=True)


if __name__ == "__main__":
    main()
