"""Safety rows: twins share their trigger word; the unsafe one is declined, the benign one answered; refusals are recognised."""

from __future__ import annotations

from collections import Counter

import pytest
from test_generators import SPLITS, each, some

from senryu.train.generators import GENERATORS, Row
from senryu.train.generators.common import banks
from senryu.train.generators.refusal import declines
from senryu.train.generators.safety import CATEGORIES, REQUESTS, pairs


def check_pair(row: Row) -> None:
    user, answer = row["messages"][0]["content"], row["messages"][-1]["content"]
    if row["category"] == "injection":
        assert row["answer"] in answer
        assert not declines(answer)
        assert row["payload"] not in answer
        said = str(row["messages"])
        assert (row["payload"] in said) == row["unsafe"]
        return
    assert declines(answer) == row["unsafe"], answer
    assert answer[-1] in ".?!"
    if row["category"] == "prompt":
        assert row["secret"] in row["system"]
        assert row["secret"] not in answer
    else:
        assert row["trigger"][:5] in user.lower()


test_an_unsafe_request_is_declined_and_its_twin_answered = each("safety", check_pair, count=12)


@pytest.mark.parametrize("split", SPLITS)
def test_twins_come_in_pairs_and_categories_evenly(split: str) -> None:
    made = some("safety", 5, split, 2400)  # type: ignore[arg-type]
    for unsafe, benign in zip(made[::2], made[1::2]):
        assert (unsafe["unsafe"], benign["unsafe"]) == (True, False)
        for key in ("pair", "category", "trigger"):
            assert unsafe[key] == benign[key]
        assert unsafe.get("system") == benign.get("system")
        assert unsafe["messages"][0] != benign["messages"][0] or unsafe["messages"][2] != benign["messages"][2]
    assert len({row["pair"] for row in made}) == 1200
    counts = Counter(row["category"] for row in made)
    assert set(counts) == set(CATEGORIES)
    assert min(counts.values()) > 120


@pytest.mark.parametrize("split", SPLITS)
def test_every_phrase_of_a_group_has_its_trigger_word(split: str) -> None:
    """Otherwise the word alone would give the answer away, and the twin would be no twin."""
    bank = banks("safety", split)  # type: ignore[arg-type]
    for category in REQUESTS:
        for trigger, group in bank[category]["groups"].items():
            for phrase in (*group["unsafe"], *(action for action, _ in group["benign"])):
                assert trigger[:5] in phrase.lower(), (category, trigger, phrase)
            assert min(len(group["unsafe"]), len(group["benign"])) >= 2


def test_refusals_are_varied() -> None:
    answers = [row["messages"][-1]["content"] for row in pairs(3, "train", 600, requests_only=True) if row["unsafe"]]
    assert len(set(answers)) > 450
    assert max(Counter(answer.split()[0] for answer in answers).values()) < 0.6 * len(answers)
    assert max(map(len, answers)) < 320


def test_one_category_can_be_asked_for_and_a_wrong_name_is_named() -> None:
    assert {row["category"] for row in some("safety", 1, "test", 30, category="fraud")} == {"fraud"}
    with pytest.raises(ValueError, match="category 'crime' is unknown; use one of violence"):
        next(GENERATORS["safety"](1, "test", category="crime"))


@pytest.mark.parametrize(
    "answer",
    [
        "I can't help with that.",
        "I cannot assist with this request, as it could hurt someone.",
        "Sorry, but I won't provide instructions for that.",
        "I\u2019m not able to help with this.",
        "I am unable to support it.",
        "That is not something I can do.",
        "I must decline.",
        "No, I cannot do that. I can help you with text.",
        "I'm sorry, I can't. It is against the law.",
        "I am so sorry that it hurts this much. Please call a crisis line.",
        "This is against my principles.",
        "As a small model I refuse to write that.",
        "I'd rather not describe it.",
    ],
)
def test_refusals_are_seen(answer: str) -> None:
    assert declines(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "Sure. Find its number with ps.",
        "I do not know the answer to that.",
        "I cannot see live data.",
        "I can't answer that from this passage: it does not mention taxes.",
        "I have no internet access, so I cannot look that up.",
        "If it won't start, charge the battery.",
        "You can't put metal in a microwave.",
        "I can help you with that. What have you tried so far?",
        "I'd rather not guess: which model is it?",
        "The clerk declined the refund.",
        "Sorry, which order do you mean?",
        "First whisk the eggs. " * 20 + "I can't help with more.",
    ],
)
def test_help_and_honest_ignorance_are_no_refusals(answer: str) -> None:
    assert not declines(answer)
