"""Loops are told from answers that repeat a little, and diversity is counted on equal amounts of text."""

from __future__ import annotations

import pytest

from senryu.evals import collapse
from senryu.evals.collapse import BUDGET, LONGEST_CYCLE, Said, distinct, figures, loops, repeated

SENTENCE = "The cat sat on the mat and looked at the moon for a while. "


@pytest.mark.parametrize(
    "said",
    [
        Said("I can help. " * 3),
        Said("Sure. " + SENTENCE * 3),
        Said("Well: " + SENTENCE * 3 + "The cat sat on", cut=True),  # cut within a round
        Said("Hello " + "ab" * 40, cut=True),  # without blanks
        Said("no " * 12),
        Said("!" * 60),
        Said(
            "a cat, a dog, a cat, a dog, a dog, a cat, a dog, a cat, a dog, a dog, a dog, a cat, a dog, a cat, a dog", cut=True
        ),
        Said(
            " ".join(f"word{i}" for i in range(LONGEST_CYCLE)) + " " + " ".join(f"word{i % LONGEST_CYCLE}" for i in range(80))
        ),
    ],
)
def test_circles_are_seen(said: Said) -> None:
    assert loops(said)


@pytest.mark.parametrize(
    "said",
    [
        Said(""),
        Said("No, no, no."),
        Said("Ha ha ha!"),
        Said("It is 10000000."),
        Said(SENTENCE * 2),
        Said(SENTENCE * 3 + "Then it went home and slept until noon."),  # it came out of it
        Said("I can help. I can help you with a letter. I can help you write it."),
        Said("one two three four five six seven eight nine ten eleven twelve", cut=True),
        Said(" ".join(f"word{i % (LONGEST_CYCLE + 1)}" for i in range(3 * LONGEST_CYCLE + 3))),  # longer than a cycle may be
    ],
)
def test_other_answers_are_none(said: Said) -> None:
    assert not loops(said)


def test_distinct_n_is_the_share_of_different_n_grams() -> None:
    assert distinct(["A b a b", "a c"], 1) == pytest.approx(3 / 6)
    assert distinct(["A b a b", "a c"], 2) == pytest.approx(3 / 4)  # none over the border of two answers
    assert distinct(["I can't"], 1) == 1
    assert distinct([], 1) == distinct([""], 2) == 0
    same = [f"w{i}" for i in range(BUDGET)]
    assert distinct([*same, "w1 " * 900], 1) == 1  # what lies past the budget counts for nothing


def test_repeated_trigrams_are_those_that_stood_before() -> None:
    assert repeated(["a", "b", "c"] * 2, 3) == pytest.approx(1 / 4)
    assert repeated(["a"], 3) == 0


def test_figures_count_each_kind() -> None:
    made = figures([Said("yes " * 20, cut=True), Said(""), Said("All is well today.")])
    assert made["answers"] == 3
    assert made["loops"] == made["cut"] == made["empty"] == pytest.approx(1 / 3)
    assert made["words"] == pytest.approx(8)
    assert made["distinct_1"] == pytest.approx(5 / 24)
    assert collapse.figures([])["loops"] == 0
