"""What a checkpoint is: one `ModelSpec` read from a Hugging Face config.json. No weights, no arrays."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

Family = Literal["cohere2", "llama", "mistral", "qwen2", "qwen3"]


class ModelError(ValueError):
    """A model's files cannot be used: says what, why, and what to do."""


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
    truncate: bool = True  # yarn: round the ends of the ramp to whole dimensions


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """What differs between layers. `window` None attends to all earlier tokens; else to the last `window`, itself included."""

    window: int | None
    rope: bool


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Everything the forward pass needs to know. Weights keep Hugging Face's names (`model.layers.0.mlp.up_proj.weight`)."""

    family: Family
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


# --- reading config.json -------------------------------------------------------------------------------------------

FAMILIES: tuple[str, ...] = get_args(Family)

# What transformers 5 assumes when a key is absent. Sizes have no default here: a config without them is broken.
# Nor have token ids: those of the class defaults belong to somebody else's tokenizer.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "cohere2": {
        "max_position_embeddings": 8192, "layer_norm_eps": 1e-5, "logit_scale": 0.0625, "tie_word_embeddings": True,
        "sliding_window": 4096,
    },
    "llama": {"max_position_embeddings": 2048},
    "mistral": {"num_key_value_heads": 8, "max_position_embeddings": 131072, "sliding_window": 4096},
    "qwen2": {
        "num_key_value_heads": 32, "max_position_embeddings": 32768, "sliding_window": 4096, "max_window_layers": 28,
    },
    "qwen3": {
        "num_key_value_heads": 32, "max_position_embeddings": 32768, "sliding_window": 4096, "max_window_layers": 28,
        "head_dim": 128,
    },
}  # fmt: skip

# Fields that change the maths, and the only values of theirs that we compute. A key that is absent is fine.
_OFF = (None, False, 0)
_ONE = (None, 1)
_SUPPORTED_VALUES: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu", "swish"),
    "hidden_activation": (None, "silu", "swish"),
    "quantization_config": (None,),
    "compression_config": (None,),
    "pretraining_tp": (None, 0, 1),
    "partial_rotary_factor": _ONE,
    "rotary_pct": _ONE,
    "is_encoder_decoder": _OFF,
    "add_cross_attention": _OFF,
    "num_experts": _OFF,
    "num_local_experts": _OFF,
    "n_routed_experts": _OFF,
    "moe_intermediate_size": _OFF,
    "attn_logit_softcapping": (None,),
    "final_logit_softcapping": (None,),
    "embedding_multiplier": _ONE,
    "residual_multiplier": _ONE,
    "attention_multiplier": (None,),
    "logits_scaling": _ONE,
    "attn_temperature_tuning": _OFF,
    "use_mrope": _OFF,
    "dual_chunk_attention_config": (None,),
    "use_parallel_embedding": _OFF,
    "no_rope_layers": (None,),
    "rms_norm_add_unit_offset": _OFF,
    "attention_sinks": _OFF,
    "use_bidirectional_attention": _OFF,
    "clip_qkv": (None,),
    "rope_interleaved": _OFF,
    "scale_emb": _ONE,
    "scale_depth": _ONE,
}
_SUPPORTED_BY_FAMILY: dict[str, dict[str, tuple[Any, ...]]] = {
    "cohere2": {
        "use_qk_norm": _OFF, "mlp_bias": _OFF, "use_gated_activation": (None, True), "use_parallel_block": (None, True),
        "position_embedding_type": (None, "rope_gptj"), "order_of_interleaved_layers": (None, "local_attn_first"),
    },
    "llama": {"use_qk_norm": _OFF, "sliding_window": _OFF, "logit_scale": _ONE},
    "mistral": {"use_qk_norm": _OFF, "attention_bias": _OFF, "mlp_bias": _OFF, "logit_scale": _ONE},
    "qwen2": {"use_qk_norm": _OFF, "attention_bias": (None, True), "mlp_bias": _OFF, "logit_scale": _ONE},
    "qwen3": {"use_qk_norm": (None, True), "mlp_bias": _OFF, "logit_scale": _ONE},
}  # fmt: skip

_ROPE_KEYS = {
    "default": {"rope_theta"},
    "llama3": {"rope_theta", "factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"},
    "yarn": {"rope_theta", "factor", "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow", "mscale",
             "mscale_all_dim", "truncate"},
}  # fmt: skip


def load_spec(path: Path) -> ModelSpec:
    """The spec of the model directory `path`: its config.json, and the stop ids of its generation_config.json too.

    Raises ModelError when a file is missing, is not JSON, or says something that we do not compute.
    """
    config = read_json(path / "config.json")
    spec = read_spec(config)
    generation = path / "generation_config.json"
    if generation.exists():
        more = _ids(read_json(generation), "eos_token_id", spec.vocab)
        spec = replace(spec, eos_ids=tuple(dict.fromkeys(spec.eos_ids + more)))
    return spec


def read_spec(config: dict[str, Any]) -> ModelSpec:
    """Read the content of a Hugging Face config.json the way transformers 5 does.

    Raises ModelError naming the field (and its value) that is missing, wrong, or not supported.
    """
    family = config.get("model_type")
    if family not in FAMILIES:
        raise ModelError(
            f"model_type {family!r} is not supported: Senryu computes {', '.join(FAMILIES)}. Choose a model of these families."
        )
    _refuse_unsupported(family, config)
    config = {**_DEFAULTS[family], **config}

    hidden, heads = _size(config, "hidden_size"), _size(config, "num_attention_heads")
    kv_heads = heads if config.get("num_key_value_heads") is None else _size(config, "num_key_value_heads")
    if heads % kv_heads:
        raise ModelError(f"num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}.")
    if config.get("head_dim") is None and hidden % heads:
        raise ModelError(f"hidden_size {hidden} is not a multiple of num_attention_heads {heads}, and there is no head_dim.")
    head_dim = hidden // heads if config.get("head_dim") is None else _size(config, "head_dim")
    if head_dim % 2:
        raise ModelError(f"head_dim {head_dim} is odd: rotary positions turn pairs of numbers.")

    cohere, bias = family == "cohere2", _typed(config, "attention_bias", bool, False)
    theta, scaling = _read_rope(config)
    vocab = _size(config, "vocab_size")
    return ModelSpec(
        family=family,
        hidden=hidden,
        layers=_read_layers(family, config),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        ffn=_size(config, "intermediate_size"),
        vocab=vocab,
        max_position=_context(config, scaling),
        norm="layer" if cohere else "rms",
        norm_eps=_number(config, "layer_norm_eps" if cohere else "rms_norm_eps", 1e-6),
        parallel_block=cohere,
        qk_norm=family == "qwen3",
        qkv_bias=bias or family == "qwen2",
        o_bias=bias and family != "qwen2",
        mlp_bias=_typed(config, "mlp_bias", bool, False),
        tied_head=_typed(config, "tie_word_embeddings", bool, False),
        rope_theta=theta,
        rope_interleaved=cohere,
        rope_scaling=scaling,
        logit_scale=_number(config, "logit_scale", 1.0),
        bos_id=next(iter(_ids(config, "bos_token_id", vocab)), None),
        eos_ids=_ids(config, "eos_token_id", vocab),
    )


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of a model directory. Raises ModelError when it is missing or is not a JSON object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{path.parent} has no {path.name}: it is not a complete Hugging Face model directory.") from None
    except (OSError, RecursionError, ValueError) as error:
        raise ModelError(f"{path} cannot be read ({error}). Download it again.") from None
    if not isinstance(value, dict):
        raise ModelError(f"{path} holds a {type(value).__name__}, not a JSON object. Download it again.")
    return value


def _refuse_unsupported(family: str, config: dict[str, Any]) -> None:
    for field, allowed in (_SUPPORTED_VALUES | _SUPPORTED_BY_FAMILY[family]).items():
        if field in config and config[field] not in allowed:
            wanted = " or ".join(repr(value) for value in allowed)
            raise ModelError(f"{family} with {field} = {config[field]!r} is not supported: only {wanted} is computed.")


def _read_layers(family: str, config: dict[str, Any]) -> tuple[LayerSpec, ...]:
    """Window and RoPE of each layer: from `layer_types` if given, else by the family's rule."""
    count, window = _size(config, "num_hidden_layers"), config.get("sliding_window")
    if family in ("qwen2", "qwen3") and not _typed(config, "use_sliding_window", bool, False):
        window = None
    if window is not None:
        window = _size(config, "sliding_window")
    types = _typed(config, "layer_types", list, []) or _default_layer_types(family, config, count, window)
    if len(types) != count:
        raise ModelError(f"layer_types has {len(types)} entries for num_hidden_layers = {count}.")
    unknown = [kind for kind in types if kind not in ("sliding_attention", "full_attention")]
    if unknown:
        raise ModelError(
            f"layer_types {unknown[0]!r} is not supported: only sliding_attention and full_attention are computed."
        )
    if "sliding_attention" in types and window is None:
        raise ModelError("layer_types has 'sliding_attention' but sliding_window is null or switched off.")
    if family == "mistral" and window is not None and "full_attention" in types:
        raise ModelError(
            "mistral slides on every layer: 'full_attention' in layer_types beside a sliding_window is not supported."
        )
    # cohere2: layers that see everything carry no positions (NoPE); every other family rotates on all layers.
    return tuple(
        LayerSpec(window=window if sliding else None, rope=sliding or family != "cohere2")
        for sliding in (kind == "sliding_attention" for kind in types)
    )


def _default_layer_types(family: str, config: dict[str, Any], count: int, window: int | None) -> list[str]:
    if family == "cohere2":
        pattern = "_sliding_window_pattern" if "_sliding_window_pattern" in config else "sliding_window_pattern"
        every = _size({pattern: 4, **config}, pattern)
        sliding = [(layer + 1) % every != 0 for layer in range(count)]
    elif family == "mistral":
        sliding = [window is not None] * count
    elif family == "llama":
        sliding = [False] * count
    else:
        full = _typed(config, "max_window_layers", int, 0)
        sliding = [window is not None and layer >= full for layer in range(count)]
    return ["sliding_attention" if yes else "full_attention" for yes in sliding]


def _read_rope(config: dict[str, Any]) -> tuple[float, RopeScaling | None]:
    """Theta and scaling from `rope_parameters` (transformers 5) or `rope_theta` + `rope_scaling` (before)."""
    rope = _typed(config, "rope_scaling", dict, {}) or _typed(config, "rope_parameters", dict, {})
    kind = rope.get("rope_type", rope.get("type", "default"))
    if not isinstance(kind, str) or kind not in _ROPE_KEYS:
        raise ModelError(f"rope_type {kind!r} is not supported: only {', '.join(_ROPE_KEYS)} are computed.")
    for key, value in rope.items():
        if key in ("rope_type", "type") or (key == "partial_rotary_factor" and value in _ONE):
            continue
        if key not in _ROPE_KEYS[kind]:
            raise ModelError(f"rope_parameters.{key} = {value!r} is not supported with rope_type {kind!r}.")
    theta = _number(rope, "rope_theta", _number(config, "rope_theta", 10000.0))
    if kind == "default":
        return theta, None

    # a key beside rope_parameters wins over the one inside, as in transformers
    lengths = {"original_max_position_embeddings": config["max_position_embeddings"]} | rope | config
    original = _size(lengths, "original_max_position_embeddings")
    if kind == "llama3":
        low, high = _number(rope, "low_freq_factor"), _number(rope, "high_freq_factor")
        if not 0 < low < high:
            raise ModelError(f"rope_parameters.low_freq_factor {low} must be positive and below high_freq_factor {high}.")
        return theta, RopeScaling("llama3", _number(rope, "factor"), original, low_freq_factor=low, high_freq_factor=high)
    factor = _number(rope, "factor", _size(config, "max_position_embeddings") / original)
    return theta, RopeScaling(
        "yarn",
        factor,
        original,
        beta_fast=_number(rope, "beta_fast", 32.0),
        beta_slow=_number(rope, "beta_slow", 1.0),
        attention_factor=_yarn_attention_factor(rope, factor),
        truncate=_typed(rope, "truncate", bool, True),
    )


def _context(config: dict[str, Any], scaling: RopeScaling | None) -> int:
    """Tokens that the positions are made for. YaRN is often switched on without raising max_position_embeddings."""
    longest = _size(config, "max_position_embeddings")
    if scaling is not None and scaling.kind == "yarn":
        longest = max(longest, int(scaling.factor * scaling.original_max_position))
    return longest


def _yarn_attention_factor(rope: dict[str, Any], factor: float) -> float:
    """The temperature of YaRN (arXiv:2309.00071, eq. 22), with DeepSeek's mscale / mscale_all_dim when both are given."""
    if rope.get("attention_factor") is not None:
        return _number(rope, "attention_factor")

    def temperature(mscale: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0

    if rope.get("mscale") and rope.get("mscale_all_dim"):
        return temperature(_number(rope, "mscale")) / temperature(_number(rope, "mscale_all_dim"))
    return temperature(1.0)


_T = TypeVar("_T")


def _typed(config: dict[str, Any], field: str, kind: type[_T], default: _T) -> _T:
    value = config.get(field)
    if value is None:
        return default
    if not isinstance(value, kind):
        raise ModelError(f"{field} = {value!r} in config.json should be a {kind.__name__}.")
    return value


def _size(config: dict[str, Any], field: str) -> int:
    value = config.get(field)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        problem = "is missing" if value is None else f"= {value!r} is not a positive whole number"
        raise ModelError(f"{field} {problem} in config.json.")
    return value


def _number(config: dict[str, Any], field: str, default: float | None = None) -> float:
    value = config.get(field)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ModelError(
            f"{field} {'is missing' if value is None else f'= {value!r} is not a positive number'} in config.json."
        )
    return float(value)


def _ids(config: dict[str, Any], field: str, vocab: int) -> tuple[int, ...]:
    """Token ids of a field that may be absent, null, one id or a list."""
    value = config.get(field)
    ids = [] if value is None else value if isinstance(value, list) else [value]
    for token in ids:
        if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < vocab:
            raise ModelError(f"{field} = {value!r} is not a token id of this vocabulary of {vocab}.")
    return tuple(ids)
