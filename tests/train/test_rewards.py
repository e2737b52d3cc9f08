"""Rewards: right answers of every generator get 1, spoilt ones less; answers are parsed as they are served."""

from __future__ import annotations

from itertools import islice
from typing import Any

import numpy as np
import pytest
from tiny import ids, tiny_tokenizer

from senryu.train.generators import GENERATORS
from senryu.train.preferences import answered, encode, generated
from senryu.train.rewards import Said, check_of, combine, expected, overlength, read, repetition, score

CHECKED = ("arithmetic", "copying", "extraction", "retrieval", "support", "tools")


def parsed(text: str) -> Said:
    return read(ids(text), tiny_tokenizer())


@pytest.mark.parametrize("name", CHECKED)
def test_right_answers_get_all_of_the_reward(name: str) -> None:
    checks = set()
    for row in islice(GENERATORS[name](5, "train"), 60):
        for content in (m["content"] for m in row["messages"] if m["role"] == "assistant"):
            wanted = expected(content)
            checks.add(check_of(row, wanted))
            assert score(check_of(row, wanted), parsed(answered(content)), wanted) == 1.0, content
    assert checks <= {"calls", "json", "number", "text", "words"}


@pytest.mark.parametrize("name", CHECKED)
def test_spoilt_answers_get_less(name: str) -> None:
    """`rambling` and `loop` keep the number or the text in question: what they cost is for the penalties to say."""
    ways = set()
    for row in islice(generated(name, 5), 150):
        prompt, chosen, rejected = encode(row, tiny_tokenizer())
        assert prompt
        wanted = expected(row["chosen"])
        task = {"task": row["task"].removesuffix("_preference")}
        scores = [score(check_of(task, wanted), read(answer, tiny_tokenizer()), wanted) for answer in (chosen, rejected)]
        assert scores[0] == 1.0
        if row["way"] not in ("rambling", "loop") and check_of(task, wanted) != "number":
            assert scores[1] < 1.0, row
        ways.add(row["way"])
    assert len(ways) >= (4 if name in ("tools", "support", "arithmetic") else 1)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Hi.<|end|>", Said("Hi.")),
        ("Hi.", Said("Hi.", whole=False)),
        ('On it.<|call|>{"name": "a", "arguments": {"x": [1, "}"]}}<|end|>', Said("On it.", (("a", {"x": [1, "}"]}),))),
        (
            '<|call|>{"name": "a", "arguments": {}}<|call|>{"name": "b", "arguments": {}}<|end|>',
            Said("", (("a", {}), ("b", {}))),
        ),
        ('<|call|>{"name": "a", "arguments": {"x": 1', Said("", (), whole=False)),
        ('<|call|>{"name": "a", "arguments": {"x": nope}}<|end|>', Said("", (), whole=False)),
        ("Hi.<|user|><|end|>", Said("Hi.", whole=False)),
    ],
)
def test_answers_are_read_as_they_are_served(text: str, said: Said) -> None:
    assert parsed(text) == said


def test_a_broken_call_is_not_whole() -> None:
    assert not parsed('<|call|>{"nom": "a"}<|end|>').whole
    assert not parsed('<|call|>{"name": "a", "arguments": {}<|end|>').whole


@pytest.mark.parametrize(
    ("check", "answer", "wanted", "reward"),
    [
        ("calls", [("a", {"x": 1, "y": 2})], [("a", {"x": 1, "y": 2})], 1.0),
        ("calls", [("a", {"x": 1, "y": 3})], [("a", {"x": 1, "y": 2})], 0.375),
        ("calls", [("b", {"x": 1, "y": 2})], [("a", {"x": 1, "y": 2})], 0.0),
        ("calls", [("a", {}), ("a", {})], [("a", {})], 0.25),
        ("calls", "a", [("a", {})], 0.0),
        ("json", '{"a": 1, "b": [2, null]}', '{"b": [2, null], "a": 1}', 1.0),
        ("json", '{"a": 1, "b": [3, null]}', '{"a": 1, "b": [2, null]}', 2 / 3),
        ("json", "a: 1", '{"a": 1}', 0.0),
        ("number", "It is 12, no: 13", "The answer is 13.", 1.0),
        ("number", "It is 13, no: 12", "13", 0.0),
        ("number", "Hm", "Hm", 0.0),
        ("text", "KX-1 ", "KX-1", 1.0),
        ("text", "The code is KX-1.", "KX-1", 0.5),
        ("label", "card_lost", "card_lost", 1.0),
        ("label", "card_lost it is", "card_lost", 0.0),
        ("words", "Which city is it?", "Which city?", 0.5 + 0.5 * 2 / 6),
        ("words", [("a", {})], "Which city?", 0.0),
    ],
)
def test_rewards_of_partly_right_answers(check: str, answer: Any, wanted: Any, reward: float) -> None:
    made = [Said(x) if isinstance(x, str) else Said("", tuple(x)) for x in (answer, wanted)]
    assert score(check, *made) == pytest.approx(reward)


def test_penalties() -> None:
    end = ids("<|end|>")
    assert repetition([70, 71, 72, 73, 74]) == 0
    assert repetition([70, 71] * 6) == pytest.approx(1 - 2 / 9)
    assert repetition([70, *ids("<|call|>"), *[71, 72] * 9]) == 0
    assert [overlength([70] * n + end, 20) for n in (3, 9, 14, 19)] == [0, 0, 0.5, 1]
    assert overlength([70] * 3, 20) == 1


def test_components_count_alike_in_each_group_whatever_their_scale() -> None:
    small, large = np.array([[0.0, 0.01, 0.0, 0.01]]), np.array([[100.0, 100.0, 0.0, 0.0]])
    np.testing.assert_allclose(combine({"a": small, "b": large}, {"a": 1.0, "b": 2.0}), [[1, 3, -3, -1]])
    silent = np.array([[np.nan] * 4, [1.0] * 4])
    assert not combine({"a": silent}, {"a": 1.0}).any()
    partly = np.array([[np.nan, 0.0, 2.0, np.nan]])
    np.testing.assert_allclose(combine({"a": partly}, {"a": 1.0}), [[0, -1, 1, 0]])
