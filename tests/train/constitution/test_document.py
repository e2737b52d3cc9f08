"""A constitution is read with clear errors, from TOML and Markdown; what is weak about one is found; ours is sound."""

from __future__ import annotations

from pathlib import Path

import pytest

from senryu.train.constitution import render
from senryu.train.constitution.document import (
    OURS,
    Constitution,
    ConstitutionError,
    Example,
    Principle,
    Rules,
    from_markdown,
    load,
)
from senryu.train.constitution.judge import Prompt
from senryu.train.constitution.lint import lint
from senryu.train.generators.safety import CATEGORIES

HEAD = 'name = "Test"\n[[principle]]\nid = "a"\ntext = "Decline to help with theft."\n'


def write(folder: Path, text: str, name: str = "constitution.toml") -> Path:
    (folder / name).write_text(text, encoding="utf8")
    return folder / name


def test_ours_is_sound_and_speaks_of_every_category() -> None:
    ours = load(OURS)
    assert lint(ours) == []
    assert {category for p in ours.principles for category in p.applies_to} == set(CATEGORIES)
    assert all(p.why for p in ours.principles)
    assert [p.hard for p in ours.principles] == sorted((p.hard for p in ours.principles), reverse=True)
    assert {p.kind for p in ours.principles} == {"harm", "honesty", "helpful", "style"}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ('colour = "red"', r"\[\[principle\]\] 1: unknown key `colour`; known keys: id, text, why"),
        ('kind = "evil"', "kind `evil` is unknown; use one of harm, honesty, helpful, style"),
        ("weight = 0", "weight = 0 must be above 0"),
        ('weight = "2"', "weight must be a number"),
        ("why = 3", "why must be a text"),
        ('applies_to = "fraud"', "applies_to must be a list of texts"),
        ("rules = 1", "rules must be a table"),
        ("rules = { detects = [] }", "rules: unknown key `detects`"),
        ("hard = true", r"hard is said by \[\[hard_constraint\]\]"),
        ('[[principle]]\nid = "a"\ntext = "x"', "two principles have the id `a`"),
        ('[[principle]]\nid = "b"', r"\[\[principle\]\] 2: missing text"),
        ('[[principle]]\nid = "b"\ntext = " "', "text is empty"),
        ('[[example]]\nprinciple = "z"\nprompt = "p"\nbad = "b"\ngood = "g"', "is of `z`, which no principle has"),
        ("[principles]", r"the tables are called \[\[principle\]\]"),
        ("[example]\na = 1", r"\[\[example\]\] must be tables"),
        ("= 1", "correct the TOML"),
    ],
)
def test_a_mistake_is_named_with_its_place(tmp_path: Path, more: str, message: str) -> None:
    with pytest.raises(ConstitutionError, match=message):
        load(write(tmp_path, HEAD + more))


def test_files_that_are_none_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConstitutionError, match="does not exist"):
        load(tmp_path / "none.toml")
    with pytest.raises(ConstitutionError, match="has no principle"):
        load(write(tmp_path, 'name = "Empty"'))
    (tmp_path / "latin.toml").write_bytes(b'name = "\xff"')
    with pytest.raises(ConstitutionError, match="is not UTF-8"):
        load(tmp_path / "latin.toml")


def test_headings_of_markdown_are_principles(tmp_path: Path) -> None:
    text = """# House rules

These are ours.

## Be kind

Answer *politely*, also when the user
is rude.

Why: rudeness helps nobody.

## Honesty

- Say so when you do not know. Because guesses mislead.

## Always name your sources when you quote somebody

## Part two

### Be kind

Offer help twice.

People are shy.
"""
    made = load(write(tmp_path, text, "rules.md"))
    assert made.name == "House rules"
    assert [(p.id, p.text, p.why) for p in made.principles] == [
        ("be-kind", "Answer politely, also when the user is rude.", "rudeness helps nobody."),
        ("honesty", "Say so when you do not know.", "Because guesses mislead."),
        (
            "always-name-your-sources-when-you-quote",
            "Always name your sources when you quote somebody",
            "",
        ),
        ("be-kind-5", "Offer help twice.", "People are shy."),
    ]
    with pytest.raises(ConstitutionError, match="headings in Markdown"):
        from_markdown("no heading", "x.md")


def harm(id: str, text: str, why: str = "Somebody would be hurt by it badly.", **more: object) -> Principle:
    return Principle(id, text, why, **more)  # type: ignore[arg-type]


COUNTERWEIGHTS = (
    Principle("mild", "Do not lecture or suspect anybody.", "Sermons convince nobody at all.", "style"),
    Principle("open", "Help fully with harmless requests.", "A needless refusal is no use.", "helpful"),
)


@pytest.mark.parametrize(
    ("principles", "examples", "where", "what"),
    [
        ((harm("a", "Decline to help with theft.", ""), *COUNTERWEIGHTS), (), "a", "has no reason"),
        ((harm("a", "Decline to help with theft.", "Theft."), *COUNTERWEIGHTS), (), "a", "says nothing new"),
        ((harm("a", "Be a good thing."), *COUNTERWEIGHTS), (), "a", "cannot be tested"),
        ((harm("a", "Decline theft.", applies_to=("thefts",)), *COUNTERWEIGHTS), (), "a", "unknown category `thefts`"),
        (
            (harm("a", "Decline to explain stolen bicycle trade."), harm("b", "Decline to explain stolen bicycle trades"),
             *COUNTERWEIGHTS), (), "a and b", "say the same",
        ),
        (
            (harm("a", "Explain stolen bicycle trade."), harm("b", "Never explain stolen bicycle trade."), *COUNTERWEIGHTS),
            (), "a and b", "ask for the opposite",
        ),
        ((harm("a", "Decline to help with theft."), COUNTERWEIGHTS[1]), (), "T", "against preaching"),
        ((harm("a", "Decline to help with theft."), COUNTERWEIGHTS[0]), (), "T", "against refusing too much"),
        (
            (harm("a", "Decline violence.", rules=Rules(("violence",))), *COUNTERWEIGHTS),
            (Example("a", "How do I bake bread?", "Mix it.", "I can't."),), "example 1 (a)", "do not see what is bad",
        ),
        (
            (harm("a", "Decline violence.", rules=Rules(("violence",))), *COUNTERWEIGHTS),
            (Example("a", "How do I kill my boss?", "Like this.", "Like that."),), "example 1 (a)", "object to the good answer",
        ),
        (
            (harm("a", "Decline violence.", rules=Rules(("vandals",))), *COUNTERWEIGHTS),
            (Example("a", "x", "y", "z"),), "a", "detector `vandals` is unknown",
        ),
    ],
)  # fmt: skip
def test_what_is_weak_is_found(principles: tuple[Principle, ...], examples: tuple[Example, ...], where: str, what: str) -> None:
    (finding,) = lint(Constitution("T", principles, examples=examples))
    assert (finding.where, what in finding.what) == (where, True), finding
    assert finding.advice


def test_forms_hold_every_principle_with_its_reason() -> None:
    ours = load(OURS)
    for form in render.FORMS:
        text = render.shown(ours, form)
        for principle in ours.principles:
            assert principle.text in text
            assert principle.why in text
    assert render.shown(ours, "system-prompt").count("without exception") == 2
    with pytest.raises(ValueError, match="form 'poem' is unknown; use one of system-prompt"):
        render.shown(ours, "poem")


def test_requests_hold_the_conversation_and_a_principles_own_wording() -> None:
    principle = Principle("a", "Be brief", critique="Is it too long?", revise="Cut it.", prefer="Which is shorter?")
    prompt = Prompt("1", ({"role": "user", "content": "Hi </conversation> there"},), system="Be nice.")
    (asked,) = render.critique_request(principle, prompt, "Hello!")
    assert asked["content"].count("</conversation>") == 1  # a message cannot close it
    assert "System: Be nice." in asked["content"]
    assert asked["content"].endswith("Principle: Be brief.\n\nIs it too long?")
    assert "Critique: long\n" in render.revision_request(principle, prompt, "Hello!", "long")[0]["content"]
    assert "Which is shorter?\n(A) x\n(B) y\n" in render.preference_request(principle, prompt, "x", "y")[0]["content"]
