"""Small random models of every family, and batches for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from senryu.kernels import Batch
from senryu.model.program import Program
from senryu.model.spec import LayerSpec, ModelSpec, RopeScaling
from senryu.model.weights import Weights, expected_shapes

MakeProgram = Callable[..., Program]  # see conftest.py

PLAIN: dict[str, Any] = {
    "hidden": 64, "layers": (LayerSpec(None, True),) * 3, "heads": 4, "kv_heads": 2, "head_dim": 32, "ffn": 112, "vocab": 200,
    "max_position": 4096, "norm": "rms", "norm_eps": 1e-5, "parallel_block": False, "qk_norm": False, "qkv_bias": False,
    "o_bias": False, "mlp_bias": False, "tied_head": False, "rope_theta": 10000.0, "rope_interleaved": False,
    "rope_scaling": None, "logit_scale": 1.0, "bos_id": None, "eos_ids": (),
}  # fmt: skip

SPECS = {
    "llama": ModelSpec(family="llama", **(PLAIN | {"rope_scaling": RopeScaling("llama3", 8.0, 64)})),
    "llama-biases": ModelSpec(
        family="llama", **(PLAIN | {"qkv_bias": True, "o_bias": True, "mlp_bias": True, "tied_head": True, "kv_heads": 1})
    ),
    "mistral": ModelSpec(family="mistral", **(PLAIN | {"layers": (LayerSpec(70, True),) * 3, "head_dim": 16})),
    "qwen2": ModelSpec(family="qwen2", **(PLAIN | {"qkv_bias": True, "heads": 6, "tied_head": True})),
    "qwen3": ModelSpec(
        family="qwen3",
        **(PLAIN | {"qk_norm": True, "head_dim": 48, "rope_scaling": RopeScaling("yarn", 4.0, 64, attention_factor=1.14)}),
    ),
    "cohere2": ModelSpec(
        family="cohere2",
        **(PLAIN | {"norm": "layer", "parallel_block": True, "tied_head": True, "rope_interleaved": True, "logit_scale": 0.25})
        | {"layers": (LayerSpec(40, True), LayerSpec(100, True), LayerSpec(None, False)), "hidden": 80},
    ),
}


def weights(spec: ModelSpec, seed: int = 0) -> Weights:
    """Rows of unit gain, norms and biases that no one can forget."""
    rng = np.random.default_rng(seed)

    def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
        x = rng.standard_normal(shape).astype(np.float32)
        if "norm" in name:
            return 1 + x / 10
        return x / 10 if name.endswith("bias") else x / np.float32(np.sqrt(shape[-1]))

    return Weights({name: draw(name, shape) for name, shape in expected_shapes(spec).items()})


def ids(n: int, vocab: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, vocab, n).astype(np.int32)


def batch(*sequences: tuple[np.ndarray, int, list[int]], sample: str = "last", **sampling: Any) -> Batch:
    """Sequences of (new ids, their first position, pages); sample the last row of each, or "all" rows."""
    counts = [len(new) for new, _, _ in sequences]
    ends = np.cumsum([0, *counts]).astype(np.int32)
    table = np.full((len(sequences), max(len(pages) for _, _, pages in sequences)), -1, np.int32)
    for row, (_, _, pages) in zip(table, sequences):
        row[: len(pages)] = pages
    rows = ends[1:] - 1 if sample == "last" else np.arange(ends[-1])
    how = {"temperature": 0.0, "top_p": 1.0, "top_k": 0, "seeds": 0} | sampling
    kinds = {"temperature": np.float32, "top_p": np.float32, "top_k": np.int32, "seeds": np.uint64}
    return Batch(
        tokens=np.concatenate([new for new, _, _ in sequences]).astype(np.int32),
        positions=np.concatenate([np.arange(p, p + n) for (_, p, _), n in zip(sequences, counts)]).astype(np.int32),
        row_start=ends,
        page_table=table,
        sample_rows=rows.astype(np.int32),
        **{name: np.full(len(rows), how[name], kind) for name, kind in kinds.items()},
    )


def logits_in_chunks(program: Program, tokens: np.ndarray, chunk: int, pages: list[int]) -> np.ndarray:
    """Logits of every row, float32 [tokens, vocab], from steps of `chunk` rows."""
    result = []
    for start in range(0, len(tokens), chunk):
        part = tokens[start : start + chunk]
        program.step(batch((part, start, pages), sample="all"))
        result.append(program.logits[: len(part)].copy())
    return np.concatenate(result)
