"""The forward pass in numpy: the definition of every model that Senryu runs. Written to be read; kernels are checked by it.

    x = embedding[ids]
    each layer:   x = x + attention(norm(x));  x = x + mlp(norm(x))      (cohere2: x + attention(n) + mlp(n), n = norm(x))
    logits = norm(x) @ head.T

Shapes: T new tokens, S tokens in all, H heads, K heads of keys and values, D = head_dim. Everything is float32.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np

from senryu.model.rope import rope_table
from senryu.model.spec import LayerSpec, ModelSpec


class Float32Weights(Protocol):
    """Where the tensors come from: `senryu.model.weights.Weights`, best after its `to_float32()`."""

    @property
    def fingerprint(self) -> str:
        """Names the tensors' contents: others have another."""

    def float32(self, name: str) -> np.ndarray:
        """The tensor of that Hugging Face name as float32."""

    def __contains__(self, name: object) -> bool:
        """Whether there is a tensor of that name."""


class Cache:
    """Keys and values of the tokens seen so far, by layer: float32 [tokens, K, D] each. `forward` appends to it."""

    def __init__(self, spec: ModelSpec) -> None:
        empty = np.empty((0, spec.kv_heads, spec.head_dim), np.float32)
        self.keys = [empty for _ in spec.layers]
        self.values = [empty for _ in spec.layers]

    @property
    def length(self) -> int:
        """How many tokens are in it: the position of the next one."""
        return len(self.keys[0])

    def append(self, layer: int, keys: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Add the new tokens' keys and values; returns those of all tokens."""
        self.keys[layer] = np.concatenate([self.keys[layer], keys])
        self.values[layer] = np.concatenate([self.values[layer], values])
        return self.keys[layer], self.values[layer]


def forward(spec: ModelSpec, weights: Float32Weights, ids: np.ndarray | list[int], cache: Cache | None = None) -> np.ndarray:
    """Logits of every new token, float32 [T, vocab]: row t scores the token after ids[t].

    ids: T token ids that follow what `cache` holds (nothing, if there is none). The cache then holds them too.
    """
    cache = cache or Cache(spec)
    ids = np.asarray(ids, np.int64)
    positions = np.arange(cache.length, cache.length + len(ids))
    rope = rope_table(spec, positions)

    x = weights.float32("model.embed_tokens.weight")[ids]
    for number, layer in enumerate(spec.layers):
        name = f"model.layers.{number}"
        normed = norm(spec, x, weights.float32(f"{name}.input_layernorm.weight"))
        attended = attention(spec, layer, weights, number, normed, positions, rope, cache)
        if spec.parallel_block:
            x = x + attended + mlp(weights, name, normed)
        else:
            x = x + attended
            x = x + mlp(weights, name, norm(spec, x, weights.float32(f"{name}.post_attention_layernorm.weight")))
    x = norm(spec, x, weights.float32("model.norm.weight"))
    head = weights.float32("model.embed_tokens.weight" if spec.tied_head else "lm_head.weight")
    return x @ head.T * np.float32(spec.logit_scale)


def attention(
    spec: ModelSpec,
    layer: LayerSpec,
    weights: Float32Weights,
    number: int,
    x: np.ndarray,
    positions: np.ndarray,
    rope: tuple[np.ndarray, np.ndarray],
    cache: Cache,
) -> np.ndarray:
    """Each token looks at itself and those before it, within the layer's window: [T, hidden] -> [T, hidden]."""
    name, tokens = f"model.layers.{number}.self_attn", len(x)
    q = linear(weights, f"{name}.q_proj", x).reshape(tokens, spec.heads, spec.head_dim)
    k = linear(weights, f"{name}.k_proj", x).reshape(tokens, spec.kv_heads, spec.head_dim)
    v = linear(weights, f"{name}.v_proj", x).reshape(tokens, spec.kv_heads, spec.head_dim)
    if spec.qk_norm:
        q = rms_norm(q, weights.float32(f"{name}.q_norm.weight"), spec.norm_eps)
        k = rms_norm(k, weights.float32(f"{name}.k_norm.weight"), spec.norm_eps)
    if layer.rope:
        q, k = rotate(q, *rope, spec.rope_interleaved), rotate(k, *rope, spec.rope_interleaved)
    k, v = cache.append(number, k, v)  # [S, K, D]

    # grouped queries: H/K heads share one head of keys and values, so [K, H/K, T, D] meets [K, 1, D, S]
    queries = q.reshape(tokens, spec.kv_heads, -1, spec.head_dim).transpose(1, 2, 0, 3)
    scores = queries @ k.transpose(1, 2, 0)[:, None] / np.float32(math.sqrt(spec.head_dim))  # [K, H/K, T, S]
    distance = positions[:, None] - np.arange(len(k))  # [T, S], negative towards the future
    visible = distance >= 0 if layer.window is None else (distance >= 0) & (distance < layer.window)
    mixed = softmax(np.where(visible, scores, -np.inf)) @ v.transpose(1, 0, 2)[:, None]  # [K, H/K, T, D]
    return linear(weights, f"{name}.o_proj", mixed.transpose(2, 0, 1, 3).reshape(tokens, -1))


def mlp(weights: Float32Weights, name: str, x: np.ndarray) -> np.ndarray:
    """SwiGLU (arXiv:2002.05202): down(silu(gate(x)) * up(x))."""
    gate, up = linear(weights, f"{name}.mlp.gate_proj", x), linear(weights, f"{name}.mlp.up_proj", x)
    return linear(weights, f"{name}.mlp.down_proj", silu(gate) * up)


def linear(weights: Float32Weights, name: str, x: np.ndarray) -> np.ndarray:
    """x @ W.T, plus the bias where the checkpoint has one."""
    y = x @ weights.float32(f"{name}.weight").T
    return y + weights.float32(f"{name}.bias") if f"{name}.bias" in weights else y


def norm(spec: ModelSpec, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The spec's norm over the last axis; LayerNorm is RMSNorm of the centred input, and has no bias here."""
    if spec.norm == "layer":
        x = x - x.mean(-1, keepdims=True)
    return rms_norm(x, weight, spec.norm_eps)


def rms_norm(x: np.ndarray, weight: np.ndarray, eps: float) -> np.ndarray:
    """x over its root mean square (arXiv:1910.07467), times the weight."""
    return x / np.sqrt(np.square(x).mean(-1, keepdims=True) + np.float32(eps)) * weight


def rotate(x: np.ndarray, cos: np.ndarray, sin: np.ndarray, interleaved: bool) -> np.ndarray:
    """RoPE (arXiv:2104.09864): turn each pair (a, b) of x [T, heads, D] by its token's angle; cos, sin [T, D/2]."""
    half = x.shape[-1] // 2
    a, b = (x[..., ::2], x[..., 1::2]) if interleaved else (x[..., :half], x[..., half:])
    cos, sin = cos[:, None], sin[:, None]
    turned = (a * cos - b * sin, b * cos + a * sin)
    return np.stack(turned, axis=-1).reshape(x.shape) if interleaved else np.concatenate(turned, axis=-1)


def softmax(scores: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    e = np.exp(scores - scores.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def silu(x: np.ndarray) -> np.ndarray:
    """x * sigmoid(x), written with tanh, which cannot overflow."""
    return x * (np.float32(0.5) + np.float32(0.5) * np.tanh(x * np.float32(0.5)))
