"""config.json as transformers 5 reads it, and a clear refusal of what we do not compute."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import checkpoints
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import CONFIG_MAPPING

from senryu.model.spec import FAMILIES, LayerSpec, ModelError, RopeScaling, load_spec, read_spec

SIZES = {
    "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 6, "num_attention_heads": 4, "vocab_size": 500,
    "num_key_value_heads": 2,
}  # fmt: skip


def config(family: str, **changes: Any) -> dict[str, Any]:
    return {"model_type": family} | SIZES | changes


def windows(family: str, **changes: Any) -> list[int | None]:
    return [layer.window for layer in read_spec(config(family, **changes)).layers]


def test_a_config_of_the_hub_is_read_whole() -> None:
    spec = read_spec(
        config(
            "llama",
            hidden_act="silu",
            head_dim=32,
            attention_bias=True,
            mlp_bias=True,
            rms_norm_eps=1e-5,
            rope_theta=500000.0,
            max_position_embeddings=131072,
            rope_scaling={
                "factor": 32.0,
                "high_freq_factor": 4.0,
                "low_freq_factor": 1.0,
                "original_max_position_embeddings": 8192,
                "rope_type": "llama3",
            },
            tie_word_embeddings=True,
            bos_token_id=1,
            eos_token_id=[3, 7],
            torch_dtype="bfloat16",
            transformers_version="4.45.0",
        )
    )
    assert (spec.hidden, spec.heads, spec.kv_heads, spec.head_dim, spec.ffn, spec.vocab) == (64, 4, 2, 32, 96, 500)
    assert (spec.norm, spec.norm_eps, spec.parallel_block, spec.qk_norm) == ("rms", 1e-5, False, False)
    assert (spec.qkv_bias, spec.o_bias, spec.mlp_bias, spec.tied_head) == (True, True, True, True)
    assert (spec.bos_id, spec.eos_ids, spec.max_position, spec.logit_scale) == (1, (3, 7), 131072, 1.0)
    assert spec.rope_theta == 500000.0
    assert spec.rope_scaling == RopeScaling("llama3", 32.0, 8192, low_freq_factor=1.0, high_freq_factor=4.0)


def test_defaults_of_each_family() -> None:
    specs = {family: read_spec(config(family)) for family in FAMILIES}
    assert {family for family in FAMILIES if specs[family].tied_head} == {"cohere2"}
    assert {family for family in FAMILIES if specs[family].norm == "layer"} == {"cohere2"}
    assert {family for family in FAMILIES if specs[family].qkv_bias} == {"qwen2"}
    assert {family for family in FAMILIES if specs[family].qk_norm} == {"qwen3"}
    assert {family: spec.head_dim for family, spec in specs.items()} == dict.fromkeys(FAMILIES, 16) | {"qwen3": 128}
    assert specs["cohere2"].logit_scale == 0.0625
    assert read_spec(config("llama", num_key_value_heads=None)).kv_heads == 4


def test_windows_of_each_family() -> None:
    assert windows("llama") == [None] * 6
    assert windows("mistral") == [4096] * 6  # the class default
    assert windows("mistral", sliding_window=None) == [None] * 6
    assert windows("cohere2", sliding_window=9) == [9, 9, 9, None, 9, 9]
    assert windows("cohere2", sliding_window=9, sliding_window_pattern=2) == [9, None] * 3
    assert windows("cohere2", sliding_window=9, _sliding_window_pattern=3) == [9, 9, None] * 2
    assert windows("qwen2", sliding_window=9) == [None] * 6  # use_sliding_window is off
    assert windows("qwen2", sliding_window=9, use_sliding_window=True, max_window_layers=4) == [None] * 4 + [9, 9]
    types = ["full_attention", "sliding_attention"] * 3
    assert windows("qwen3", sliding_window=9, use_sliding_window=True, layer_types=types) == [None, 9] * 3


def test_cohere2_rotates_only_where_it_slides() -> None:
    layers = read_spec(config("cohere2", sliding_window=9)).layers
    assert layers[2:4] == (LayerSpec(window=9, rope=True), LayerSpec(window=None, rope=False))
    assert all(layer.rope for family in ("llama", "mistral", "qwen2", "qwen3") for layer in read_spec(config(family)).layers)


@pytest.mark.parametrize(
    ("rope", "factor"),
    [
        ({"factor": 4.0}, 1.1386294361119891),
        ({"factor": 4.0, "attention_factor": 1.5}, 1.5),
        ({"factor": 4.0, "mscale": 0.7, "mscale_all_dim": 0.7}, 1.0),
        ({}, 1.0693147180559945),  # the ratio of the two lengths
    ],
)
def test_yarn_attention_factor(rope: dict[str, Any], factor: float) -> None:
    rope = {"rope_type": "yarn", "original_max_position_embeddings": 1024} | rope
    spec = read_spec(config("qwen2", max_position_embeddings=2048, rope_parameters=rope))
    assert spec.rope_scaling is not None
    assert spec.rope_scaling.attention_factor == pytest.approx(factor)


def test_yarn_lengthens_the_context() -> None:
    rope = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    for length, context in ((32768, 131072), (131072, 131072), (200000, 200000)):
        spec = read_spec(config("qwen2", max_position_embeddings=length, rope_scaling=rope))
        assert spec.max_position == context


def test_old_and_new_rope_keys_mean_the_same() -> None:
    old = config("qwen3", rope_theta=1e6, rope_scaling={"type": "yarn", "factor": 2.0})
    new = config("qwen3", rope_parameters={"rope_type": "yarn", "factor": 2.0, "rope_theta": 1e6})
    assert read_spec(old) == read_spec(new)
    plain = config("llama", rope_theta=7.0, rope_scaling=None)
    assert read_spec(plain) == read_spec(config("llama", rope_parameters={"rope_type": "default", "rope_theta": 7.0}))


@pytest.mark.parametrize(
    ("family", "changes", "named"),
    [
        ("llama", {"model_type": "gpt2"}, r"model_type 'gpt2' .* cohere2, llama, mistral, qwen2, qwen3"),
        ("llama", {"hidden_act": "gelu"}, r"hidden_act = 'gelu'"),
        ("llama", {"pretraining_tp": 2}, r"pretraining_tp = 2"),
        ("llama", {"sliding_window": 512}, r"sliding_window = 512"),
        ("llama", {"partial_rotary_factor": 0.5}, r"partial_rotary_factor = 0.5"),
        ("llama", {"quantization_config": {"quant_method": "gptq"}}, r"quantization_config = .*gptq"),
        ("llama", {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, r"rope_type 'dynamic'"),
        ("llama", {"rope_scaling": {"type": "linear", "factor": 2.0}}, r"rope_type 'linear'"),
        ("llama", {"rope_scaling": {"rope_type": "longrope"}}, r"rope_type 'longrope'"),
        ("llama", {"rope_scaling": {"rope_type": "llama3", "factor": 2.0}}, r"low_freq_factor is missing"),
        ("llama", {"rope_scaling": "yarn"}, r"rope_scaling = 'yarn'"),
        ("mistral", {"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "llama_4_scaling_beta": 0.1}}, "llama_4_scaling"),
        ("mistral", {"attention_bias": True}, r"attention_bias = True"),
        ("mistral", {"layer_types": ["full_attention"] * 6}, r"mistral slides on every layer"),
        ("cohere2", {"use_qk_norm": True}, r"use_qk_norm = True"),
        ("cohere2", {"layer_types": ["chunked_attention"] * 6}, r"layer_types 'chunked_attention'"),
        ("cohere2", {"layer_types": ["full_attention"]}, r"1 entries for num_hidden_layers = 6"),
        ("cohere2", {"sliding_window": None}, r"sliding_window is null"),
        ("cohere2", {"rope_parameters": {"sliding_attention": {"rope_type": "default"}}}, r"sliding_attention"),
        ("qwen2", {"num_experts": 8}, r"num_experts = 8"),
        ("qwen2", {"attention_bias": False}, r"attention_bias = False"),
        ("qwen3", {"head_dim": 15}, r"head_dim 15 is odd"),
        ("qwen3", {"num_key_value_heads": 3}, r"num_attention_heads 4 is not a multiple of num_key_value_heads 3"),
        ("qwen3", {"hidden_size": None}, r"hidden_size is missing"),
        ("qwen3", {"vocab_size": "many"}, r"vocab_size = 'many'"),
        ("qwen3", {"eos_token_id": 500}, r"eos_token_id = 500 is not a token id of this vocabulary of 500"),
        ("qwen3", {"rms_norm_eps": 0}, r"rms_norm_eps = 0"),
    ],
)
def test_what_we_do_not_compute_is_named(family: str, changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ModelError, match=named):
        read_spec(config(family, **changes))


def test_stop_ids_of_both_files(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config("llama", eos_token_id=2)))
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": [9, 2], "temperature": 0.6}))
    assert load_spec(tmp_path).eos_ids == (2, 9)


def test_a_directory_that_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no config\.json"):
        load_spec(tmp_path)
    for content in ("", "{", "[1]", '"x"'):
        (tmp_path / "config.json").write_text(content)
        with pytest.raises(ModelError, match=r"config\.json .*Download it again"):
            load_spec(tmp_path)


@settings(max_examples=60, deadline=None)
@given(
    family=st.sampled_from(FAMILIES),
    layers=st.integers(1, 9),
    sliding=st.one_of(st.none(), st.integers(1, 9000)),
    use=st.booleans(),
    upper=st.integers(0, 9),
    tied=st.booleans(),
)
def test_layers_are_those_of_transformers(
    family: str, layers: int, sliding: int | None, use: bool, upper: int, tied: bool
) -> None:
    """The config that transformers writes back gives the windows that its modelling code uses."""
    changes: dict[str, Any] = {"num_hidden_layers": layers, "tie_word_embeddings": tied}
    if family in ("cohere2", "mistral"):
        changes["sliding_window"] = (sliding or 4096) if family == "cohere2" else sliding
    if family in ("qwen2", "qwen3"):
        changes |= {"sliding_window": sliding, "use_sliding_window": use, "max_window_layers": upper}
    theirs = CONFIG_MAPPING[family](**(checkpoints.SHAPE | changes))
    ours = read_spec(json.loads(theirs.to_json_string(use_diff=False)))
    if family == "llama":
        expected = [None] * layers
    elif family == "mistral":
        expected = [theirs.sliding_window] * layers
    else:
        expected = [theirs.sliding_window if kind == "sliding_attention" else None for kind in theirs.layer_types]
    assert [layer.window for layer in ours.layers] == expected
    assert ours.tied_head == tied


FIELDS = [*SIZES, "head_dim", "rope_scaling", "rope_parameters", "layer_types", "eos_token_id", "rope_theta",
          "sliding_window", "logit_scale", "max_position_embeddings", "use_sliding_window", "max_window_layers",
          "tie_word_embeddings"]  # fmt: skip
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 70) | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["rope_type", "factor", "x"]), inner, max_size=3)
    ),
    max_leaves=4,
)


@settings(max_examples=200, deadline=None)
@given(family=st.sampled_from(FAMILIES), field=st.sampled_from(FIELDS), value=ANYTHING)
def test_a_broken_config_is_refused_not_crashed_on(family: str, field: str, value: Any) -> None:
    with contextlib.suppress(ModelError):
        read_spec(config(family, **{field: value}))
