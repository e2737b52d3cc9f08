"""Where sentences end, in a text that is complete or still being written: the same places, however it arrives."""

from __future__ import annotations

import re

LONGEST = 480  # characters; what runs on without an end is cut between words
_END = re.compile(
    r"[.!?…]+[\"'”’»)\]*_]*(?=\s|$)"  # a mark, whatever closes with it, and white space
    r"|[。！？｡]+[」』”’）]*"  # scripts that put no space between sentences
    r"|(?<=\S)(?=[^\S\n]*\n)"  # a line
)
_TEXT = re.compile(r"\S")
_WORD_END = re.compile(r"\S(?=\s)")
_ABBREVIATED = re.compile(
    r"(?:\b(?:Mr|Mrs|Ms|Dr|Prof|St|Jr|Sr|No|Nos|Fig|Figs|Eq|Sec|Vol|Ch|pp|vs|cf|al|etc|e\.g|i\.e|approx|ca|bzw|z\.B)|\b[A-Z])\.$"
)


def sentence_end(text: str, start: int = 0, final: bool = True) -> int | None:
    """The end of the sentence that begins at `start`, white space before it included and none after it.

    None when that is not known before more text comes, or when there is no more than white space. `final`: no more will come.
    """
    first = _TEXT.search(text, start)
    if first is None:
        return None
    most = first.start() + LONGEST
    for match in _END.finditer(text, first.start() + 1, most + 2):
        end = match.end()
        if end > most:
            break
        after = _TEXT.search(text, end)
        if after is None:
            if not final:
                return None
            break
        if _ends(text, first.start(), match, after.start()):
            return end
    if len(text) > most:
        words = [match.end() for match in _WORD_END.finditer(text, first.start(), most + 1) if match.end() <= most]
        return words[-1] if words else most
    return len(text.rstrip()) if final else None


def _ends(text: str, start: int, match: re.Match[str], after: int) -> bool:
    """Whether a candidate is an end, seen the character at `after`, the next that is no white space."""
    between = text[match.end() : after]
    if between.count("\n") > 1:
        return True
    if "\n" in between:  # a wrapped line goes on in lower case
        return not text[after].islower()
    if not between:
        return text[match.start()] in "。！？｡"
    if text[after].islower() or _ABBREVIATED.search(text, max(start, match.end() - 12), match.end()):
        return False
    return not re.fullmatch(r"\s*\d{1,3}\.", text[start : match.end()])  # the number of a list's item


def sentences(text: str) -> list[tuple[int, int]]:
    """[start, end) of every sentence of a complete text, without the white space around it."""
    found, start = [], 0
    while (end := sentence_end(text, start)) is not None:
        found.append((start + len(text[start:end]) - len(text[start:end].lstrip()), end))
        start = end
    return found


class SentenceCutter:
    """Cuts a text that arrives in pieces: the pieces that come out, joined, are what went in."""

    def __init__(self) -> None:
        self._held = ""

    def push(self, text: str) -> list[str]:
        """The sentences that are complete by now, each with the white space before it."""
        self._held += text
        return self._cut(final=False)

    def flush(self) -> tuple[list[str], str]:
        """(what sentences are left, the white space after the last), when no more will come."""
        cut = self._cut(final=True)
        rest, self._held = self._held, ""
        return cut, rest

    def _cut(self, final: bool) -> list[str]:
        found, start = [], 0
        while (end := sentence_end(self._held, start, final)) is not None:
            found.append(self._held[start:end])
            start = end
        self._held = self._held[start:]
        return found
