"""Three hundred schemas of our own making, answered by mini at temperature 1: every answer is valid. Prints mask times.

`make slow`, or: python -m pytest -m slow -s tests/engine/test_grammar_slow.py
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from stepping import request

from schemas import Maker
from senryu import kernels
from senryu.engine.grammar import GrammarCompiler, Matcher
from senryu.engine.interface import Grammar
from senryu.engine.local import LocalEngine
from senryu.model.hub import resolve
from senryu.model.program import Program
from senryu.model.spec import load_spec
from senryu.model.tokenizer import load_tokenizer
from senryu.model.weights import load_weights

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(kernels.available()[0] == "numpy", reason="too long without compiled kernels"),
]
SCHEMAS = 300
MINI = resolve("mini", Path("/nowhere"))


def test_every_answer_is_valid(pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, tokenizer = load_spec(MINI.path), load_tokenizer(MINI.path)
    program = Program(
        spec, load_weights(MINI.path), pages=1024, max_sequences=16, cache_dir=pytestconfig.cache.mkdir("kernels")
    )
    compiler = GrammarCompiler(tokenizer, spec.vocab)
    schemas = [Maker(seed).whole() for seed in range(SCHEMAS)]
    prompt = tuple(tokenizer.encode_rendered(["<|begin|><|user|>Describe something, as JSON.<|end|><|assistant|>"]))
    seconds: list[float] = []
    fill = Matcher.fill

    def timed(self: Matcher, masks: np.ndarray, drafts: list[int], behind: Sequence[int]) -> None:
        start = time.perf_counter()
        fill(self, masks, drafts, behind)
        seconds.extend([(time.perf_counter() - start) / len(masks)] * len(masks))

    monkeypatch.setattr(Matcher, "fill", timed)

    async def main() -> tuple[list[tuple[str, str | None]], str]:
        engine = LocalEngine(program, grammars=compiler)

        async def answer(seed: int) -> tuple[str, str | None]:
            tokens: list[int] = []
            finish = None
            wanted = request(prompt, 1000, seed=seed, stop=tokenizer.eos_ids)
            sampling = replace(wanted.sampling, top_p=1.0)
            async for event in engine.generate(
                replace(wanted, sampling=sampling, grammar=Grammar("json_schema", json.dumps(schemas[seed])))
            ):
                tokens += event.tokens
                finish = event.finish
            return tokenizer.decode(tokens), finish

        answers = await asyncio.gather(*map(answer, range(SCHEMAS)))
        stats = engine.stats()
        await engine.close()
        return answers, f"{stats.output_tokens} tokens in {stats.steps} steps, {stats.accepted} of {stats.drafted} drafts"

    answers, summary = asyncio.run(main())
    p50, p99, worst = np.percentile(seconds, [50, 99, 100]) * 1e3
    print(f"\n{SCHEMAS} schemas, {summary}; mask ms a token: p50 {p50:.3f}, p99 {p99:.3f}, worst {worst:.3f}")
    for schema, (text, finish) in zip(schemas, answers):
        assert finish == "stop", (schema, text)
        jsonschema.validate(json.loads(text), schema, format_checker=jsonschema.FormatChecker())
