"""The judge `self`: the model that is trained compares by its own log-probabilities of (A) and (B), where that beats chance.

Critiques and revisions are another judge's (the rules): a small model cannot write valid ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from senryu.train.constitution import render
from senryu.train.constitution.document import Principle
from senryu.train.constitution.judge import Critique, Judge, Message, Prompt

Score = Callable[[Sequence[tuple[list[Message], str]]], list[float]]
"""(conversation, how its answer begins) -> the log-probability of that beginning, in nats."""

LETTERS = ("A", "B")
MOST_HELD = 100  # pairs that a principle is calibrated on
SIGNIFICANT = 0.05  # chance of as many right answers by guessing, below which a principle's comparisons are used


@dataclass(frozen=True)
class Held:
    """A pair whose better answer is known, for calibration only: none of them may be among the prompts of the data.

    principle: the id of the one by which it is better; "" for any by which the other judge tells them apart.
    """

    prompt: Prompt
    better: str
    worse: str
    principle: str = ""


@dataclass(frozen=True)
class Calibration:
    """How a principle's comparisons did on held pairs. chance: of at least so many right by guessing (binomial, p = 1/2)."""

    pairs: int
    right: float
    chance: float

    @property
    def used(self) -> bool:
        return self.chance < SIGNIFICANT


class SelfJudge:
    """Compares by the model itself for principles on which it passed the calibration, and by `other` for all else."""

    name = "self"

    def __init__(self, score: Score, other: Judge, principles: Sequence[Principle], held: Sequence[Held]) -> None:
        self._score, self._other = score, other
        self.calibration = {principle.id: self._calibrate(principle, held) for principle in principles}

    def applicable(self, principles: Sequence[Principle], prompt: Prompt, answer: str) -> list[Principle]:
        return self._other.applicable(principles, prompt, answer)

    def critique(self, principle: Principle, prompt: Prompt, answer: str) -> Critique | None:
        return self._other.critique(principle, prompt, answer)

    def revise(self, principle: Principle, prompt: Prompt, answer: str, critique: Critique) -> str:
        return self._other.revise(principle, prompt, answer, critique)

    def compare(self, principle: Principle, prompt: Prompt, a: str, b: str) -> float:
        """By the model where its calibration beat chance, else by the other judge."""
        calibration = self.calibration.get(principle.id)
        if calibration is None or not calibration.used:
            return self._other.compare(principle, prompt, a, b)
        return self._own(principle, prompt, a, b)

    def report(self) -> dict[str, Any]:
        """The calibration of each principle; what was used and what was not."""
        used = [id for id, calibration in self.calibration.items() if calibration.used]
        table = {
            id: {"pairs": c.pairs, "right": round(c.right, 4), "chance": round(c.chance, 4), "used": c.used}
            for id, c in self.calibration.items()
        }
        verdict = f"own comparisons are used for {len(used)} of {len(table)} principles; all others are the other judge's"
        return {"judge": self.name, "verdict": verdict, "used": used, "calibration": table, "other": self._other.report()}

    def _own(self, principle: Principle, prompt: Prompt, a: str, b: str) -> float:
        """softmax over the letters' log-probabilities, the mean of both orders: a liking for one letter cancels out."""
        asked = [render.preference_request(principle, prompt, *pair) for pair in ((a, b), (b, a))]
        scores = self._score([(messages, letter) for messages in asked for letter in LETTERS])
        first, second = (1 / (1 + math.exp(min(scores[i + 1] - scores[i], 700))) for i in (0, 2))
        return (first + 1 - second) / 2

    def _speaks_of(self, principle: Principle, pair: Held) -> bool:
        if pair.principle:
            return pair.principle == principle.id
        return self._other.compare(principle, pair.prompt, pair.better, pair.worse) > 0.5

    def _calibrate(self, principle: Principle, held: Sequence[Held]) -> Calibration:
        """On the first held pairs that are better by this principle; a tie counts half."""
        pairs = [pair for pair in held if self._speaks_of(principle, pair)][:MOST_HELD]
        verdicts = [self._own(principle, pair.prompt, pair.better, pair.worse) for pair in pairs]
        right = sum(1.0 if verdict > 0.5 else 0.5 if verdict == 0.5 else 0.0 for verdict in verdicts)
        return Calibration(len(pairs), right / max(len(pairs), 1), _by_chance(len(pairs), math.floor(right)))


def _by_chance(count: int, right: int) -> float:
    """P(at least `right` of `count` fair coins are heads)."""
    return sum(math.comb(count, k) for k in range(right, count + 1)) / 2**count
