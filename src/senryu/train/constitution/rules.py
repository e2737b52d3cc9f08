"""The judge `rules`: detectors instead of understanding, critiques by template, revisions put together from phrases.

For models too small to criticise themselves. It sees what its patterns see and nothing else, and says so in its report.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

from senryu.train.constitution.detectors import CLAIMS, DETECTORS, MOST_WORDS, PII, PREACHY, normal, payloads, speaks_of
from senryu.train.constitution.document import ConstitutionError, Principle
from senryu.train.constitution.judge import Critique, Prompt
from senryu.train.generators.refusal import declines
from senryu.train.generators.safety import REQUESTS, actions, comply, decline

WORDS = "words"  # the name of what a principle's own words find
SURE = 0.95  # how sure a verdict of the rules is taken to be


class RuleJudge:
    """Judge by the `rules` tables of the principles. seed: of the phrases that revisions are made of."""

    name = "rules"

    def __init__(self, principles: Sequence[Principle], seed: int) -> None:
        self._seed = seed
        for principle in principles:
            unknown = [name for name in principle.rules.detect if name not in DETECTORS]
            if unknown:
                raise ConstitutionError(
                    f"principle `{principle.id}`: detector `{unknown[0]}` is unknown; use some of {', '.join(DETECTORS)}"
                )
            own = principle.rules
            if own.words and not (own.topic and own.why and own.offer):
                raise ConstitutionError(
                    f"principle `{principle.id}`: rules.words needs topic, why and offer too: what a refusal says in "
                    '"I can\'t help with {topic}, because {why}. {offer}"'
                )
        self._blind = [p.id for p in principles if not (p.rules.detect or p.rules.words)]

    def applicable(self, principles: Sequence[Principle], prompt: Prompt, answer: str) -> list[Principle]:
        """Those that the answer breaks: looking costs nothing here."""
        return [principle for principle in principles if self._wrong(principle, prompt, answer)]

    def critique(self, principle: Principle, prompt: Prompt, answer: str) -> Critique | None:
        """The first thing that a detector of the principle sees."""
        wrong = self._wrong(principle, prompt, answer)
        if wrong is None:
            return None
        found, clause = wrong
        reason = f" {principle.why}" if principle.why else ""
        return Critique(principle.id, f"The answer breaks the principle: {clause}.{reason}", found)

    def revise(self, principle: Principle, prompt: Prompt, answer: str, critique: Critique) -> str:
        """A refusal in parts, the answer without what was wrong, or a helpful one where none was needed."""
        draw = random.Random(f"{self._seed} {prompt.given} {answer}")
        if critique.found in (*REQUESTS, "prompt", WORDS):
            own = principle.rules
            return decline(draw, "train", critique.found, topic=own.topic, why=own.why, offer=own.offer)
        if critique.found == "over_refusal":
            return prompt.reference or comply(draw, "train", _known_fact(prompt))
        repaired = _REPAIRS[critique.found](prompt, answer)
        return repaired or comply(draw, "train")

    def compare(self, principle: Principle, prompt: Prompt, a: str, b: str) -> float:
        """SURE for the answer that keeps to the principle where the other breaks it."""
        broken_a, broken_b = (self._wrong(principle, prompt, answer) is not None for answer in (a, b))
        return 0.5 if broken_a == broken_b else 1 - SURE if broken_a else SURE

    def report(self) -> dict[str, object]:
        """Its method, and the principles that it cannot see."""
        return {"judge": self.name, "method": "patterns and word lists; no understanding", "cannot_check": self._blind}

    def _wrong(self, principle: Principle, prompt: Prompt, answer: str) -> tuple[str, str] | None:
        """(detector, what is wrong as a clause)."""
        if not principle.about(prompt.category):
            return None
        for name in principle.rules.detect:
            clause = DETECTORS[name](prompt, answer)
            if clause:
                return name, clause
        word = speaks_of(principle.rules.words, f"{prompt.user}\n{answer}")
        if word and not declines(answer):
            return WORDS, f'it speaks of "{word}" where it should decline'
        return None


def _known_fact(prompt: Prompt) -> str:
    """What the training phrases know of a harmless request."""
    text = normal(prompt.user)
    known = (f for category in REQUESTS for f in actions("train", category, unsafe=False).items())
    return next((fact for action, fact in known if action.lower() in text), "")


def _sentences(text: str) -> list[str]:
    return re.split(r"(?<=[.!?])\s+", text.strip())


def _without(pattern: Callable[[str], object]) -> Callable[[Prompt, str], str]:
    """The answer less the sentences in which something is found."""
    return lambda _, answer: " ".join(s for s in _sentences(answer) if not pattern(normal(s)))


def _obeying_no_text(prompt: Prompt, answer: str) -> str:
    said = [payload.lower() for payload in payloads(prompt)]
    kept = [s for s in _sentences(answer) if not any(payload in s.lower() for payload in said)]
    return " ".join([*kept, "The text holds an order to me, which I did not follow."])


def _masked(prompt: Prompt, answer: str) -> str:
    for name, pattern in PII.items():
        answer = pattern.sub(lambda m, name=name: m.group() if m.group() in prompt.given else f"[{name}]", answer)  # type: ignore[misc]
    return answer


def _shorter(_: Prompt, answer: str) -> str:
    """The first sentences, none of them twice, of at most a third of what is too long; cut where words begin to repeat."""
    kept: list[str] = []
    for sentence in dict.fromkeys(_sentences(answer)):
        if kept and len(" ".join([*kept, sentence]).split()) > MOST_WORDS // 3:
            break
        kept.append(sentence)
    words = " ".join(kept).split()[:MOST_WORDS]
    seen: set[tuple[str, ...]] = set()
    for end in range(3, len(words) + 1):
        last = tuple(words[end - 3 : end])
        if last in seen:
            return " ".join(words[: end - 3]).rstrip(",;:") + "."
        seen.add(last)
    return " ".join(words)


_REPAIRS: dict[str, Callable[[Prompt, str], str]] = {
    "preachy": _without(lambda s: any(p.search(s) for p in PREACHY)),
    "false_claim": _without(CLAIMS.search),
    "injection": _obeying_no_text,
    "pii": _masked,
    "rambling": _shorter,
}
