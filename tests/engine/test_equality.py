"""The equality test: what a request answers, to the bit of its logits, depends on nothing but the request.

The same requests alone with the prompt in one step, cut into chunks, in one batch, over cached prefixes, on a pool so
small that they queue and evict, over pages from disk, paused for others, beside neighbours that are aborted, on one thread
or two, with right and wrong drafts. Once over the fake program, whose tokens depend on every id found through the page
table, and over compiled programs of tiny random models.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from stepping import Bench, Oracle, request

from senryu.engine.fake import FakeProgram
from senryu.engine.interface import TokenRequest
from senryu.engine.local import LocalEngine
from senryu.engine.spill import Spill
from senryu.engine.step import Runner
from senryu.model.spec import LayerSpec, ModelSpec
from senryu.model.weights import Weights, expected_shapes

PAGES, MAX_ROWS, MAX_SEQUENCES, VOCAB = 48, 320, 12, 320

COHERE = ModelSpec(
    family="cohere2", hidden=128, layers=(LayerSpec(96, True), LayerSpec(96, True), LayerSpec(None, False)), heads=4,
    kv_heads=1, head_dim=32, ffn=192, vocab=VOCAB, max_position=4096, norm="layer", norm_eps=1e-5, parallel_block=True,
    qk_norm=False, qkv_bias=False, o_bias=False, mlp_bias=False, tied_head=True, rope_theta=1e4, rope_interleaved=True,
    rope_scaling=None, logit_scale=0.5, bos_id=None, eos_ids=(),
)  # fmt: skip
QWEN = ModelSpec(
    family="qwen3", hidden=64, layers=(LayerSpec(None, True), LayerSpec(None, True)), heads=6, kv_heads=2, head_dim=32,
    ffn=96, vocab=VOCAB, max_position=4096, norm="rms", norm_eps=1e-6, parallel_block=False, qk_norm=True,
    qkv_bias=False, o_bias=False, mlp_bias=False, tied_head=False, rope_theta=1e6, rope_interleaved=False,
    rope_scaling=None, logit_scale=1.0, bos_id=None, eos_ids=(),
)  # fmt: skip


def random_weights(spec: ModelSpec) -> Weights:
    """Weights large enough that attention is not uniform and that the logits differ."""
    draw = np.random.default_rng(7)
    arrays = {}
    for name, shape in expected_shapes(spec).items():
        values = draw.standard_normal(shape, np.float32)
        arrays[name] = 1 + 0.1 * values if "norm" in name else values * np.float32(2.0 / np.sqrt(shape[-1]))
    return Weights(arrays)


def build(kind: str, threads: int | None = None) -> Runner:
    if kind == "fake":
        return FakeProgram(pages=PAGES, max_rows=MAX_ROWS, max_sequences=MAX_SEQUENCES, tokens=range(VOCAB))
    program = pytest.importorskip("senryu.model.program")
    spec = COHERE if kind == "cohere2" else QWEN
    return program.Program(
        spec,
        random_weights(spec),
        pages=PAGES,
        max_rows=MAX_ROWS,
        max_sequences=MAX_SEQUENCES,
        threads=threads,
        kv="int8" if "int8" in kind else "float32",
    )


def requests() -> list[TokenRequest]:
    """Prompts around page and window edges that share none, some or all of their pages; greedy and seeded."""
    draw = random.Random(3)
    base = [draw.randrange(VOCAB) for _ in range(300)]
    sizes = [(0, 1), (0, 63), (64, 0), (64, 1), (130, 20), (192, 5), (192, 40), (290, 0), (300, 0), (128, 9)]
    made = []
    for i, (shared, own) in enumerate(sizes):
        ids = base[:shared] + [draw.randrange(VOCAB) for _ in range(own)]
        made.append(request(ids, 12 + 7 * (i % 3), seed=i if i % 3 == 2 else None, stop=(5,)))
    return made


@pytest.fixture(scope="module", params=["fake", "cohere2", "qwen3", "qwen3, K/V in int8"])
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def runner(kind: str):
    made = build(kind, 1)  # more threads than free cores would make every step wait; how many is a test of its own
    yield made
    made.close()


@pytest.fixture(scope="module")
def alone(runner: Runner) -> list[tuple[list[int], list[int]]]:
    """The truth: each request by itself, its prompt in one step, nothing cached."""
    answers = []
    for wanted in requests():
        bench = Bench(runner)
        sequence = bench.add(wanted)
        bench.finish(MAX_ROWS)
        assert sequence.cached == 0
        answers.append(bench.answer(sequence))
    return answers


def test_answers_are_worth_comparing(alone) -> None:
    assert len({token for tokens, _ in alone for token in tokens}) > 40


@pytest.mark.parametrize("chunk", [1, 7, 64, 100])
def test_chunked_prefill(runner: Runner, alone, chunk: int) -> None:
    some = slice(None, None, 4 if chunk < 64 else 1)  # small chunks are many steps
    for wanted, expected in zip(requests()[some], alone[some]):
        bench = Bench(runner)
        sequence = bench.add(wanted)
        bench.finish(chunk)
        assert bench.answer(sequence) == expected


@pytest.mark.parametrize("chunk", [5, 64, MAX_ROWS])
def test_all_in_one_batch(runner: Runner, alone, chunk: int) -> None:
    bench = Bench(runner)
    sequences = [bench.add(wanted) for wanted in requests()]
    bench.finish(chunk)
    assert [bench.answer(sequence) for sequence in sequences] == alone


def test_over_cached_prefixes(runner: Runner, alone) -> None:
    bench = Bench(runner)
    for _ in range(2):
        sequences = [bench.add(wanted) for wanted in requests()]
        bench.finish()
        assert [bench.answer(sequence) for sequence in sequences] == alone
    for sequence, wanted in zip(sequences, requests()):
        assert sequence.cached == len(wanted.ids) - 1


def test_decoded_pages_serve_as_a_prefix(runner: Runner) -> None:
    """K/V written while decoding equals K/V written by prefill: the next turn over it answers as without a cache."""
    bench = Bench(runner)
    first = bench.add(request(requests()[0].ids, 150))
    bench.finish()
    turn = request([*requests()[0].ids, *bench.outputs[first], 7], 20)
    warm = bench.add(turn)
    bench.finish()
    assert warm.cached == 150
    cold = Bench(runner)
    expected = cold.add(turn)
    cold.finish(MAX_ROWS)
    assert bench.answer(warm) == cold.answer(expected)


@pytest.mark.parametrize("seed", range(3))
def test_neighbours_come_and_go_on_a_small_pool(runner: Runner, alone, seed: int) -> None:
    """Staggered arrivals, aborted neighbours, random budgets, and pages for about two requests at a time."""
    come_and_go(Bench(runner, pages=11), alone, seed)


def come_and_go(bench: Bench, alone, seed: int) -> None:
    draw = random.Random(seed)
    waiting = list(enumerate(requests()))
    draw.shuffle(waiting)
    sequences, neighbours = {}, []
    while waiting or bench.scheduler.busy:
        if waiting and draw.random() < 0.3:
            i, wanted = waiting.pop()
            sequences[i] = bench.add(wanted)
            ids = wanted.ids[: draw.randint(1, len(wanted.ids))]
            neighbours.append(bench.add(request([*ids, draw.randrange(VOCAB)], 60, seed=draw.randrange(9))))
        if neighbours and draw.random() < 0.1:
            bench.scheduler.abort(neighbours.pop(draw.randrange(len(neighbours))))
        bench.step(draw.randint(1, 120))
    assert [bench.answer(sequences[i]) for i in range(len(sequences))] == alone


def oracle(alone, seed: int = 0, error_rate: float = 0.2) -> Oracle:
    return Oracle({one.ids: tokens for one, (tokens, _) in zip(requests(), alone)}, VOCAB, seed, error_rate)


@pytest.mark.parametrize(("chunk", "error_rate"), [(7, 0.2), (64, 0.0), (MAX_ROWS, 0.2), (MAX_ROWS, 1.0)])
def test_with_drafts(runner: Runner, alone, chunk: int, error_rate: float) -> None:
    """Greedy and sampled, to the bit of the logits that each token was drawn from."""
    bench = Bench(runner, drafter=oracle(alone, error_rate=error_rate))
    sequences = [bench.add(wanted) for wanted in requests()]
    bench.finish(chunk)
    assert [bench.answer(sequence) for sequence in sequences] == alone
    stats = bench.scheduler.stats()
    assert stats.drafted > 20
    assert stats.accepted < stats.drafted / 10 if error_rate == 1 else stats.accepted > stats.drafted / 4
    wrong = stats.drafted - stats.accepted
    assert wrong > len(sequences) if error_rate else wrong <= len(sequences)  # a stop id that was drafted saves no step


@pytest.mark.parametrize("seed", range(3))
def test_drafts_while_neighbours_come_and_go_on_a_small_pool(runner: Runner, alone, seed: int) -> None:
    come_and_go(Bench(runner, pages=11, drafter=oracle(alone, seed)), alone, seed)


def test_pages_decoded_with_wrong_drafts_serve_as_a_prefix(runner: Runner) -> None:
    """K/V of rejected rows never reaches the prefix tree."""
    first = request(requests()[0].ids, 150)
    plain = Bench(runner)
    sequence = plain.add(first)
    plain.finish()
    answer = plain.outputs[sequence]
    bench = Bench(runner, drafter=Oracle({first.ids: answer}, VOCAB, 1, 0.3))
    sequence = bench.add(first)
    bench.finish()
    assert bench.outputs[sequence] == answer
    turn = request([*first.ids, *answer, 7], 20)
    warm, cold = bench.add(turn), plain.add(turn)
    bench.finish()
    plain.finish(MAX_ROWS)
    assert warm.cached == 150
    assert bench.answer(warm) == plain.answer(cold)


def test_through_the_disk(runner: Runner, alone, tmp_path: Path) -> None:
    """Pages that were evicted and read back, some after a restart, answer as those that were computed."""
    page_bytes = len(runner.read_page(0))
    restored = 0
    for _ in range(2):
        spill = Spill(tmp_path, 1 << 26, fingerprint=runner.fingerprint, page_bytes=page_bytes)
        bench = Bench(runner, pages=6, spill=spill, drafter=oracle(alone))
        for _ in range(2):
            for wanted, expected in zip(requests(), alone):
                sequence = bench.add(wanted)
                bench.finish()
                assert bench.answer(sequence) == expected
        restored += bench.scheduler.stats().restored_tokens
        bench.scheduler.close(save=True)
        for page in range(6):
            runner.write_page(page, bytes(page_bytes))
    assert restored >= 3 * 64


def test_paused_for_others(runner: Runner, alone) -> None:
    """Batch requests that give their pages up in the middle of a prompt or an answer go on as if nothing had been."""
    bench = Bench(runner, pages=11, drafter=oracle(alone))
    sequences = [bench.add(replace(wanted, priority="batch")) for wanted in requests()]
    paused, urgent = set(), 0
    draw = random.Random(1)
    while bench.scheduler.busy:
        if draw.random() < 0.3 and urgent < 10:
            urgent += 1
            bench.add(request([draw.randrange(VOCAB) for _ in range(200)], 100))
        bench.step(40)
        paused |= {sequence for sequence in sequences if sequence.paused}
    assert len(paused) >= 3
    assert [bench.answer(sequence) for sequence in sequences] == alone


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_number_of_threads(kind: str, alone, threads: int) -> None:
    if kind == "fake":
        pytest.skip("the fake has no threads")
    runner = build(kind, threads)
    try:
        bench = Bench(runner)
        sequences = [bench.add(wanted) for wanted in requests()]
        bench.finish(77)
        assert [bench.answer(sequence) for sequence in sequences] == alone
    finally:
        runner.close()


def test_through_the_engine(kind: str, alone) -> None:
    """As the service uses it: concurrent asyncio streams, some of them dropped, steps as long as the clock says."""

    async def main() -> None:
        engine = LocalEngine(build(kind), check=True)

        async def collect(wanted: TokenRequest, least: int) -> list[int]:
            tokens: list[int] = []
            async for event in engine.generate(wanted):
                tokens += event.tokens
                if len(tokens) >= least:
                    break
            return tokens

        wanted = requests()
        kept = [asyncio.create_task(collect(one, 10**9)) for one in wanted]
        dropped = [asyncio.create_task(collect(one, 1 + i)) for i, one in enumerate(wanted)]
        answers = await asyncio.gather(*kept)
        begun = await asyncio.gather(*dropped)
        await engine.close()
        assert answers == [tokens for tokens, _ in alone]
        assert all(tokens == answer[: len(tokens)] for tokens, answer in zip(begun, answers))
        assert engine.stats().pages_live == 0

    asyncio.run(asyncio.wait_for(main(), 60))
