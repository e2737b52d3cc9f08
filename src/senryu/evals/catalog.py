"""What `senryu bench` can measure, in words: imports nothing, so that the command's help is quick."""

from __future__ import annotations

from typing import NamedTuple


class Entry(NamedTuple):
    """`takes`: minutes on two cores, bundled model / 0.3b shape. `served`: it runs `senryu serve`, which needs a tokenizer."""

    what: str
    takes: str
    served: bool = False


SUITES = {
    "memory": Entry("resident memory, the K/V pool", "0 / 0"),
    "prefill": Entry("reading 512, 4K and 16K tokens", "0.2 / 5"),
    "decode": Entry("writing 64 tokens behind 512, and its share of streaming reads", "0.1 / 0.5"),
    "batch": Entry("8 streams together", "0.1 / 0.5"),
    "depth": Entry("writing behind 0, 1K, 4K, 16K and 64K tokens", "1 / 10"),
    "ttft": Entry("first token of 512 and 32K tokens: new, an eighth new, repeated", "1 / 15"),
    "latency": Entry("time between tokens of a stream beside a prompt of 32K", "1 / 15"),
    "start": Entry("a fresh `senryu serve` until /health answers, kernels compiled", "0.5 / -", served=True),
    "server": Entry(
        "HTTP over the bare engine: first token, CPU per token of answers of any length; CPU per request",
        "0.5 / -",
        served=True,
    ),
    "cached": Entry(
        "HTTP: first token behind a marked prefix of 8K, written to the prompt cache and read", "1 / -", served=True
    ),
    "shared": Entry("tokens computed for two live requests with one prefix of 8K", "0.1 / 0.5"),
    "drafts": Entry("writing 256 tokens that copy, edit, are JSON or free text, with and without drafts", "0.5 / 5"),
}
QUICK = ("prefill", "decode", "ttft")
PROMPTS, DEPTHS, TTFT = (512, 4096, 16384), (0, 1024, 4096, 16384, 65536), (512, 32768)
DRAFTED = 4  # times --tokens: an answer that drafts are measured over
STREAMS, BESIDE, SHARED = 8, 32768, 8192
RIVALS: dict[
    str, dict[str, tuple[str, ...]]
] = {  # peer -> our number format -> the peer's formats that compare with it, the closest first
    "llama.cpp": {"int8": ("q8_0",), "int4": ("q4_0", "q4_k_m"), "bf16": ("f16",)},
    "openvino": {"int8": ("int8",), "int4": ("int4",)},
    "ctranslate2": {"int8": ("int8",)},
}
PACKAGES = {
    "llama.cpp": "llama-cpp-python gguf",
    "openvino": "openvino-genai 'optimum-intel[openvino]'",
    "ctranslate2": "ctranslate2 transformers torch",
}


def help_text() -> str:
    """The suites, a line each."""
    return "\n".join(f"  {name:9}{entry.what} ({entry.takes})" for name, entry in SUITES.items())
