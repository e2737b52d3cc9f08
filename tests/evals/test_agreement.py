"""What number formats cost is measured as it is: small for the shipped model, plain to see when something is damaged."""

from __future__ import annotations

import json
import lzma
import math
from pathlib import Path

import numpy as np
import pytest

from senryu import kernels
from senryu.evals.agreement import CHUNK, MOST, VARIANTS, Agreement, agreement, read_texts
from senryu.model.hub import resolve
from senryu.model.program import Program
from senryu.model.spec import load_spec
from senryu.model.tokenizer import load_tokenizer
from senryu.model.weights import Weights, load_weights

MINI = resolve("mini", Path("/nowhere")).path
TEXTS = [
    "I was charged twice for the same card payment yesterday. Can you please tell me how I get the money back?",
    "The heart has four chambers. Blood from the body enters the right atrium, passes into the right ventricle and is pumped "
    "to the lungs, where it takes up oxygen before it returns to the left side of the heart.",
    (Path(__file__).parents[2] / "README.md").read_text(encoding="utf8"),
]
OPTIONS = {"pages": MOST // Program.page_size, "max_sequences": CHUNK}


@pytest.mark.skipif(kernels.available()[0] == "numpy", reason="no compiled kernels run on this CPU")
def test_int8_takes_the_same_next_token(request: pytest.FixtureRequest) -> None:
    spec, weights, tokenizer = load_spec(MINI), load_weights(MINI), load_tokenizer(MINI)
    texts = [np.array([spec.bos_id, *tokenizer.encode(text)]) for text in TEXTS]
    program = Program(spec, weights, **OPTIONS, cache_dir=request.config.cache.mkdir("kernels"))
    try:
        exact = weights.to_float32()
        result = agreement(spec, exact, {"int8": program}, texts)["int8"]
        assert result.tokens > 800
        assert result.share >= 0.97
        assert 0 < result.kl < 0.01
        assert abs(result.delta) < 0.5
        damaged = "model.layers.3.mlp.down_proj.weight"
        other = Weights({name: np.zeros_like(exact[name]) if name == damaged else exact[name] for name in exact})
        assert agreement(spec, other, {"int8": program}, texts)["int8"].share < result.share - 0.05
    finally:
        program.close()


def test_formats_cost_what_they_may() -> None:
    """Of the shipped model over two short texts: bf16 is what it was trained in, int4 is worse than int8."""
    spec, weights, tokenizer = load_spec(MINI), load_weights(MINI), load_tokenizer(MINI)
    texts = [np.array([spec.bos_id, *tokenizer.encode(text)]) for text in TEXTS[:2]]
    names = ("int8", "int8-kv8", "int4", "bf16")
    made = {name: Program(spec, weights, **OPTIONS, kernels="numpy", **VARIANTS[name]) for name in names}
    results = agreement(spec, weights.to_float32(), made, texts)
    assert tuple(results) == names
    assert results["bf16"].kl < 1e-6 < results["int8"].kl < 0.003 < results["int4"].kl < 0.1
    assert results["int8"].kl != results["int8-kv8"].kl < 0.003
    assert abs(results["bf16"].delta) < 0.01
    assert abs(results["int8"].delta) < 1
    assert results["int8"].exact_perplexity == results["int4"].exact_perplexity


def test_perplexity_is_of_the_tokens_that_follow() -> None:
    """Two texts; fp32 says 1/2 of every next token, the variant 1/4, or 1/2 where it is asked about a text's first token."""
    result, half, quarter = Agreement(), math.log(1 / 2), math.log(1 / 4)
    for ids in (np.array([2, 0, 1]), np.array([1, 0])):
        p, q = np.full((len(ids), 3), -50.0), np.full((len(ids), 3), -50.0)
        following = (np.arange(len(ids) - 1), ids[1:])
        p[following], q[following] = half, quarter
        result.add(ids, p, q)
    assert (result.tokens, result.scored) == (5, 3)
    assert result.exact_perplexity == pytest.approx(2)
    assert result.perplexity == pytest.approx(4)
    assert result.delta == pytest.approx(100)
    assert result.kl > 0


def test_texts_of_files(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("plain")
    rows = [
        {"text": "book"},
        {"input": "row"},
        {"messages": [{"content": "a"}, {"content": None}, {"content": "b"}]},
        {"text": "x"},
    ]
    with lzma.open(tmp_path / "b.jsonl.xz", "wt") as out:
        out.writelines(json.dumps(row) + "\n" for row in rows)
    assert list(read_texts(tmp_path / "a.txt", 1)) == ["plain"]
    assert list(read_texts(tmp_path / "b.jsonl.xz", 3)) == ["book", "row", "a\nb"]
