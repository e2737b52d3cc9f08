"""What keeps training data from teaching a model to fall apart: revisions that are too long, repeat themselves, or leak.

Small models collapse on their own revisions (arXiv 2504.04918): templates at their ends, loops, words of the critique.
"""

from __future__ import annotations

import re

from senryu.train.constitution.detectors import repeated_trigrams
from senryu.train.constitution.judge import Critique

MOST_WORDS = 150
MOST_REPEATED = 0.3  # of a text's trigrams
LEAKED_WORDS = 8  # words in a row of the critique

_MACHINERY = re.compile(
    r"\b(?:critique|revis(?:ed|ion)\b[^.]{0,20}\b(?:answer|response)|(?:this|the|that) principle|the assistant'?s (?:last )?"
    r"(?:answer|response)|as an assistant that keeps|breaks the principle)\b|</?conversation>|\([AB]\)",
    re.I,
)


def reason_to_drop(text: str, critiques: list[Critique]) -> str:
    """Why a revision is not trained on: empty, long, repetitive or leak; "" when it is sound."""
    words = text.split()
    if not words:
        return "empty"
    if len(words) > MOST_WORDS:
        return "long"
    if repeated_trigrams(text) > MOST_REPEATED:
        return "repetitive"
    if _MACHINERY.search(text) or any(_copied(text, critique.text) for critique in critiques):
        return "leak"
    return ""


def _copied(text: str, critique: str) -> bool:
    said, source = (re.findall(r"\w+", t.lower()) for t in (text, critique))
    known = {tuple(source[i : i + LEAKED_WORDS]) for i in range(len(source) - LEAKED_WORDS + 1)}
    return any(tuple(said[i : i + LEAKED_WORDS]) in known for i in range(len(said) - LEAKED_WORDS + 1))
