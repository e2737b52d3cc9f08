"""Three hundred schemas of our own making, answered by nano at temperature 1: every answer is valid. Prints mask times.

`make slow`, or: python -m pytest -m slow -s tests/engine/test_grammar_slow.py
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from stepping import request

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
NANO = resolve("nano", Path("/nowhere"))
NAMES = ["id", "name", "title", "price", "items", "city", "kind", "created", "über", "naïve", "名前", "a-b", "x.y", "z$"]
PATTERNS = ("^[a-z]{2,9}$", "^\\d{4}-[A-F]{2}$", "^(yes|no|may be)$", "^\\w{1,5}\\s\\w{1,5}$")
Schema = dict[str, Any]


class Maker:
    """Random schemas whose answers are bounded in length."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)

    def make(self, depth: int) -> Schema:
        kinds = [self.string, self.integer, self.number, self.choice, self.simple, self.pattern, self.formatted]
        if depth:
            kinds += [self.object, self.object, self.array, self.tuple, self.either]
        return self.draw.choice(kinds)(depth - 1)

    def string(self, _: int) -> Schema:
        low = self.draw.randint(0, 4)
        return {"type": "string", "minLength": low, "maxLength": low + self.draw.randint(0, 20)}

    def integer(self, _: int) -> Schema:
        low = self.draw.randint(-2000, 2000)
        bounds = {"minimum": low, "maximum": low + self.draw.randint(0, 5000)}
        if self.draw.random() < 0.3:
            return {"type": "integer", "multipleOf": self.draw.choice([2, 5, 7]), "minimum": 0, "maximum": 500}
        return {"type": "integer", **bounds}

    def number(self, _: int) -> Schema:
        low, edge = self.draw.randint(-50, 50) / 2, self.draw.choice(["minimum", "exclusiveMinimum"])
        # without multipleOf a number may have any number of digits, and nano never stops at temperature 1
        return {"type": "number", edge: low, "maximum": low + self.draw.randint(1, 99), "multipleOf": 0.25}

    def choice(self, _: int) -> Schema:
        values: list[Any] = [*self.draw.sample(NAMES, 3), self.draw.randint(-9, 9), None, True, [1, "two"], {"three": 3}]
        return {"enum": self.draw.sample(values, self.draw.randint(1, 5))} if self.draw.random() < 0.8 else {"const": values[0]}

    def simple(self, _: int) -> Schema:
        return {"type": self.draw.choice(["boolean", "null", ["boolean", "null"]])}

    def pattern(self, _: int) -> Schema:
        return {"type": "string", "pattern": self.draw.choice(PATTERNS)}

    def formatted(self, _: int) -> Schema:
        # of the library's formats those that it holds exactly; its "date" knows a year 0, which Python's does not
        return {"type": "string", "format": self.draw.choice(["uuid", "ipv4"])}

    def object(self, depth: int) -> Schema:
        names = self.draw.sample(NAMES, self.draw.randint(1, 5))
        return {
            "type": "object",
            "properties": {name: self.make(depth) for name in names},
            "required": [name for name in names if self.draw.random() < 0.7],
            "additionalProperties": False,
        }

    def array(self, depth: int) -> Schema:
        low = self.draw.randint(0, 2)
        return {"type": "array", "items": self.make(depth), "minItems": low, "maxItems": low + self.draw.randint(0, 3)}

    def tuple(self, depth: int) -> Schema:
        parts = [self.make(depth) for _ in range(self.draw.randint(1, 3))]
        return {"type": "array", "prefixItems": parts, "items": False, "minItems": len(parts), "maxItems": len(parts)}

    def either(self, depth: int) -> Schema:
        return {"anyOf": [self.make(depth) for _ in range(self.draw.randint(2, 3))]}

    def whole(self) -> Schema:
        schema = self.object(2) if self.draw.random() < 0.8 else self.make(2)
        if self.draw.random() < 0.3:
            names = {"whole": schema, "part": {"$ref": "#/$defs/part"}}
            kind = {"type": "object", "required": ["part"], "additionalProperties": False}
            return {"$defs": {"part": self.make(1)}, "properties": names, **kind}
        return schema


def test_every_answer_is_valid(pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch) -> None:
    spec, tokenizer = load_spec(NANO.path), load_tokenizer(NANO.path)
    program = Program(
        spec, load_weights(NANO.path), pages=1024, max_sequences=16, cache_dir=pytestconfig.cache.mkdir("kernels")
    )
    compiler = GrammarCompiler(tokenizer, spec.vocab)
    schemas = [Maker(seed).whole() for seed in range(SCHEMAS)]
    prompt = tuple(tokenizer.encode_rendered(["<|begin|><|user|>Describe something, as JSON.<|end|><|assistant|>"]))
    seconds: list[float] = []
    fill = Matcher.fill

    def timed(self: Matcher, masks: np.ndarray, drafts: list[int]) -> None:
        start = time.perf_counter()
        fill(self, masks, drafts)
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
