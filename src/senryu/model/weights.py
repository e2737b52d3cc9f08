"""safetensors files in, named memory-mapped arrays out. Knows the names and shapes that a spec needs; does no arithmetic."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from senryu.model.spec import ModelError, ModelSpec, read_json

# bf16 has no numpy type: its bits are kept as uint16, the upper half of a float32.
_DTYPES: dict[str, np.dtype[Any]] = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype("<u2")}
_MAX_HEADER = 100_000_000  # bytes, as the safetensors library allows
_HASH_WHOLE = 64 << 20  # checkpoints up to this many bytes are hashed in full
_HASH_SAMPLE = 16 << 10  # else this many bytes at the start, the middle and the end of every tensor

_IGNORED_SUFFIX = ".rotary_emb.inv_freq"  # old checkpoints carry the frequencies that we compute
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


class Weights(Mapping[str, np.ndarray]):
    """The tensors of a checkpoint by their Hugging Face names.

    `weights[name]` is the array as stored (float32, float16, or for bf16 its bits as uint16), a view of the file where
    the weights were loaded from one; `weights.float32(name)` is always float32. Make one from arrays with `Weights(arrays)`.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], *, files: str = "") -> None:
        """`files` says which files, of what size and age, the arrays are views of; it enters a sampled fingerprint."""
        self._arrays, self._files = dict(arrays), files
        for name, array in self._arrays.items():
            if array.dtype not in _DTYPES.values():
                raise ModelError(f"tensor {name} is {array.dtype}: only float32, float16 and bf16 (as uint16) are supported.")

    def __getitem__(self, name: str) -> np.ndarray:
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def float32(self, name: str) -> np.ndarray:
        """The tensor as float32: stored float32 comes back as it is (read-only, no copy), others are widened exactly."""
        array = self._arrays[name]
        if array.dtype == np.uint16:
            return (array.astype(np.uint32) << 16).view(np.float32)
        return np.require(array, np.float32, "A")

    def to_float32(self) -> Weights:
        """All tensors widened in memory: for the reference path, which reads them again for every call."""
        return Weights({name: self.float32(name) for name in self})

    def dtype(self, name: str) -> str:
        """The stored kind: F32, F16 or BF16."""
        return next(key for key, dtype in _DTYPES.items() if dtype == self._arrays[name].dtype)

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors as stored."""
        return sum(array.nbytes for array in self._arrays.values())

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over every tensor's name, dtype, shape and content; equal however the tensors are sharded.

        Content is hashed whole up to 64 MiB in all. Above, 16 KiB at the start, the middle and the end of each tensor, and
        the files' sizes and modification times, so that a small edit in place is seen too without reading gigabytes: a
        copy may then get another fingerprint, an edit cannot keep it. It is a cache key, not a signature.
        """
        digest, whole = hashlib.sha256(), self.nbytes <= _HASH_WHOLE
        if not whole:
            digest.update(self._files.encode())
        for name in sorted(self):
            array = self._arrays[name]
            digest.update(f"{name} {self.dtype(name)} {array.shape}\n".encode())
            content = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
            if whole or len(content) <= 3 * _HASH_SAMPLE:
                digest.update(content)
            else:
                for start in (0, (len(content) - _HASH_SAMPLE) // 2, len(content) - _HASH_SAMPLE):
                    digest.update(content[start : start + _HASH_SAMPLE])
        return digest.hexdigest()


def load_weights(path: Path) -> Weights:
    """Map the safetensors of model directory `path`: model.safetensors, or the shards of model.safetensors.index.json.

    Nothing is read but the headers. Raises ModelError when there are none, when a file is truncated or malformed, when the
    index and the shards disagree, and when there are only pickles, which can run code and are never opened.
    """
    single, index = path / "model.safetensors", path / "model.safetensors.index.json"
    if single.exists():
        return Weights(_map_file(single), files=_files_stamp([single]))
    if not index.exists():
        raise ModelError(_why_no_weights(path))
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelError(f"{index} has no weight_map. Download it again.")
    shards = {file: _map_file(_shard_path(path, file)) for file in dict.fromkeys(weight_map.values())}
    lost = [name for name, file in weight_map.items() if name not in shards[file]]
    if lost:
        raise ModelError(f"{path / weight_map[lost[0]]} lacks {_some(lost)}, which {index.name} promises. Download it again.")
    arrays = {name: shards[file][name] for name, file in weight_map.items()}
    return Weights(arrays, files=_files_stamp([path / file for file in sorted(shards)]))


def expected_shapes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that a model of this spec consists of, in the order of the forward pass."""
    hidden, q, kv = spec.hidden, spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (spec.vocab, hidden)}

    def linear(name: str, rows: int, columns: int, bias: bool) -> None:
        shapes[f"{name}.weight"] = (rows, columns)
        if bias:
            shapes[f"{name}.bias"] = (rows,)

    for layer in range(len(spec.layers)):
        at = f"model.layers.{layer}"
        shapes[f"{at}.input_layernorm.weight"] = (hidden,)
        linear(f"{at}.self_attn.q_proj", q, hidden, spec.qkv_bias)
        linear(f"{at}.self_attn.k_proj", kv, hidden, spec.qkv_bias)
        linear(f"{at}.self_attn.v_proj", kv, hidden, spec.qkv_bias)
        if spec.qk_norm:
            shapes[f"{at}.self_attn.q_norm.weight"] = (spec.head_dim,)
            shapes[f"{at}.self_attn.k_norm.weight"] = (spec.head_dim,)
        linear(f"{at}.self_attn.o_proj", hidden, q, spec.o_bias)
        if not spec.parallel_block:
            shapes[f"{at}.post_attention_layernorm.weight"] = (hidden,)
        linear(f"{at}.mlp.gate_proj", spec.ffn, hidden, spec.mlp_bias)
        linear(f"{at}.mlp.up_proj", spec.ffn, hidden, spec.mlp_bias)
        linear(f"{at}.mlp.down_proj", hidden, spec.ffn, spec.mlp_bias)
    shapes["model.norm.weight"] = (hidden,)
    if not spec.tied_head:
        shapes["lm_head.weight"] = (spec.vocab, hidden)
    return shapes


def check(spec: ModelSpec, weights: Weights) -> None:
    """Raise ModelError unless the weights are those of the spec: none missing, none of another shape, none left over."""
    shapes = expected_shapes(spec)
    missing = [name for name in shapes if name not in weights]
    if missing:
        raise ModelError(f"the checkpoint lacks {_some(missing)}. A {spec.family} model with this config.json needs them.")
    wrong = [name for name, shape in shapes.items() if weights[name].shape != shape]
    if wrong:
        name = wrong[0]
        raise ModelError(
            f"tensor {name} is {weights[name].shape} where config.json says {shapes[name]} "
            f"({len(wrong)} of {len(shapes)} tensors differ): the files do not belong together."
        )
    extra = [name for name in weights if name not in shapes and not name.endswith(_IGNORED_SUFFIX)]
    if spec.tied_head and "lm_head.weight" in extra:
        extra.remove("lm_head.weight")
        if not np.array_equal(weights["lm_head.weight"], weights["model.embed_tokens.weight"]):
            raise ModelError("lm_head.weight differs from the embedding that config.json ties it to. Untie them there.")
    if extra:
        raise ModelError(f"the checkpoint has {_some(extra)}, which a {spec.family} model with this config.json does not use.")


def _map_file(path: Path) -> dict[str, np.ndarray]:
    """The tensors of one safetensors file: 8 bytes of header length, the header in JSON, the data without gaps."""
    try:
        size = path.stat().st_size
        content = np.memmap(path, np.uint8, mode="r") if size else np.empty(0, np.uint8)
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error}). Download it again.") from None
    header_bytes = int.from_bytes(content[:8].tobytes(), "little")
    if size < 8 or header_bytes > min(_MAX_HEADER, size - 8):
        raise ModelError(f"{path} is not a safetensors file, or its start is lost ({size} bytes). Download it again.")
    try:
        header = json.loads(content[8 : 8 + header_bytes].tobytes())
        header.pop("__metadata__", None)
        entries = {name: _entry(entry) for name, entry in header.items()}
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise ModelError(f"{path} has a malformed header ({error}). Download it again.") from None

    data, arrays, expected = content[8 + header_bytes :], {}, 0
    for name, (kind, shape, begin, end) in sorted(entries.items(), key=lambda item: item[1][2:]):
        if kind not in _DTYPES:
            raise ModelError(f"{path}: tensor {name} is {kind}, which is not supported: only {', '.join(_DTYPES)} are read.")
        if begin != expected or end - begin != math.prod(shape) * _DTYPES[kind].itemsize:
            raise ModelError(f"{path}: tensor {name} has bytes {begin} to {end}, which do not fit. Download it again.")
        expected = end
        arrays[name] = np.ndarray(shape, _DTYPES[kind], buffer=data, offset=begin) if end <= len(data) else np.empty(0)
    if expected != len(data):
        raise ModelError(f"{path} has {len(data)} bytes of tensors where its header says {expected}. Download it again.")
    return arrays


def _files_stamp(files: list[Path]) -> str:
    return "\n".join(f"{file.name} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files)


def _entry(entry: dict[str, Any]) -> tuple[str, tuple[int, ...], int, int]:
    shape, (begin, end) = entry["shape"], entry["data_offsets"]
    if not all(type(number) is int and number >= 0 for number in (*shape, begin, end)):
        raise ValueError("a shape or an offset is not a whole number")
    return str(entry["dtype"]), tuple(shape), begin, end


def _shard_path(path: Path, file: Any) -> Path:
    if not isinstance(file, str) or Path(file).name != file or not file.endswith(".safetensors"):
        raise ModelError(f"model.safetensors.index.json names {file!r}, which is not a safetensors file beside it.")
    return path / file


def _why_no_weights(path: Path) -> str:
    pickles = sorted(file.name for pattern in _PICKLES for file in path.glob(pattern))
    if pickles:
        return (
            f"{path} has its weights only as pickles ({_some(pickles)}), which can run code and are never opened. "
            "Convert them with transformers (from_pretrained, then save_pretrained), or choose a safetensors revision."
        )
    return f"{path} has no model.safetensors and no model.safetensors.index.json: it holds no weights."


def _some(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
