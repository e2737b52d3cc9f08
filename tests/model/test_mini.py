"""The shipped model: its files belong together, and transformers says the same from them."""

from __future__ import annotations

from pathlib import Path

import checkpoints
import numpy as np
import pytest
from transformers import AutoTokenizer

from senryu.model.hub import describe, local_models, resolve
from senryu.model.spec import load_spec
from senryu.model.template import load_template
from senryu.model.tokenizer import load_tokenizer
from senryu.model.transformer import Cache, forward
from senryu.model.weights import check, load_weights

MINI = resolve("mini", Path("/nowhere"))
CHAT = [
    {"role": "system", "content": "Answer in one word."},
    {"role": "user", "content": "What is the capital of France? 🙂"},
    {"role": "assistant", "content": "Paris"},
    {"role": "user", "content": "And of Italy?"},
]
MARKS = [
    "<|pad|>", "<|begin|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|tools|>", "<|call|>", "<|result|>",
    "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|think|>", "<|end_think|>", "<|text|>",
]  # fmt: skip


def test_the_files_belong_together() -> None:
    spec, tokenizer = load_spec(MINI.path), load_tokenizer(MINI.path)
    check(spec, load_weights(MINI.path))
    assert (MINI.name, MINI.ref) == ("senryu-mini", "mini")
    assert MINI in local_models(Path("/nowhere"))
    assert tokenizer.vocab_size == spec.vocab
    assert list(tokenizer.special_tokens.items())[:15] == [(mark, id) for id, mark in enumerate(MARKS)]
    assert tokenizer.special_ids == frozenset(range(64))
    assert tokenizer.eos_ids == set(spec.eos_ids) == {2}
    facts = describe(MINI)
    assert (facts["template"], facts["dtype"], facts["family"]) == (True, "bf16", "cohere2")


def test_transformers_encodes_a_chat_the_same() -> None:
    tokenizer = load_tokenizer(MINI.path)
    pieces = load_template(MINI.path, tokenizer).render(CHAT)
    theirs = AutoTokenizer.from_pretrained(MINI.path)
    assert pieces == [theirs.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)]
    ids = tokenizer.encode_rendered(pieces)
    assert ids == theirs.apply_chat_template(CHAT, add_generation_prompt=True, return_dict=False)
    assert tokenizer.decode(ids) == "".join(message["content"] for message in CHAT)


@pytest.mark.parametrize("tokens", [24, 700])  # one inside the windows, one beyond
def test_transformers_computes_the_same_logits(tokens: int) -> None:
    ids = np.array((load_tokenizer(MINI.path).encode(str(CHAT) + Path(__file__).read_text()) * 9)[:tokens])
    ours = forward(load_spec(MINI.path), load_weights(MINI.path).to_float32(), ids)
    assert np.abs(ours - checkpoints.logits(checkpoints.load(MINI.path), ids)).max() < 1e-3


def test_transformers_writes_the_same_greedy_text() -> None:
    tokenizer, spec, weights = load_tokenizer(MINI.path), load_spec(MINI.path), load_weights(MINI.path).to_float32()
    prompt = tokenizer.encode_rendered(load_template(MINI.path, tokenizer).render(CHAT))
    answer, cache, new = [], Cache(spec), prompt
    while len(answer) < 24 and new[-1] not in tokenizer.eos_ids:
        new = [int(forward(spec, weights, new, cache)[-1].argmax())]
        answer += new
    model = checkpoints.load(MINI.path)
    theirs = model.generate(checkpoints.torch.tensor([prompt]), do_sample=False, max_new_tokens=24, use_cache=True)
    assert answer == theirs[0, len(prompt) :].tolist()
