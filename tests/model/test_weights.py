"""safetensors mapped and checked: sharded, half precision, corrupt, mismatched, and never a pickle."""

from __future__ import annotations

import json
import os
import struct
from dataclasses import replace
from pathlib import Path

import checkpoints
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

import senryu.model.weights as module
from senryu.model.spec import ModelError, ModelSpec, load_spec
from senryu.model.weights import Weights, check, expected_shapes, load_weights


def arrays(*names: str) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    return {name: rng.normal(size=(4, 6)).astype(np.float32) for name in names or ("a", "b", "c")}


def write(path: Path, header: object, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    (path / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def test_tensors_are_views_of_the_file(tmp_path: Path) -> None:
    save_file(arrays(), tmp_path / "model.safetensors", metadata={"format": "pt"})
    weights = load_weights(tmp_path)
    assert sorted(weights) == ["a", "b", "c"]
    assert weights.nbytes == 3 * 24 * 4
    for name, array in arrays().items():
        assert np.array_equal(weights[name], array)
        assert np.array_equal(weights.float32(name), array)
        assert not weights[name].flags.writeable
        assert not weights[name].flags.owndata


def test_shards_are_one_checkpoint(tmp_path: Path) -> None:
    model = checkpoints.make("qwen3")
    one, many = checkpoints.save(model, tmp_path / "one"), checkpoints.save(model, tmp_path / "many", max_shard_size="30KB")
    assert len(list(many.glob("*.safetensors"))) > 3
    whole, sharded = load_weights(one), load_weights(many)
    assert sorted(whole) == sorted(sharded)
    assert all(np.array_equal(whole[name], sharded[name]) for name in whole)
    assert whole.fingerprint == sharded.fingerprint
    check(load_spec(many), sharded)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 0xFFFF), min_size=1, max_size=40))
def test_bf16_bits_are_the_upper_half_of_float32(bits: list[int]) -> None:
    stored = np.array(bits, np.uint16)
    wide = Weights({"w": stored}).float32("w")
    assert np.array_equal(wide.view(np.uint32), stored.astype(np.uint32) << 16)


def test_unaligned_tensors_can_be_read(tmp_path: Path) -> None:
    header = {
        "h": {"dtype": "F16", "shape": [1], "data_offsets": [0, 2]},
        "f": {"dtype": "F32", "shape": [2], "data_offsets": [2, 10]},
    }
    data = np.array([1.5], "<f2").tobytes() + np.array([2.5, 3.5], "<f4").tobytes()
    weights = load_weights(write(tmp_path, header, data))
    assert weights.float32("h").tolist() == [1.5]
    assert weights.float32("f").tolist() == [2.5, 3.5]
    assert weights.float32("f").flags.aligned


def test_pickles_are_refused(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(ModelError, match=r"only as pickles \(pytorch_model\.bin\), which can run code.*save_pretrained"):
        load_weights(tmp_path)


def test_an_empty_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no model\.safetensors and no model\.safetensors\.index\.json"):
        load_weights(tmp_path)


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_file(arrays(), file)
    content = file.read_bytes()
    for length in [0, 1, 7, 8, 9, 40, len(content) - 100, len(content) - 1]:
        file.write_bytes(content[:length])
        with pytest.raises(ModelError, match="Download it again"):
            load_weights(tmp_path)
    file.write_bytes(content + b"\0")
    with pytest.raises(ModelError, match="Download it again"):
        load_weights(tmp_path)


@pytest.mark.parametrize(
    "header",
    [
        b"not json",
        b"\xff\xfe",
        b"[]",
        b"3",
        {"a": 3},
        {"a": {"dtype": "F32", "shape": [1]}},
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0]}},
        {"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": ["1"], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}},
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}},
        {
            "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
            "b": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
        },
        {"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}},
    ],
)
def test_malformed_headers_are_refused(header: object, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model\.safetensors.*Download it again"):
        load_weights(write(tmp_path, header, b"\0" * 4))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 400), byte=st.integers(0, 255))
def test_a_changed_byte_never_crashes(at: int, byte: int, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_file(arrays(), file)
    content = bytearray(file.read_bytes())
    content[at % len(content)] = byte
    file.write_bytes(content)
    try:
        weights = load_weights(tmp_path)
    except ModelError:
        return
    assert all(weights.float32(name).size <= 24 for name in weights)


def test_other_dtypes_are_named(tmp_path: Path) -> None:
    header = {"layer.qweight": {"dtype": "I8", "shape": [4], "data_offsets": [0, 4]}}
    with pytest.raises(ModelError, match=r"layer\.qweight is I8, which is not supported"):
        load_weights(write(tmp_path, header, b"\0" * 4))
    with pytest.raises(ModelError, match=r"w is int64"):
        Weights({"w": np.zeros(3, np.int64)})


@pytest.mark.parametrize("file", ["../elsewhere.safetensors", "/etc/passwd", "deep/a.safetensors", "a.bin", 7])
def test_an_index_cannot_point_elsewhere(file: object, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": file}}))
    with pytest.raises(ModelError, match="not a safetensors file beside it"):
        load_weights(tmp_path)


def test_index_and_shards_must_agree(tmp_path: Path) -> None:
    index = tmp_path / "model.safetensors.index.json"
    save_file(arrays("a"), tmp_path / "one.safetensors")
    index.write_text(json.dumps({"weight_map": {"a": "one.safetensors", "b": "one.safetensors"}}))
    with pytest.raises(ModelError, match=r"one\.safetensors lacks b"):
        load_weights(tmp_path)
    index.write_text(json.dumps({"weight_map": {"a": "two.safetensors"}}))
    with pytest.raises(ModelError, match=r"two\.safetensors cannot be read"):
        load_weights(tmp_path)
    index.write_text("{}")
    with pytest.raises(ModelError, match="has no weight_map"):
        load_weights(tmp_path)


def small(large: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if large:
        monkeypatch.setattr(module, "_HASH_WHOLE", 100)
        monkeypatch.setattr(module, "_HASH_SAMPLE", 8)


@pytest.mark.parametrize("large", [False, True])
def test_the_fingerprint_follows_content(large: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small(large, monkeypatch)
    file, seen = tmp_path / "model.safetensors", set()
    changed = arrays() | {"a": arrays()["a"] + np.eye(4, 6, dtype=np.float32)}
    transposed = arrays() | {"a": arrays()["a"].reshape(6, 4)}
    renamed = {name.upper(): array for name, array in arrays().items()}
    for variant in (arrays(), changed, transposed, renamed):
        save_file(variant, file)
        os.utime(file, ns=(1, 1))
        seen.add(load_weights(tmp_path).fingerprint)
    assert len(seen) == 4
    save_file(arrays(), file)
    os.utime(file, ns=(1, 1))
    assert load_weights(tmp_path).fingerprint in seen


def test_a_small_edit_of_a_large_file_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small(True, monkeypatch)
    file = tmp_path / "model.safetensors"
    save_file(arrays(), file)
    os.utime(file, ns=(1, 1))
    before = load_weights(tmp_path).fingerprint
    edited = arrays()
    edited["b"][1, 0] += 1  # between the samples
    save_file(edited, file)
    assert load_weights(tmp_path).fingerprint != before


def test_check_names_what_is_wrong(tmp_path: Path) -> None:
    spec, weights = _tiny(tmp_path)
    check(spec, weights)
    whole = dict(weights)

    without = {name: array for name, array in whole.items() if ".layers.1.mlp" not in name}
    with pytest.raises(ModelError, match=r"lacks model\.layers\.1\.mlp\.gate_proj\.weight.* A qwen2 model"):
        check(spec, Weights(without))
    with pytest.raises(ModelError, match=r"model\.norm\.weight is \(7,\) where config\.json says \(48,\)"):
        check(spec, Weights(whole | {"model.norm.weight": np.zeros(7, np.float32)}))
    with pytest.raises(ModelError, match=r"has model\.layers\.9\.odd\.weight, which a qwen2 model"):
        check(spec, Weights(whole | {"model.layers.9.odd.weight": np.zeros(7, np.float32)}))
    with pytest.raises(ModelError, match=r"self_attn\.q_proj\.bias"):
        check(replace(spec, qkv_bias=False), weights)
    check(spec, Weights(whole | {"model.layers.0.self_attn.rotary_emb.inv_freq": np.zeros(6, np.float32)}))


def test_a_tied_head_may_be_stored_if_it_is_the_embedding(tmp_path: Path) -> None:
    spec, weights = _tiny(tmp_path, tie_word_embeddings=True)
    assert "lm_head.weight" not in weights
    embedding = weights["model.embed_tokens.weight"]
    check(spec, Weights(dict(weights) | {"lm_head.weight": embedding}))
    with pytest.raises(ModelError, match="differs from the embedding"):
        check(spec, Weights(dict(weights) | {"lm_head.weight": embedding + 1}))


def _tiny(path: Path, **changes: object) -> tuple[ModelSpec, Weights]:
    checkpoints.save(checkpoints.make("qwen2", **changes), path)
    spec, weights = load_spec(path), load_weights(path)
    assert {name: array.shape for name, array in weights.items()} == expected_shapes(spec)
    return spec, weights
