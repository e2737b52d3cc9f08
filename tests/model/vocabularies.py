"""Small tokenizers of the kinds that model families use, trained on a few words."""

from __future__ import annotations

import json
from functools import cache

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

WORDS = [
    "hello world, what is this? a test of the thing: {} [1, 2] naïve café 日本語 привет 🙂 👩‍👩‍👧",
    "assistant user system tool result name arguments END OF TURN hello  hello   hello\n\n\tdef f(x): return x",
]
MARKS = [
    "<|pad|>", "<|begin|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|tools|>", "<|call|>", "<|result|>",
    "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "[INST]", "[/INST]",
    "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "<|START_OF_TURN_TOKEN|>",
    "<|END_OF_TURN_TOKEN|>", "<|SYSTEM_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>",
]  # fmt: skip
KINDS = ["byte level", "prepend", "metaspace first", "metaspace always"]


@cache
def description(kind: str) -> str:
    """A tokenizer.json."""
    if kind == "byte level":
        backend = tokenizers.Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=460, special_tokens=MARKS, initial_alphabet=alphabet, show_progress=False)
        backend.train_from_iterator(WORDS * 3, trainer)
        return backend.to_str()
    backend = tokenizers.Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    backend.normalizer = normalizers.Replace(" ", "▁")
    raw = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=["<unk>", *MARKS, *raw], limit_alphabet=40, show_progress=False
    )
    backend.train_from_iterator(WORDS * 3, trainer)
    found = json.loads(backend.to_str())
    found["added_tokens"] = [token for token in found["added_tokens"] if token["content"] not in raw]
    return json.dumps(found | _SENTENCEPIECE[kind])


_SPACES = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
_BYTES = [_SPACES, {"type": "ByteFallback"}, {"type": "Fuse"}]
_STRIP = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
_METASPACE = {"type": "Metaspace", "replacement": "▁", "split": False}
_SENTENCEPIECE = {
    "prepend": {
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            ],
        },
        "decoder": {"type": "Sequence", "decoders": [*_BYTES, _STRIP]},
    },
    "metaspace first": {
        "normalizer": None,
        "pre_tokenizer": _METASPACE | {"prepend_scheme": "first"},
        "decoder": {"type": "Sequence", "decoders": [*_BYTES, _STRIP]},
    },
    "metaspace always": {
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [_METASPACE | {"prepend_scheme": "always"}]},
        "decoder": _METASPACE | {"prepend_scheme": "always"},
    },
}


def backend(kind: str) -> tokenizers.Tokenizer:
    """A fresh tokenizer of the library."""
    return tokenizers.Tokenizer.from_str(description(kind))
