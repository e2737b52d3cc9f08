"""Whether a model falls apart: answers that run in circles, few different words, answers that shrink or never end."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

LONGEST_CYCLE = 40  # words, and characters
REPEATS = 3
LEAST_CHARACTERS, LEAST_WORDS = 24, 6  # that a cycle must cover: "no, no, no" is no loop
MOST_REPEATED = 0.5  # of the trigrams of an answer that was cut
BUDGET = 5_000  # words of all answers together that distinct-n is counted on: it falls with their number


@dataclass(frozen=True)
class Said:
    """An answer. cut: it reached the limit of its tokens."""

    text: str
    cut: bool = False


def loops(said: Said) -> bool:
    """Whether an answer ends in a circle, or was cut while it mostly repeated itself.

    A circle: at the end something of at most LONGEST_CYCLE words or characters stands REPEATS times or more in a row, after
    Holtzman et al. 2020 (arXiv 1904.09751, section 5: a phrase of two words or more, three times at the end).
    """
    words = said.text.lower().split()
    whole = words[:-1] if said.cut else words  # its last word may be half of one
    if _ends_in_cycle(whole, LEAST_WORDS) or _ends_in_cycle(said.text.strip().lower(), LEAST_CHARACTERS):
        return True
    return said.cut and repeated(words, 3) > MOST_REPEATED


def _ends_in_cycle(items: Sequence[str], least: int) -> bool:
    for period in range(1, min(LONGEST_CYCLE, len(items) // REPEATS) + 1):
        covered = period
        while covered < len(items) and items[-covered - 1] == items[-covered - 1 + period]:
            covered += 1
        if covered >= max(REPEATS * period, least):
            return True
    return False


def repeated(words: Sequence[str], n: int) -> float:
    """The part of the n-grams that stood in the text before."""
    grams = _grams(words, n)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def distinct(texts: Sequence[str], n: int) -> float:
    """Different n-grams of words by all n-grams, over the first BUDGET words (distinct-n, Li et al. 2016, arXiv 1510.03055)."""
    found: list[tuple[str, ...]] = []
    left = BUDGET
    for text in texts:
        words = re.findall(r"\w+(?:'\w+)?", text.lower())[:left]
        left -= len(words)
        found += _grams(words, n)
    return len(set(found)) / len(found) if found else 0.0


def _grams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def figures(answers: Sequence[Said]) -> dict[str, float]:
    """loops, cut, empty: parts of the answers; distinct_1, 2 and 3; words: their mean number."""
    count = max(len(answers), 1)
    texts = [answer.text for answer in answers]
    made = {
        "answers": len(answers),
        "loops": sum(map(loops, answers)) / count,
        "cut": sum(answer.cut for answer in answers) / count,
        "empty": sum(not text.strip() for text in texts) / count,
        "words": sum(len(text.split()) for text in texts) / count,
    }
    return made | {f"distinct_{n}": distinct(texts, n) for n in (1, 2, 3)}
