"""What a checkpoint is: one `ModelSpec` read from a Hugging Face config.json. No weights, no arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """Frequency scaling for long contexts: "llama3" (by wavelength bands) or "yarn" (NTK by parts)."""

    kind: Literal["llama3", "yarn"]
    factor: float
    original_max_position: int
    low_freq_factor: float = 1.0  # llama3
    high_freq_factor: float = 4.0  # llama3
    beta_fast: float = 32.0  # yarn
    beta_slow: float = 1.0  # yarn
    attention_factor: float = 1.0  # yarn: cos and sin are multiplied by it


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """What differs between layers. `window` None attends to all earlier tokens; else to the last `window`, itself included."""

    window: int | None
    rope: bool


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Everything the forward pass needs to know. Weight names are Hugging Face's (`model.layers.0.self_attn.q_proj.weight` ...)."""

    family: Literal["cohere2", "llama", "mistral", "qwen2", "qwen3"]
    hidden: int
    layers: tuple[LayerSpec, ...]
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    max_position: int
    norm: Literal["rms", "layer"]  # LayerNorm here has a weight and no bias
    norm_eps: float
    parallel_block: bool  # cohere2: x + attention(n(x)) + mlp(n(x)), one norm a layer (input_layernorm)
    qk_norm: bool  # qwen3: RMSNorm over head_dim on q and k before RoPE
    qkv_bias: bool
    o_bias: bool
    mlp_bias: bool
    tied_head: bool
    rope_theta: float
    rope_interleaved: bool  # cohere2: pairs (0,1),(2,3)..; else halves (i, i + head_dim/2)
    rope_scaling: RopeScaling | None
    logit_scale: float
    bos_id: int | None
    eos_ids: tuple[int, ...]
