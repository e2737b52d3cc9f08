"""Cleaning: one document's text in, the text without debris out, or the rule that it fails; every rule counts what it did.

Prose: the characters are put right, lines of page furniture go, and texts that are short, endless, hardly letters, repetition
or garbled are dropped. Code: characters only, and files that are short, endless, or written by a program are dropped.
The bounds are of the kind that public corpora use (Gopher's repetition rule, arXiv 2112.11446, table A1; C4's line rules,
arXiv 1910.10683), set wider: a person's own texts are to lose debris alone.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass, field

SHORTEST, LONGEST = 80, 4_000_000  # characters of a document; longer ones are dumps
LETTERS_PROSE, LETTERS_CODE = 0.6, 0.3  # least share of letters among what is not space
REPEATED = 0.3  # most characters in lines that stood in the document before
GARBLED = 0.001  # most characters that say that another was lost
LONG_LINE, MEAN_LINE = 2_000, 120  # of code: longest line and mean that a person writes
FURNITURE_LINE = 160  # longest line that can be page furniture

# Controls without a meaning in text, C1 included; zero-width spaces, byte-order marks, soft hyphens, and marks of direction.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u200b\u2060\ufeff\u200e\u200f\u202a-\u202e\u2066-\u2069\ufffe\uffff]")
_BREAK = re.compile("\r\n?|\x0b|\x85|\u2028|\u2029")
_TRAILING = re.compile(r"[^\S\n]+(?=\n|\Z)")
_BLANK_LINES = re.compile(r"\n{4,}")

# UTF-8 that was read as Windows-1252 or Latin-1: the openings of what mostly comes out so (Latin letters, dashes and quotes,
# emoji, the replacement character). Other openings occur in sound text, as ß before a quotation mark does.
_BYTES = {chr(b): b for b in range(0x80, 0x100)}
_BYTES |= {bytes([b]).decode("cp1252"): b for b in range(0x80, 0xA0) if b not in (0x81, 0x8D, 0x8F, 0x90, 0x9D)}
_FOLLOWING = "[" + "".join(map(re.escape, (c for c, b in _BYTES.items() if b < 0xC0))) + "]"
_MOJIBAKE = re.compile(f"[ÂÃ]{_FOLLOWING}|â{_FOLLOWING}{{2}}|ï{_FOLLOWING}{{2}}|ð{_FOLLOWING}{{3}}")

_FURNITURE = re.compile(
    r"""\W*(
      skip\ to\ (main\ )?(content|navigation) | (back\ to|return\ to)\ top | all\ rights\ reserved
    | (copyright|©|\(c\))\s.{0,60}\b(19|20)\d\d\b.{0,60}
    | (share|follow\ us|tweet|pin\ it|like\ us)\ (this\ )?(on\ |to\ )?(facebook|twitter|x|linkedin|pinterest|instagram|whatsapp)
    | (subscribe|sign\ up)\ (to|for)\ (our|the)\ (free\ )?newsletter.{0,40}
    | (this|our)\ (web)?site\ uses\ cookies.{0,120} | (accept|manage|reject)\ (all\ )?cookies
    | (please\ )?enable\ javascript.{0,80} | javascript\ (is|must\ be)\ (disabled|enabled|required).{0,80}
    | (click\ here\ to\ )?(read\ more|print\ this\ page|log\ in|sign\ in|leave\ a\ (comment|reply)) | advertisement
    | ((privacy\ policy|terms\ of\ (use|service)|cookie\ policy)[\s|·•,&-]*)+
    | page\ \d+\ of\ \d+ | \d+\ (comments?|shares?|likes?)
    )\W*""",
    re.I | re.X,
)
_EBOOK_START = re.compile(r"^\*\*\* ?START OF (THE|THIS) PROJECT GUTENBERG.*$", re.M)
_EBOOK_END = re.compile(r"^\*\*\* ?END OF (THE|THIS) PROJECT GUTENBERG", re.M)
_MADE = re.compile(r"(auto[- ]?generated|generated (automatically )?(by|from|with)\b|do not (edit|modify)\b)", re.I)
_HEAD = 800  # characters of a program's output in which it says so


@dataclass
class Counts:
    """What the rules did, in documents: those that a rule changed, and those that it dropped."""

    changed: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)


def normalise(text: str, counts: Counts) -> str:
    """Characters put right: Unicode in composed form (NFC), line breaks as \\n, no control characters, mojibake read again."""
    steps = (
        ("mojibake", lambda t: _MOJIBAKE.sub(_read_again, t) if not t.isascii() else t),
        ("unicode", lambda t: unicodedata.normalize("NFC", t)),
        ("line_breaks", lambda t: _BREAK.sub("\n", t)),
        ("control", lambda t: _CONTROL.sub("", t)),
    )
    for rule, step in steps:
        better = step(text)
        if better != text:
            counts.changed[rule] += 1
        text = better
    return text


def _read_again(found: re.Match[str]) -> str:
    try:
        return bytes(_BYTES[c] for c in found[0]).decode("utf8")
    except UnicodeDecodeError:
        return found[0]


def clean(text: str, counts: Counts, *, code: bool) -> str | None:
    """The cleaned text, or None where a rule drops the document."""
    if len(text) > LONGEST:  # before any work on it
        counts.dropped["long"] += 1
        return None
    text = normalise(text, counts)
    text = _BLANK_LINES.sub("\n\n\n", _TRAILING.sub("", text)).strip("\n")
    if not code:
        bare = _without_furniture(text)
        if bare != text:
            counts.changed["boilerplate"] += 1
        text = bare
    rule = _broken_rule(text, code)
    if rule:
        counts.dropped[rule] += 1
        return None
    return text


def _without_furniture(text: str) -> str:
    """Without an e-book's frame and lines that belong to a web page, not to its text."""
    if start := _EBOOK_START.search(text):
        text = text[start.end() :]
    if end := _EBOOK_END.search(text):
        text = text[: end.start()]
    lines = text.split("\n")
    kept = [line for line in lines if len(line) > FURNITURE_LINE or not line or not _FURNITURE.fullmatch(line)]
    return text.strip("\n") if len(kept) == len(lines) else "\n".join(kept).strip("\n")


def _broken_rule(text: str, code: bool) -> str | None:
    """The first rule that a normalised text fails."""
    if len(text) < SHORTEST:
        return "short"
    if text.count("\ufffd") > GARBLED * len(text):
        return "garbled"
    solid = "".join(text.split())
    letters = sum(map(str.isalpha, solid))
    if letters < (LETTERS_CODE if code else LETTERS_PROSE) * len(solid):
        return "letters"
    if code:
        return "generated" if _looks_made(text) else None
    return "repetition" if _repeated(text) > REPEATED else None


def _looks_made(text: str) -> bool:
    """Whether a program wrote the code, by what its head says or by lines that no one types."""
    lines = text.split("\n")
    return bool(_MADE.search(text[:_HEAD])) or max(map(len, lines)) > LONG_LINE or len(text) > MEAN_LINE * len(lines)


def _repeated(text: str) -> float:
    """Share of the characters that stand in lines which stood in the document before."""
    seen: set[str] = set()
    again = 0
    for line in text.split("\n"):
        bare = line.strip()
        if bare in seen:
            again += len(bare)
        elif len(bare) > 3:
            seen.add(bare)
    return again / len(text)
