"""Grammars: what mini says at temperature 1 is valid; what is refused and why; drafts, failures and stop ids beside them."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from stepping import request

from schemas import Maker
from senryu.engine.fake import FakeEngine, FakeProgram
from senryu.engine.grammar import CACHED, GrammarCompiler, MaskThread, Matcher
from senryu.engine.interface import Grammar, GrammarError, TokenRequest
from senryu.engine.local import LocalEngine
from senryu.kernels.batch import Batch
from senryu.kernels.reference import allowed
from senryu.model.hub import resolve
from senryu.model.program import Program
from senryu.model.spec import load_spec
from senryu.model.tokenizer import load_tokenizer
from senryu.model.weights import load_weights
from serving import END, TOKENIZER

MINI = resolve("mini", Path("/nowhere"))
VOCAB = END + 300  # of the byte tokenizer, and some ids that stand for nothing
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"enum": ["red", "green", "blue"]}, "maxItems": 3},
        "email": {"type": ["string", "null"], "pattern": "^[a-z]{1,8}@[a-z]{1,8}\\.org$"},
    },
    "required": ["name", "age", "tags", "email"],
    "additionalProperties": False,
}
SCHEMAS = [
    PERSON,
    {"type": "array", "items": {"type": "number", "minimum": 1, "maximum": 5, "multipleOf": 0.5}, "minItems": 2, "maxItems": 3},
    {"anyOf": [{"type": "boolean"}, {"const": {"a": [1, "x"]}}]},
    {"$defs": {"p": {"type": "object", "properties": {"x": {"type": "integer", "maximum": 99, "minimum": 1}}, "required": ["x"],
     "additionalProperties": False}}, "type": "array", "items": {"$ref": "#/$defs/p"}, "minItems": 1, "maxItems": 2},
]  # fmt: skip


def grammar(schema: object) -> Grammar:
    return Grammar("json_schema", json.dumps(schema))


def matcher(wanted: Grammar, stop_ids: frozenset[int] = frozenset()) -> Matcher:
    return GrammarCompiler(TOKENIZER, VOCAB).compile(wanted, stop_ids)


def masks_for(state: Matcher, drafts: list[int], behind: Sequence[int] | None = None, vocab: int = VOCAB) -> list[set[int]]:
    """Behind all of the drafts, if not told otherwise."""
    behind = range(len(drafts) + 1) if behind is None else behind
    masks = np.zeros((len(behind), -(-vocab // 32)), np.uint32)
    state.fill(masks, drafts, behind)
    return [set(np.flatnonzero(allowed(mask, vocab)).tolist()) for mask in masks]


def ids(text: str) -> list[int]:
    return TOKENIZER.encode(text)


def test_masks_of_drafts_are_those_of_the_tokens_when_they_come() -> None:
    """And the state goes back: the same masks again, and after the tokens that were taken in the end."""
    state, other = matcher(grammar(PERSON)), matcher(grammar(PERSON))
    text = ids('{"name":"Ann","age":7,"tags":["red"],"email":null}')
    one_by_one = []
    for token in text:
        one_by_one += masks_for(other, [])
        other.consume([token])
    one_by_one += masks_for(other, [])
    place, draw = 0, np.random.default_rng(0)
    while place < len(text):
        drafts = text[place : place + int(draw.integers(0, 11))]
        some = sorted(draw.choice(len(drafts) + 1, int(draw.integers(1, len(drafts) + 2)), replace=False).tolist())
        for _ in range(2):
            assert masks_for(state, drafts) == one_by_one[place : place + len(drafts) + 1]
            assert masks_for(state, drafts, some) == [one_by_one[place + i] for i in some]
        taken = int(draw.integers(0, len(drafts) + 1)) if drafts else 1
        state.consume(text[place : place + taken])
        place += taken
    assert state.error is None
    assert masks_for(state, []) == [{END}]


def test_a_forced_token_is_the_only_one_that_may_come() -> None:
    """So it needs no sample. On random ways through random schemas, with tokens of many bytes."""
    tokenizer, draw, forced = load_tokenizer(MINI.path), np.random.default_rng(4), 0
    compiler = GrammarCompiler(tokenizer, tokenizer.vocab_size)
    for seed in range(40):
        state = compiler.compile(grammar(Maker(seed).whole()))
        for _ in range(60):
            ahead = state.forced()
            mask, *behind = masks_for(state, ahead, vocab=tokenizer.vocab_size)
            assert [mask, *behind][: len(ahead)] == [{token} for token in ahead]
            forced += len(ahead)
            token = int(draw.choice(sorted(mask)))
            if token in state.stop_ids:
                break
            state.consume([token])
            assert state.error is None
    assert forced > 1000


def test_forced_tokens_are_what_must_come() -> None:
    state = matcher(grammar(PERSON))
    forced = state.forced()
    assert TOKENIZER.decode(forced).startswith('{"name":')
    assert masks_for(state, forced[:3])[1:] == [{token} for token in forced[1:4]]


def test_special_tokens_and_ids_without_text_are_never_allowed() -> None:
    (mask,) = masks_for(matcher(Grammar("regex", r"(.|\n)*")), [])
    assert mask & set(TOKENIZER.special_ids) == {END}
    assert max(mask) < TOKENIZER.vocab_size
    assert len(mask) > 100


def test_a_stop_id_may_come_only_where_the_answer_is_complete() -> None:
    """Also one that is not the model's end, even one that is text."""
    a, b, pad = *ids("ab"), 0
    state = matcher(Grammar("regex", "a(b|c)?a"), frozenset({b, pad}))
    assert state.stop_ids == {END, b, pad}
    assert masks_for(state, []) == [{a}]
    state.consume([a])
    assert masks_for(state, []) == [{a, *ids("c")}]
    state.consume([a])
    assert masks_for(state, []) == [{END, b, pad}]


def test_a_stop_id_outside_the_vocabulary_has_no_part_in_a_grammar() -> None:
    """Tokenizers may have more ids than the model has logits."""
    state = matcher(Grammar("regex", "a"), frozenset({-1, VOCAB, VOCAB + 1000}))
    assert masks_for(state, []) == [{*ids("a")}]


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        (grammar({"type": "array", "uniqueItems": True}), 'json_schema: Unimplemented keys: ["uniqueItems"]'),
        (grammar({"x-guidance": {"lenient": True}, "uniqueItems": True}), "uniqueItems"),
        (grammar({"type": "strin"}), "strin"),
        (grammar({"type": "string", "pattern": "(?=a)b"}), "look-ahead"),
        (Grammar("json_schema", "{nope"), "line 1"),
        (Grammar("json_schema", "[]"), "object"),
        (grammar(False), "object"),
        (Grammar("regex", "(a"), "unclosed group"),
        (Grammar("lark", "start: foo"), "foo"),
        (Grammar("sql", "select"), "choose json_schema"),  # type: ignore[arg-type]
    ],
)
def test_what_is_not_supported_is_refused_at_the_call_with_the_reason(wanted: Grammar, reason: str) -> None:
    engine = FakeEngine(grammars=GrammarCompiler(TOKENIZER, VOCAB), tokens=range(VOCAB))
    for call in (lambda: engine.compile(wanted), lambda: engine.generate(replace(request([70]), grammar=wanted))):
        with pytest.raises(GrammarError, match=re.escape(reason)):
            call()
    asyncio.run(engine.close())
    assert engine.stats().prompt_tokens == 0


def test_an_engine_without_a_tokenizer_refuses_grammars() -> None:
    engine = FakeEngine()
    with pytest.raises(GrammarError, match="without a tokenizer"):
        engine.generate(replace(request([70]), grammar=grammar(PERSON)))
    asyncio.run(engine.close())


def test_compiled_grammars_are_kept_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = GrammarCompiler(TOKENIZER, VOCAB)
    made = []
    compile_anew = compiler._compile
    monkeypatch.setattr(compiler, "_compile", lambda wanted: made.append(wanted) or compile_anew(wanted))
    for _ in range(3):
        compiler.compile(grammar(PERSON)).consume(ids('{"name"'))  # whose state is its own
    assert len(made) == 1
    for i in range(2 * CACHED):
        compiler.compile(Grammar("regex", f"a{{{i}}}b"))
    assert len(compiler._compiled) == CACHED


async def answer(engine: LocalEngine, wanted: TokenRequest) -> tuple[list[int], str | None]:
    tokens: list[int] = []
    finish = None
    async for event in engine.generate(wanted):
        tokens += event.tokens
        finish = event.finish
    return tokens, finish


def run(main) -> None:
    asyncio.run(asyncio.wait_for(main, 120))


def test_the_engine_keeps_to_grammars_beside_free_neighbours() -> None:
    """Over the fake, which invents any allowed token; the neighbours say what they say alone."""
    slow = {"max_sequences": 8, "seconds_per_step": 0.001}

    async def main() -> None:
        answers = []
        for drafts in (True, False):
            engine = FakeEngine(
                grammars=GrammarCompiler(TOKENIZER, VOCAB), tokens=range(VOCAB), drafts=drafts, check=True, **slow
            )
            wanted = [
                replace(
                    request([70 + i, 71, 72], 400, seed=i if i % 2 else None, stop=[END]),
                    grammar=grammar(schema) if i % 3 else None,
                )
                for i, schema in enumerate(SCHEMAS * 3)
            ]
            answers.append(await asyncio.gather(*(answer(engine, one) for one in wanted)))
            stats = engine.stats()
            assert (stats.accepted > 50) == drafts
            assert stats.pages_live == 0
            await engine.close()
        assert answers[0] == answers[1]
        for i, (tokens, finish) in enumerate(answers[0]):
            if i % 3:
                assert finish == "stop"
                assert tokens[-1] == END
                jsonschema.validate(json.loads(TOKENIZER.decode(tokens)), (SCHEMAS * 3)[i])

    run(main())


def test_forced_tokens_save_steps_and_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[tuple[int, int]] = []
    step = FakeProgram.step

    def counted(self: FakeProgram, batch: Batch) -> np.ndarray:
        sizes.append((len(batch.tokens), len(batch.sample_rows)))
        return step(self, batch)

    monkeypatch.setattr(FakeProgram, "step", counted)

    async def main() -> None:
        steps = []
        for drafts in (True, False):
            sizes.clear()
            engine = FakeEngine(
                grammars=GrammarCompiler(TOKENIZER, VOCAB), tokens=range(VOCAB), drafts=drafts, seconds_per_step=0.001
            )
            wanted = replace(
                request([70], 400), grammar=grammar({"const": {"a long key": "and a long value", "more": [1, 2, 3]}})
            )
            tokens, finish = await answer(engine, wanted)
            assert TOKENIZER.decode(tokens) == '{"a long key":"and a long value","more":[1,2,3]}'
            assert finish == "stop"  # by the model's own end id, though the request named none
            steps.append(engine.stats().steps)
            await engine.close()
            assert max(samples for _, samples in sizes) == 1
            assert (max(rows for rows, _ in sizes) > 10) == drafts
        assert steps[0] * 4 < steps[1]

    run(main())


def test_a_failing_grammar_ends_its_own_request_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    fill = Matcher.fill

    def failing(self: Matcher, masks: np.ndarray, drafts: list[int], behind: Sequence[int]) -> None:
        if failures:
            raise failures.pop()
        fill(self, masks, drafts, behind)

    failures: list[BaseException] = []
    monkeypatch.setattr(Matcher, "fill", failing)

    async def main() -> None:
        engine = FakeEngine(grammars=GrammarCompiler(TOKENIZER, VOCAB), tokens=range(VOCAB), check=True)
        wanted = replace(request([70, 71], 300, seed=4), grammar=grammar(PERSON))
        expected, free = await answer(engine, wanted), await answer(engine, request([90], 50))
        for failure in (ValueError("broken"), BaseException("a panic")):
            failures.append(failure)
            with pytest.raises(RuntimeError, match=f"grammar failed: {failure}"):
                await answer(engine, wanted)
            failures.append(failure)
            results = await asyncio.gather(
                *(answer(engine, one) for one in (wanted, wanted, request([90], 50))), return_exceptions=True
            )
            assert sorted(map(str, results)) == sorted(
                map(str, [RuntimeError(f"the request's grammar failed: {failure}"), expected, free])
            )
        assert engine.stats().pages_live == 0
        await engine.close()

    run(main())


def test_a_token_that_the_grammar_refuses_is_an_error_not_a_hang() -> None:
    state = matcher(Grammar("regex", "ab"))
    state.consume(ids("x"))
    assert "satisfy" in str(state.error)
    masks, ready = np.zeros((1, -(-VOCAB // 32)), np.uint32), np.zeros(1, np.int64)
    thread = MaskThread()
    thread.start([(state, 0, [], [0])], masks, ready)
    thread.close()
    assert ready[0] == 1
    assert masks.min() == 0xFFFFFFFF


@pytest.fixture(scope="module", params=["compiled", "numpy"])
def program(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    spec = load_spec(MINI.path)
    kernels = "numpy" if request.param == "numpy" else "auto"
    cache = request.config.cache.mkdir("kernels")
    made = Program(spec, load_weights(MINI.path), pages=64, max_sequences=8, threads=1, kernels=kernels, cache_dir=cache)
    if request.param == "compiled" and made.kernels == "numpy":
        pytest.skip("no compiled kernels run on this CPU")
    yield made
    made.close()


def test_what_mini_says_at_temperature_one_is_valid(program: Program) -> None:
    tokenizer = load_tokenizer(MINI.path)
    compiler = GrammarCompiler(tokenizer, program.spec.vocab)
    prompt = tuple(tokenizer.encode_rendered(["<|begin|><|user|>Tell me about a person, as JSON.<|end|><|assistant|>"]))
    grammars = [*map(grammar, SCHEMAS), Grammar("regex", "[A-Z][a-z]{2,9} is (red|blue)\\."), Grammar("lark", LARK)]
    if program.kernels == "numpy":
        grammars = grammars[1:3]  # it is slow

    async def main() -> None:
        answers = []
        for drafts in (True, False):
            engine = LocalEngine(Unclosed(program), drafts=drafts, grammars=compiler, check=True)
            wanted = [
                replace(request(prompt, 150, seed=seed, stop=tokenizer.eos_ids), grammar=one)
                for seed, one in enumerate(grammars, 5)
            ]
            answers.append(await asyncio.gather(*(answer(engine, one) for one in wanted)))
            await engine.close()
        if program.kernels != "numpy":
            assert answers[0] == answers[1]
        for one, (tokens, finish) in zip(grammars, answers[0]):
            text = tokenizer.decode(tokens)
            assert finish == "stop", text
            if one.kind == "json_schema":
                jsonschema.validate(json.loads(text), json.loads(one.source))
                assert not re.search(r"[:,] [\"\d\[{]", text.split('"name"')[0])
            else:
                assert re.fullmatch(one.source if one.kind == "regex" else r"\d{1,3}([+*]\d{1,3}){1,2}=", text)

    run(main())


LARK = r"""
start: NUMBER op NUMBER (op NUMBER)? "="
op: "+" | "*"
NUMBER: /[0-9]{1,3}/
"""


class Unclosed:
    """A program that outlives an engine."""

    def __init__(self, program: Program) -> None:
        self._program = program

    def __getattr__(self, name: str):
        return getattr(self._program, name)

    def close(self) -> None: ...
