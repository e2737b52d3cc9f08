"""Tokenizer training: a byte-level BPE with the special tokens in their fixed places, written in Hugging Face form."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

_CHAT = ("<|pad|>", "<|begin|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|tools|>", "<|call|>", "<|result|>")
_OTHER = ("<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|think|>", "<|end_think|>", "<|text|>")
_NAMED = _CHAT + _OTHER
SPECIALS = (*_NAMED, *(f"<|spare_{i}|>" for i in range(64 - len(_NAMED))))
IDS = {token: i for i, token in enumerate(SPECIALS)}
PAD, BEGIN, END = (IDS[t] for t in ("<|pad|>", "<|begin|>", "<|end|>"))

# Words with their leading space, digits one by one (arithmetic and ids stay readable), punctuation runs, line breaks.
SPLIT = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Learn `vocab_size` tokens, specials and the 256 bytes included, from `texts`. Deterministic for given texts."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(SPLIT), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIALS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def contains_special(text: str) -> bool:
    """Whether a text spells a special token; such documents are left out of training."""
    return "<|" in text and any(token in text for token in SPECIALS)


def write_tokenizer(tokenizer: Tokenizer, folder: Path, max_length: int) -> None:
    """Write tokenizer.json and tokenizer_config.json as transformers' AutoTokenizer reads them."""
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|begin|>",
        "eos_token": "<|end|>",
        "pad_token": "<|pad|>",
        "extra_special_tokens": [t for t in SPECIALS if t not in ("<|begin|>", "<|end|>", "<|pad|>")],
        "clean_up_tokenization_spaces": False,
        "model_max_length": max_length,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf8")
