"""Models made up for measuring speed, which does not depend on the values of weights: random ones, and one that copies."""

from __future__ import annotations

import zlib

import numpy as np

from senryu.errors import SenryuError
from senryu.kernels.pack import narrow, widen
from senryu.model.spec import LayerSpec, ModelSpec
from senryu.model.weights import expected_shapes

SHAPES = {  # hidden, layers, heads, kv_heads, head_dim, ffn, vocab
    "tiny": (256, 8, 4, 1, 64, 704, 4096),
    "0.3b": (1024, 24, 16, 4, 64, 2816, 32768),
    "1.1b": (2048, 22, 32, 4, 64, 5632, 32000),
}


def shape_spec(name: str) -> ModelSpec:
    """A Llama of a named shape. Raises SenryuError("model_unusable")."""
    if name not in SHAPES:
        raise SenryuError("model_unusable", ref=f"shape:{name}", why=f"there is no such shape; choose {', '.join(SHAPES)}.")
    hidden, layers, heads, kv_heads, head_dim, ffn, vocab = SHAPES[name]
    return ModelSpec(
        family="llama", hidden=hidden, layers=(LayerSpec(window=None, rope=True),) * layers, heads=heads, kv_heads=kv_heads,
        head_dim=head_dim, ffn=ffn, vocab=vocab, max_position=262_144, norm="rms", norm_eps=1e-6, parallel_block=False,
        qk_norm=False, qkv_bias=False, o_bias=False, mlp_bias=False, tied_head=False, rope_theta=1e6, rope_interleaved=False,
        rope_scaling=None, logit_scale=1.0, bos_id=None, eos_ids=(),
    )  # fmt: skip


class RandomWeights:
    """Weights made when asked for, the same ones each time, standard deviation 0.02; vectors (norms) are ones.

    They repeat one random pool from different places: their values do not matter, the time to make them does.
    """

    def __init__(self, spec: ModelSpec) -> None:
        self.shapes = expected_shapes(spec)
        self.fingerprint = f"random pool 1 {self.shapes}"
        pool = np.random.default_rng(0).standard_normal(1 << 20, dtype=np.float32) * np.float32(0.02)
        self._pool = widen(narrow(pool))  # bfloat16 values, as checkpoints have

    def __contains__(self, name: object) -> bool:
        return name in self.shapes

    def float32(self, name: str) -> np.ndarray:
        """The tensor of that name, float32. Raises KeyError when the spec has none."""
        shape = self.shapes[name]
        if len(shape) == 1:
            return np.ones(shape, np.float32)
        start = zlib.crc32(name.encode()) % len(self._pool)
        return np.resize(np.roll(self._pool, start), shape)


class CopyingWeights(RandomWeights):
    """A model that continues every token by the next one of `chain`, so that a passage of the chain is a text that it knows.

    Greedy it is sure of that, at temperature 1 it writes noise. A step costs what any model of the shape costs.
    """

    LAYERS = np.float32(1 / 16)  # of random weights: what layers add to the residual stream is lost beside the embedding
    LOGIT = np.float32(4)  # of the right token; the others' are about 0

    def __init__(self, spec: ModelSpec) -> None:
        """Raises ValueError for a tied head: such a model could only repeat one token."""
        if spec.tied_head:
            raise ValueError("a model that copies needs a head of its own")
        super().__init__(spec)
        self.fingerprint = f"chain 1 {self.shapes}"

    def float32(self, name: str) -> np.ndarray:
        """See `RandomWeights.float32`."""
        shape = self.shapes[name]
        if name.endswith(".bias"):
            return np.zeros(shape, np.float32)
        if name not in ("model.embed_tokens.weight", "lm_head.weight"):
            return super().float32(name) * (self.LAYERS if len(shape) == 2 else np.float32(1))
        signs = np.random.default_rng(1).integers(0, 2, shape, np.int8) * np.float32(2) - np.float32(1)
        if name == "model.embed_tokens.weight":
            return signs
        order = chain(len(signs))
        head = np.empty_like(signs)
        head[np.roll(order, -1)] = signs[order] * (self.LOGIT / np.float32(shape[1]))
        return head


def chain(vocab: int) -> np.ndarray:
    """The order in which `CopyingWeights` of so many tokens continues, round and round: int [vocab], each token once."""
    return np.random.default_rng(2).permutation(vocab)
