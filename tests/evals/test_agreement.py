"""The shipped model in int8 takes the next token that the fp32 definition takes, and the measurement can tell otherwise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from senryu import kernels
from senryu.evals.agreement import CHUNK, MOST, agreement
from senryu.model.hub import resolve
from senryu.model.program import Program
from senryu.model.spec import load_spec
from senryu.model.tokenizer import load_tokenizer
from senryu.model.weights import Weights, load_weights

NANO = resolve("nano", Path("/nowhere")).path
TEXTS = [
    "I was charged twice for the same card payment yesterday. Can you please tell me how I get the money back?",
    "The heart has four chambers. Blood from the body enters the right atrium, passes into the right ventricle and is pumped "
    "to the lungs, where it takes up oxygen before it returns to the left side of the heart.",
    (Path(__file__).parents[2] / "README.md").read_text(encoding="utf8"),
]


@pytest.mark.skipif(kernels.available()[0] == "numpy", reason="no compiled kernels run on this CPU")
def test_int8_takes_the_same_next_token(request: pytest.FixtureRequest) -> None:
    spec, weights, tokenizer = load_spec(NANO), load_weights(NANO), load_tokenizer(NANO)
    texts = [np.array([spec.bos_id, *tokenizer.encode(text)]) for text in TEXTS]
    options = {"pages": MOST // Program.page_size, "max_sequences": CHUNK, "cache_dir": request.config.cache.mkdir("kernels")}
    program = Program(spec, weights, **options)
    try:
        exact = weights.to_float32()
        result = agreement(spec, exact, program, texts)
        assert result.tokens > 800
        assert result.share >= 0.97
        assert 0 < result.divergence < 0.01
        damaged = "model.layers.3.mlp.down_proj.weight"
        other = Weights({name: np.zeros_like(exact[name]) if name == damaged else exact[name] for name in exact})
        assert agreement(spec, other, program, texts).share < result.share - 0.05
    finally:
        program.close()
