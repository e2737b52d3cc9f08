"""Measures OpenVINO GenAI or CTranslate2 on a random Llama-shaped model; run by a Python that has its packages, not by ours.

    python peer_converted.py '{"peer": "openvino", "shape": {...}, "quant": "int8", "threads": 2, "cache": "DIR"}'

Both convert a folder in Hugging Face's layout. Prints {} when ready, then answers each line on stdin with the seconds that it
took, {"s": ...}; the lines are those of peer_llama_cpp.py.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

COMPRESSION: dict[str, dict[str, Any]] = {
    "int8": {"bits": 8},
    "int4": {"bits": 4, "group_size": 128, "sym": True, "ratio": 1.0},
}
LEAST_ID = 64  # prompts hold none of the special tokens


def write_random(folder: Path, shape: dict[str, int]) -> None:
    """A random model of this shape in Hugging Face's layout, one word a token: speed does not depend on the values."""
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

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
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(shape["vocab"])}, unk_token="w0"))
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="w0", bos_token="w1", eos_token="w2").save_pretrained(folder)


def converted(name: str, shape: dict[str, int], cache: Path, convert: Callable[[Path, Path], Any]) -> Path:
    """The random model as the peer runs it, made on first use by `convert(source, target)`."""
    stem = "random-" + "-".join(str(shape[key]) for key in sorted(shape))
    source, target = cache / f"{stem}-hf", cache / f"{stem}-{name}"
    if not target.exists():
        print(f"making {target.name} ...", file=sys.stderr, flush=True)
        partial = target.with_suffix(".partial")
        for folder in (source, partial):
            shutil.rmtree(folder, ignore_errors=True)
        write_random(source, shape)
        convert(source, partial)
        shutil.rmtree(source)
        partial.rename(target)
    return target


class Peer:
    """What both answer, by `run(streams, length, tokens)`: seconds to the first token, and from there to the end.

    Prompts are new each time, so that none is in a cache.
    """

    def __init__(self, run: Callable[[np.ndarray, int], tuple[float, float]], vocab: int) -> None:
        self.run, self.vocab = run, vocab
        self.rng = np.random.default_rng()

    def ids(self, streams: int, length: int) -> np.ndarray:
        return self.rng.integers(LEAST_ID, self.vocab, (streams, length))

    def prefill(self, length: int) -> float:
        """Seconds to the first token."""
        return self.run(self.ids(1, length), 1)[0]

    def decode(self, depth: int, tokens: int, kv: str) -> float:
        """Seconds to write `tokens` tokens after the first one."""
        return self.run(self.ids(1, max(depth, 1)), tokens + 1)[1]

    def batch(self, streams: int, tokens: int) -> float:
        """Seconds to write `tokens` tokens in each of `streams` sequences."""
        return self.run(self.ids(streams, 64), tokens + 1)[1]


def openvino(shape: dict[str, int], quant: str, threads: int, cache: Path) -> Callable[[np.ndarray, int], tuple[float, float]]:
    """OpenVINO GenAI as a user gets it: continuous batching, 8-bit K/V, activations quantised as it likes."""
    import openvino as ov  # type: ignore[import-not-found]
    import openvino_genai as genai  # type: ignore[import-not-found]

    def convert(source: Path, target: Path) -> None:
        from optimum.intel import OVModelForCausalLM, OVWeightQuantizationConfig  # type: ignore[import-not-found]

        compression = OVWeightQuantizationConfig(**COMPRESSION[quant])
        model = OVModelForCausalLM.from_pretrained(source, export=True, compile=False, quantization_config=compression)
        model.save_pretrained(target)

    folder = converted(f"openvino-{quant}", shape, cache, convert)
    pipeline = genai.LLMPipeline(str(folder), "CPU", INFERENCE_NUM_THREADS=threads)

    def run(ids: np.ndarray, tokens: int) -> tuple[float, float]:
        inputs = genai.TokenizedInputs(ov.Tensor(ids), ov.Tensor(np.ones_like(ids)))
        config = genai.GenerationConfig(max_new_tokens=tokens, ignore_eos=True, do_sample=False)
        result = pipeline.generate(inputs, config)
        if any(len(row) != tokens for row in result.tokens):
            raise SystemExit(f"OpenVINO wrote {[len(row) for row in result.tokens]} tokens, not {tokens}")
        first = result.perf_metrics.get_ttft().mean / 1e3
        return first, result.perf_metrics.get_generate_duration().mean / 1e3 - first

    return run


def ctranslate2(
    shape: dict[str, int], quant: str, threads: int, cache: Path
) -> Callable[[np.ndarray, int], tuple[float, float]]:
    """CTranslate2 with int8 weights and activations."""
    import ctranslate2 as ct2  # type: ignore[import-not-found]
    from ctranslate2.converters import TransformersConverter  # type: ignore[import-not-found]

    def convert(source: Path, target: Path) -> None:
        TransformersConverter(str(source)).convert(str(target), quantization=quant)

    folder = converted(f"ctranslate2-{quant}", shape, cache, convert)
    generator = ct2.Generator(str(folder), device="cpu", compute_type=quant, intra_threads=threads, inter_threads=1)

    def run(ids: np.ndarray, tokens: int) -> tuple[float, float]:
        words = [[f"w{i}" for i in row] for row in ids.tolist()]
        moments: list[float] = []
        start = time.perf_counter()
        generator.generate_batch(
            words,
            max_length=tokens,
            min_length=tokens,
            sampling_topk=1,
            include_prompt_in_result=False,
            callback=lambda step: moments.append(time.perf_counter()),
        )
        if len(moments) != tokens * len(words):
            raise SystemExit(f"CTranslate2 wrote {len(moments)} tokens, not {tokens * len(words)}")
        first = moments[len(words) - 1]
        return first - start, moments[-1] - first

    return run


def main() -> None:
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever the packages print is no reply
    options = json.loads(sys.argv[1])
    start = {"openvino": openvino, "ctranslate2": ctranslate2}[options["peer"]]
    run = start(options["shape"], options["quant"], options["threads"], Path(options["cache"]))
    peer = Peer(run, options["shape"]["vocab"])
    print("{}", file=replies, flush=True)
    for line in sys.stdin:
        work = json.loads(line)
        print(json.dumps({"s": getattr(peer, work.pop("do"))(**work)}), file=replies, flush=True)


if __name__ == "__main__":
    main()
