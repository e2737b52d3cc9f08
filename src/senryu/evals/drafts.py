"""What drafts are worth: one model with and without them, in turns, over answers that copy, edit, are JSON or free text."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from senryu.config import Settings
from senryu.engine.interface import Engine, Grammar, GrammarError, TokenRequest
from senryu.evals.speed import EngineSubject, Figure, greedy, in_turns
from senryu.model.hub import resolve
from senryu.model.spec import ModelSpec
from senryu.model.tokenizer import Tokenizer, load_tokenizer
from senryu.service.registry import load_engine, load_model
from senryu.service.shapes import chain

WITH, WITHOUT = "drafts_", "plain_"  # before a task's name: what either side's figure is called
BESIDE = 64  # tokens of a passage that its copy does not reach
EDITED = 16  # tokens from one edit to the next, on average
WORD = 3  # tokens of an edit at most, on either side
ORDER = {
    "order_number": {"type": "integer", "minimum": 1, "maximum": 9999},
    "customer_name": {"type": "string", "maxLength": 16},
    "status": {"enum": ["pending", "shipped", "delivered", "returned"]},
    "already_paid": {"type": "boolean"},
    "quantity": {"type": "integer", "minimum": 1, "maximum": 99},
}
ORDERS = {  # enough of them for an answer to end by its length
    "type": "array",
    "minItems": 200,
    "items": {"type": "object", "properties": ORDER, "required": list(ORDER), "additionalProperties": False},
}
JSON = Grammar("json_schema", json.dumps(ORDERS))
ASKED = {"json": "List the orders of this week as JSON.", "free": "Write a long story about a river and those who live by it."}


def measure(name: str, ref: str, settings: Settings, tokens: int, rounds: int, say: Callable[[str], None]) -> list[Figure]:
    """Rates of `tokens` tokens in each task, of the subject `name`: `drafts_copy` beside `plain_copy` and so on.

    The model of `ref` is random or may be too small to copy, so `copy` and `edit` are for one of its shape that can do nothing
    else. `json` and `free` are its own text at temperature 1; of a random shape `free` is noise, and there is no `json`.
    Raises SenryuError as `load_model`.
    """

    def copier(how: Settings) -> tuple[ModelSpec, Engine]:
        return load_engine(how, ref, copying=True)

    def writer(how: Settings) -> tuple[ModelSpec, Engine]:
        model = load_model(how, ref)
        return model.spec, model.engine

    text = not ref.startswith("shape:")
    with _both(name, settings, copier) as subjects:
        requests = copying(subjects[0].vocab, tokens)
        if text:
            del requests["free"]
        else:
            say("left out: drafts in JSON; random weights have no tokenizer")
        figures = tasks(subjects, requests, rounds)
    if text:
        with _both(name, settings, writer) as subjects:
            requests = writing(load_tokenizer(resolve(ref, settings.home).path), tokens)
            try:
                subjects[0].engine.compile(JSON)
            except GrammarError as error:
                del requests["json"]
                say(f"left out: drafts in JSON; {error}")
            figures += tasks(subjects, requests, rounds)
    return figures


@contextlib.contextmanager
def _both(name: str, settings: Settings, load: Callable[[Settings], tuple[ModelSpec, Engine]]) -> Iterator[list[EngineSubject]]:
    """A model with drafts and the same without, closed afterwards."""
    subjects: list[EngineSubject] = []
    try:
        for drafts in (True, False):
            spec, engine = load(replace(settings, drafts=drafts))
            subjects.append(EngineSubject(name, engine, spec.vocab))
        yield subjects
    finally:
        for subject in subjects:
            subject.close()


def longest(tokens: int) -> int:
    """The most that a prompt holds for answers of `tokens`."""
    return tokens + BESIDE + 1


def copying(vocab: int, tokens: int) -> dict[str, TokenRequest]:
    """Requests to a model that copies: the same passage again; one that it writes with edits; and noise."""
    passage = np.resize(chain(vocab), tokens + BESIDE)
    return {
        "copy": greedy((*passage.tolist(), int(passage[0])), tokens + 1),
        "edit": greedy((*before(passage, vocab), int(passage[0])), tokens + 1),
        "free": TokenRequest(tuple(passage.tolist()), tokens + 1),
    }


def before(passage: np.ndarray, vocab: int) -> list[int]:
    """A text of which `passage` is a copy with a few words replaced, put in and left out: at seeded places, 0 to WORD tokens by
    as many, the old ones from elsewhere in the vocabulary."""
    draw = np.random.default_rng(3)
    text: list[int] = []
    start = 0
    while start < len(passage):
        stop = start + draw.geometric(1 / EDITED)
        old, new = draw.integers(0, WORD + 1, 2)
        elsewhere = np.setdiff1d(draw.integers(0, vocab, old), passage)
        text += [*passage[start:stop].tolist(), *elsewhere.tolist()]
        start = stop + new
    return text[: len(passage)]


def writing(tokenizer: Tokenizer, tokens: int) -> dict[str, TokenRequest]:
    """Requests to a model of language, at temperature 1: JSON by a schema, and free text."""
    requests = {name: TokenRequest(tuple(tokenizer.encode(text)), tokens + 1) for name, text in ASKED.items()}
    return {**requests, "json": replace(requests["json"], grammar=JSON)}


def tasks(subjects: Sequence[EngineSubject], requests: Mapping[str, TokenRequest], rounds: int) -> list[Figure]:
    """The rate of each named answer, with drafts (the first subject) and without (the second).

    Every try has a seed and a tenant of its own, the same ones for both: no answer is guessed from the one of the try before.
    """
    figures = []
    for name, request in requests.items():
        rates = in_turns(subjects, _tries(name, request), rounds)
        for side, subject, values in zip((WITH, WITHOUT), subjects, rates):
            figures.append(Figure(side + name, len(request.ids), subject.name, "tok/s", values))
    return figures


def _tries(name: str, request: TokenRequest) -> Callable[[EngineSubject], float]:
    tries: Counter[int] = Counter()

    def rate(subject: EngineSubject) -> float:
        n = tries[id(subject)]
        tries[id(subject)] += 1
        return subject.rate(replace(request, sampling=replace(request.sampling, seed=n), salt=f"{name} {n}".encode()))

    return rate


def ratios(figures: Sequence[Figure]) -> dict[str, float]:
    """Medians with drafts over those without, by task: drafts_copy, drafts_edit, drafts_json, drafts_free."""
    plain = {f.measure.removeprefix(WITHOUT): f.median for f in figures if f.measure.startswith(WITHOUT)}
    return {f.measure: round(f.median / plain[f.measure.removeprefix(WITH)], 2) for f in figures if f.measure.startswith(WITH)}
