"""What is weak about a constitution, found before anything is trained on it: findings with an advice, never an exception."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

from senryu.train.constitution.detectors import DETECTORS
from senryu.train.constitution.document import Constitution, ConstitutionError, Principle
from senryu.train.constitution.judge import Prompt
from senryu.train.constitution.rules import RuleJudge
from senryu.train.generators.safety import CATEGORIES

ALIKE = 0.6  # Jaccard index of two principles' words from which they say the same
OPPOSED = 0.45  # the same of a pair of which one says always, the other never

_COMMON = re.compile(
    r"(?:an?|and|any|are|as|at|be|by|do|does|for|from|help|if|in|is|it|its|no|not|of|on|only|or|others?|so|such|than|that|the|their|"
    r"them|they|this|to|we|what|when|which|who|with|you|your|response|answers?|assistant|ai|choose|please|should|must|will|can)"
)
_VAGUE = re.compile(
    r"\b(?:good|nice|proper|appropriate|ethical|moral|wise|best|better|right|excellent|great|suitable|reasonable|fine)(?:ly)?\b"
)
_DOES = re.compile(
    r"\b(?:declin|refus|answer|help|say|said|tell|give|write|offer|describ|explain|mention|claim|lectur|moralis|moraliz|suspect|repeat|"
    r"ask|name|point|avoid|produc|publish|treat|admit|invent|insult|threaten|encourag|shar|use|using|cite|quote|call|speak|plan|decide)\w*"
)
_PREACHY = re.compile(
    r"\b(?:preach|lectur|moralis|moraliz|sermon|condescend|patronis|patroniz|judgmental|judgemental|accus|sanctimon)\w*"
)
_OVER = re.compile(
    r"\b(?:harmless|benign|benefit of the doubt|over-?refus\w*|over-?cautious|overly (?:cautious|reactive|careful)|"
    r"unnecessar\w* refus\w*|refus\w* (?:without|unnecessarily|only)|(?:help|answer)\w* fully|sounds? dangerous|innocent)\b"
)


@dataclass(frozen=True)
class Finding:
    """level: `error` for what makes training pointless or wrong, `warning` for what weakens it. where: an id, or the file."""

    level: str
    where: str
    what: str
    advice: str

    def __str__(self) -> str:
        return f"{self.level}: {self.where}: {self.what}; {self.advice}"


def lint(constitution: Constitution) -> list[Finding]:
    """All findings: duplicates, contradictions, missing reasons and counterweights, what nobody could test, bad examples."""
    principles = constitution.principles
    found = [finding for principle in principles for finding in _alone(principle)]
    found += [finding for a, b in combinations(principles, 2) for finding in _together(a, b)]
    found += _counterweights(constitution)
    found += _examples(constitution)
    return found


def _alone(principle: Principle) -> Iterator[Finding]:
    if not principle.why.strip():
        yield Finding(
            "error", principle.id, "has no reason", "add why: models generalise from reasons, and readers can object to them"
        )
    elif len(principle.why.split()) < 4 or _likeness(principle.why, principle.text) > ALIKE:
        yield Finding("warning", principle.id, "its reason says nothing new", "say what would go wrong otherwise")
    text = principle.text.lower()
    checks = principle.rules.detect or principle.rules.words or principle.critique
    if not checks and (not _DOES.search(text) or (_VAGUE.search(text) and len(_words(principle.text)) < 8)):
        advice = "say what an answer does or leaves out, so that two readers would judge it alike"
        yield Finding("warning", principle.id, "cannot be tested: nothing in it can be seen in an answer", advice)
    for category in principle.applies_to:
        if category not in CATEGORIES:
            advice = f"prompts of our own have {', '.join(CATEGORIES)}; give your prompts this category, or it is never drawn"
            yield Finding("warning", principle.id, f"applies to the unknown category `{category}`", advice)


def _together(a: Principle, b: Principle) -> Iterator[Finding]:
    likeness = _likeness(a.text, b.text)
    sides = [bool(re.search(r"\b(?:never|do not|don't|avoid|decline|refuse)\b", p.text.lower())) for p in (a, b)]
    if likeness >= OPPOSED and sides[0] != sides[1]:
        yield Finding("error", f"{a.id} and {b.id}", "ask for the opposite of each other", "say when which of them holds")
    elif likeness >= ALIKE:
        yield Finding("warning", f"{a.id} and {b.id}", "say the same", "keep one of them; doubled ones weigh double")


def _counterweights(constitution: Constitution) -> Iterator[Finding]:
    """Without them training drifts to refusals and sermons (Bai et al. 2022, section 4.3)."""
    if not any(p.kind == "harm" for p in constitution.principles):
        return
    texts = [(p, p.text.lower()) for p in constitution.principles]
    if not any("preachy" in p.rules.detect or _PREACHY.search(text) for p, text in texts):
        yield Finding(
            "error",
            constitution.name,
            "has no counterweight against preaching",
            "add a principle against lectures and suspicion",
        )
    if not any("over_refusal" in p.rules.detect or _OVER.search(text) for p, text in texts):
        advice = "add a principle that asks for help with harmless requests"
        yield Finding("error", constitution.name, "has no counterweight against refusing too much", advice)


def _examples(constitution: Constitution) -> Iterator[Finding]:
    """Each example is held against the detectors of its principle: the bad answer must be seen, the good one must pass."""
    for number, example in enumerate(constitution.examples, start=1):
        principle = constitution.principle(example.principle)
        where, prompt = f"example {number} ({principle.id})", Prompt("", ({"role": "user", "content": example.prompt},))
        if unknown := [name for name in principle.rules.detect if name not in DETECTORS]:
            yield Finding("error", principle.id, f"detector `{unknown[0]}` is unknown", f"use some of {', '.join(DETECTORS)}")
            continue
        if not principle.rules.detect and not principle.rules.words:
            continue
        try:
            judge = RuleJudge([principle], 0)
        except ConstitutionError as error:
            yield Finding("error", principle.id, str(error), "complete its rules")
            continue
        if judge.critique(principle, prompt, example.bad) is None:
            yield Finding(
                "warning", where, "its rules do not see what is bad", "choose other detectors or words, or another example"
            )
        wrong = judge.critique(principle, prompt, example.good)
        if wrong is not None:
            yield Finding(
                "error", where, f"its rules object to the good answer: {wrong.text}", "correct the example or the rules"
            )


def _words(text: str) -> frozenset[str]:
    """Content words, their commonest endings cut."""
    words = re.findall(r"[a-z']+", text.lower())
    return frozenset(re.sub(r"(?:ing|ed|es|s|ly)$", "", word) for word in words if not _COMMON.fullmatch(word))


def _likeness(a: str, b: str) -> float:
    ours, theirs = _words(a), _words(b)
    return len(ours & theirs) / max(len(ours | theirs), 1)
