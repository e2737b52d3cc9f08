"""Drafts are measured over answers that deserve them more or less, against the same model without them."""

from __future__ import annotations

import asyncio
import difflib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

import senryu.models
from senryu.config import Settings
from senryu.engine.fake import FakeEngine
from senryu.engine.grammar import GrammarCompiler
from senryu.engine.guess import Guess
from senryu.engine.interface import TokenRequest
from senryu.engine.sequence import Sequence
from senryu.evals import drafts
from senryu.evals.speed import EngineSubject, Figure
from senryu.model.tokenizer import load_tokenizer
from senryu.service.registry import load_engine
from senryu.service.shapes import chain

MINI = Path(senryu.models.__path__[0]) / "mini"


class Asked(FakeEngine):
    """Remembers its requests."""

    def __init__(self) -> None:
        super().__init__(pages=256, seconds_per_step=1e-3)
        self.requests: list[TokenRequest] = []

    def generate(self, request: TokenRequest):
        self.requests.append(request)
        return super().generate(request)


@pytest.fixture
def subjects() -> Iterator[list[EngineSubject]]:
    both = [EngineSubject("senryu fake", Asked(), vocab=4096) for _ in range(2)]
    yield both
    for subject in both:
        subject.close()


def continuation(request: TokenRequest, vocab: int) -> list[int]:
    """What a model that copies answers."""
    order = chain(vocab).tolist()
    place = order.index(request.ids[-1]) + 1
    return (order + order)[place : place + request.max_tokens]


def guessed(request: TokenRequest, vocab: int) -> float:
    """The share of a copying model's answer that what is known by then foretells, a token at a time."""
    answer = continuation(request, vocab)
    sequence = Sequence(request, 64)
    guess, right = Guess(sequence), 0
    for token in answer[:-1]:
        guess.look(sequence, None, 1)
        right += guess.tokens == [token]
        sequence.append(token)
        if guess.tokens:
            guess.learn(sequence.length, [token])
    return right / (len(answer) - 1)


def test_an_engine_answers_as_the_tasks_suppose(tmp_path: Path, kept_kernels: Path) -> None:
    settings = Settings(home=tmp_path, kv_cache_gb=0.05)
    spec, engine = load_engine(settings, "shape:tiny", copying=True)
    subject = EngineSubject("senryu int8", engine, spec.vocab)

    async def answer(request: TokenRequest) -> list[int]:
        return [token async for event in engine.generate(request) for token in event.tokens]

    try:
        for name, request in drafts.copying(spec.vocab, 40).items():
            out = subject.runner.run(answer(request))
            assert (out == continuation(request, spec.vocab)) == (name != "free")
    finally:
        subject.close()
    assert not settings.weight_cache.exists()  # nobody serves such a model


def test_copies_can_be_guessed_and_edits_in_part() -> None:
    requests = drafts.copying(4096, 256)
    assert guessed(requests["copy"], 4096) > 0.98
    assert 0.75 < guessed(requests["edit"], 4096) < 0.9  # an edit spoils itself and the token that tells where it ends
    assert requests["free"].sampling.temperature == 1.0
    for request in requests.values():
        assert len(request.ids) <= drafts.longest(256)


def test_an_edit_repeats_its_prompt_with_words_replaced_put_in_and_left_out() -> None:
    request = drafts.copying(4096, 1024)["edit"]
    edits = difflib.SequenceMatcher(None, request.ids[1:-1], continuation(request, 4096), autojunk=False).get_opcodes()
    kinds = Counter(kind for kind, *_ in edits[:-1])  # behind the last one the prompt goes on beyond the answer
    assert min(kinds["replace"], kinds["insert"], kinds["delete"]) >= 3
    changed = [(old_end - old, new_end - new) for kind, old, old_end, new, new_end in edits[:-1] if kind != "equal"]
    assert max(map(max, changed)) <= drafts.WORD
    assert 0.5 < len(changed) * drafts.EDITED / 1024 < 1.2


def test_json_and_text_of_a_model_are_sampled() -> None:
    tokenizer = load_tokenizer(MINI)
    requests = drafts.writing(tokenizer, 256)
    assert {name: request.sampling.temperature for name, request in requests.items()} == {"json": 1.0, "free": 1.0}
    assert requests["free"].grammar is None
    engine = FakeEngine(tokens=range(64, 8192), grammars=GrammarCompiler(tokenizer, 8192))

    async def answer() -> list[int]:
        ids = [token async for event in engine.generate(requests["json"]) for token in event.tokens]
        await engine.close()
        return ids

    ids = asyncio.run(answer())
    assert len(ids) == 257
    assert tokenizer.decode(ids).startswith('[{"order_number":')


def test_no_try_can_guess_from_the_one_before(subjects: list[EngineSubject]) -> None:
    figures = drafts.tasks(subjects, {"copy": TokenRequest((70, 71), 64), "free": TokenRequest((72,), 64)}, rounds=2)
    assert [(f.measure, f.at, len(f.rounds)) for f in figures] == [
        ("drafts_copy", 2, 2), ("plain_copy", 2, 2), ("drafts_free", 1, 2), ("plain_free", 1, 2),
    ]  # fmt: skip
    drafted, plain = (list(dict.fromkeys((r.salt, r.sampling.seed) for r in s.engine.requests)) for s in subjects)
    assert drafted == plain
    assert len({salt for salt, _ in drafted}) == 6
    assert [seed for _, seed in drafted] == [0, 1, 2] * 2


def test_ratios_are_of_the_same_task() -> None:
    medians = {"drafts_copy": 30.0, "plain_copy": 10.0, "drafts_free": 9.8, "plain_free": 10.0, "decode": 1.0}
    figures = [Figure(measure, 9, "senryu int8", "tok/s", (value,)) for measure, value in medians.items()]
    assert drafts.ratios(figures) == {"drafts_copy": 3.0, "drafts_free": 0.98}
