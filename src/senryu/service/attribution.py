"""Which passage of the sources a sentence comes from: an index over their words, and a judgement that prefers none to a wrong.

A sentence is cited when it is found word for word, when a part in quotation marks or a long run of it is, or when one or two
neighbouring sentences of a source hold most of its weight. A word weighs its inverse document frequency over the sources' own
sentences; function words weigh little and words that no source has weigh most. A paraphrase must also agree with its passage
in every number and in whether it negates: a source that says something else must not lend its name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Literal

import numpy as np

from senryu.service.sentences import sentences
from senryu.types import Citation

Kind = Literal["char_location", "page_location", "content_block_location", "search_result_location"]
ENOUGH, STRONG = 0.6, 0.8  # share of a sentence's weight that its passage holds; see tests/service/test_attribution.py
MANY_UNITS, FEW_UNITS = 4.0, 2.0  # matched content words that go with ENOUGH and with STRONG
RUN_WORDS, RUN_UNITS = 6, 3.0  # a run of so much is no accident
RARE = 0.5  # what matched words must weigh on average, of the weight of a word that one sentence alone has
ORDER = 0.4  # of the pairs of neighbouring words, when so many are neighbours in the source it need not be rare words
NAME_SENTENCES = 3  # a name or number that stands alone is cited when no more sentences than these have it
PART_WORDS, PART_UNITS = 3, 2.0  # of several runs that make up a sentence
GAIN = 0.15  # what a neighbouring sentence must add
CANDIDATES, ANCHOR_POSITIONS, MOST_CITATIONS = 8, 256, 3

_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"\d+(?:[.,]\d+)*|[{_CJK}]|[^\W\d_{_CJK}](?:['’]?[^\W_{_CJK}])*")
_QUOTED = re.compile(r'"([^"]+)"|“([^”]+)”|«([^»]+)»|„([^“”]+)[“”]|「([^」]+)」')
_ITEM = re.compile(r"\s*(?:[-*+•–]|\d{1,3}[.)])\s+")
_NEGATING = "not no never none nor cannot without"
_SAYING_LITTLE = """
a about above after again against all also although am an and any are as at be because been before being below between both
but by can could did do does doing down during each either else even ever every few for from further get gets got had has have
having he her here hers herself him himself his how however i if in into is it its itself just let like many may me might more
most much must my myself of off often on once one only or other our ours out over own per perhaps quite rather really same
shall she should since so some still such than that the their theirs them then there therefore these they this those though
through thus to too under until up upon us very was we well were what when where whether which while who whom whose why will
with within would yes yet you your yours okay ok sure please thanks thank sorry according answer article context document
documents file mention mentions mentioned page passage report says said say source sources state states stated text user
"""
_NEGATIONS = frozenset(_NEGATING.split())
_FUNCTION = _NEGATIONS | frozenset(_SAYING_LITTLE.split())


@dataclass(frozen=True, slots=True)
class Passage:
    """A text of a source: a whole plain document, or one page or block. number: the page's or block's. index: the source's."""

    kind: Kind
    text: str
    index: int
    number: int = 0
    title: str | None = None
    source: str | None = None
    file_id: str | None = None


@dataclass(frozen=True, slots=True)
class _Word:
    """A word of the answer. id: that of the sources' vocabulary, negative when they lack it. units: 1 for a content word,
    half for a character of a script without spaces, 0 for a function word."""

    id: int
    text: str
    weight: float
    units: float


@lru_cache(maxsize=65_536)
def normal(word: str) -> str:
    """A word without case, ending, or the separators of thousands."""
    word = word.casefold().replace("’", "'").removesuffix("'s")
    if word[:1].isdigit():
        return word.replace(",", "")
    if word.isascii():
        for suffix in ("ing", "ed", "es", "s", "e", "ly"):
            if word.endswith(suffix) and len(word) - len(suffix) >= 4:
                return word.removesuffix(suffix)
    return word


@lru_cache(maxsize=65_536)
def units(word: str) -> float:
    """How much a word says: 1, half for one character of CJK, 0 for a function word or a kana."""
    if re.match(f"[{_CJK}]", word):
        return 0.0 if "\u3040" <= word <= "\u309f" else 0.5
    lowered = word.casefold().replace("’", "'")
    return 0.0 if lowered in _FUNCTION or _negates(lowered) or (len(lowered) < 2 and not lowered.isdigit()) else 1.0


def _negates(word: str) -> bool:
    return word in _NEGATIONS or word.endswith("n't")


class Attribution:
    """The passages of a turn, indexed. Building takes a second or two for a million characters, a look-up some milliseconds."""

    def __init__(self, passages: Sequence[Passage]) -> None:
        self._passages = tuple(passages)
        self._chunks: list[tuple[int, int, int]] = []  # passage, start, end: its sentences
        self._vocabulary: dict[str, int] = {}
        ids: list[int] = []
        bounds: list[tuple[int, int]] = []  # of a chunk's words in ids
        for number, passage in enumerate(self._passages):
            for start, end in sentences(passage.text):
                first = len(ids)
                for match in _WORD.finditer(passage.text, start, end):
                    ids.append(self._vocabulary.setdefault(normal(match.group()), len(self._vocabulary)))
                if len(ids) > first:
                    self._chunks.append((number, start, end))
                    bounds.append((first, len(ids)))
            ids.append(-1)  # no run goes on into another passage
        self._ids = np.array(ids, dtype=np.int64)
        self._bounds = bounds
        chunk_of = np.full(len(ids), -1, dtype=np.int64)
        for chunk, (first, last) in enumerate(bounds):
            chunk_of[first:last] = chunk
        self._chunk_of = chunk_of
        self._index()

    def _index(self) -> None:
        """Word -> its positions, word -> the chunks that have it, word -> its weight."""
        words, chunks = len(self._vocabulary), max(len(self._chunks), 1)
        order = np.argsort(self._ids, kind="stable")
        self._positions = order[np.count_nonzero(self._ids < 0) :]
        real = self._ids[self._positions]
        self._position_offsets = np.concatenate([[0], np.cumsum(np.bincount(real, minlength=words))])
        pairs = np.unique(real * chunks + self._chunk_of[self._positions])
        frequency = np.bincount(pairs // chunks, minlength=words)
        self._holders = pairs % chunks
        self._holder_offsets = np.concatenate([[0], np.cumsum(frequency)])
        self._weights = np.log1p(chunks / np.maximum(frequency, 1))
        self._rarest = float(np.log1p(chunks))
        self._unknown = float(np.log1p(2 * chunks))

    def cite(self, sentence: str) -> tuple[Citation, ...]:
        """Where `sentence` comes from, best or first mentioned first; nothing when no passage is sure enough."""
        if not self._chunks:
            return ()
        words = self._read(sentence)
        spans = self._whole(words)
        if not spans and (item := _ITEM.match(sentence)):  # the number of a list's item is the answer's own
            words = self._read(sentence[item.end() :])
            spans = self._whole(words)
        spans = spans or self._quotes(sentence) or self._covering(words) or self._runs(words)
        return tuple(dict.fromkeys(self._citation(first, last) for first, last in spans))[:MOST_CITATIONS]

    def _read(self, text: str) -> list[_Word]:
        words = []
        for match in _WORD.finditer(text):
            id = self._vocabulary.get(normal(match.group()), -2)
            value = units(match.group())
            weight = self._unknown if id < 0 else float(self._weights[id])
            words.append(_Word(id, match.group(), weight if value else 0.1 * weight, value))
        return words

    def _whole(self, words: Sequence[_Word]) -> list[tuple[int, int]]:
        """The chunks that hold the words as they stand, when those say enough to be a quotation."""
        at = self._find([word.id for word in words]) if words else None
        if at is None:
            return []
        first, last = int(self._chunk_of[at]), int(self._chunk_of[at + len(words) - 1])
        said = sum(word.units for word in words)
        sentence = at == self._bounds[first][0] and at + len(words) == self._bounds[last][1] and len(words) >= 3
        name = said == 1 and any(word.units and self._names(word, at + i) for i, word in enumerate(words))
        return [(first, last)] if said >= PART_UNITS or sentence or name else []

    def _names(self, word: _Word, position: int) -> bool:
        """Whether a word that few sentences have is a number of some digits, or is written as a name within a sentence."""
        chunk = int(self._chunk_of[position])
        if self._holder_offsets[word.id + 1] - self._holder_offsets[word.id] > NAME_SENTENCES:
            return False
        if word.text[0].isdigit():
            return len(word.text) > 1
        if position == self._bounds[chunk][0] or not word.text[0].isupper():
            return False
        number, start, end = self._chunks[chunk]
        found = list(_WORD.finditer(self._passages[number].text, start, end))
        return found[position - self._bounds[chunk][0]].group()[0].isupper()

    def _quotes(self, sentence: str) -> list[tuple[int, int]]:
        """The chunks that hold what the sentence has in quotation marks."""
        parts = [self._read(next(filter(None, match.groups()))) for match in _QUOTED.finditer(sentence)]
        return [span for part in parts if len(part) >= PART_WORDS for span in self._whole(part)]

    def _find(self, ids: Sequence[int]) -> int | None:
        """The first position at which `ids` stand one after the other."""
        if min(ids) < 0:
            return None
        counts = [int(self._position_offsets[id + 1] - self._position_offsets[id]) for id in ids]
        rarest = counts.index(min(counts))
        starts = self._at(ids[rarest]) - rarest
        starts = starts[(starts >= 0) & (starts + len(ids) <= len(self._ids))]
        for offset, id in enumerate(ids):
            starts = starts[self._ids[starts + offset] == id]
        return int(starts[0]) if len(starts) else None

    def _at(self, id: int) -> np.ndarray:
        return self._positions[self._position_offsets[id] : self._position_offsets[id + 1]]

    def _covering(self, words: Sequence[_Word]) -> list[tuple[int, int]]:
        """The sentence of a source, or the two neighbours, that hold most of the words' weight."""
        unique = {word.id if word.id >= 0 else word.text.casefold(): word for word in words}
        known = [word for word in unique.values() if word.id >= 0 and word.units]
        if not known:
            return []
        holders = [self._holders[self._holder_offsets[word.id] : self._holder_offsets[word.id + 1]] for word in known]
        weights = np.repeat([word.weight for word in known], [len(held) for held in holders])
        scores = np.bincount(np.concatenate(holders), weights, minlength=len(self._chunks))
        best, span = 0.0, []
        for chunk in np.argsort(-scores, kind="stable")[:CANDIDATES].tolist():
            for first, last in self._neighbours(chunk):
                score = self._agreement(words, list(unique.values()), first, last) - GAIN * (last - first)
                if score > best:
                    best, span = score, [(first, last)]
        return span

    def _neighbours(self, chunk: int) -> Iterator[tuple[int, int]]:
        """A chunk alone, then with the one after it and the one before it."""
        yield chunk, chunk
        for first, last in ((chunk, chunk + 1), (chunk - 1, chunk)):
            if first >= 0 and last < len(self._chunks) and self._chunks[first][0] == self._chunks[last][0]:
                yield first, last

    def _agreement(self, words: Sequence[_Word], unique: Sequence[_Word], first: int, last: int) -> float:
        """How well chunks back a sentence: the share of its weight that they hold, and a little for words in the same order. 0
        when that is not enough, or when they say something else."""
        ids = self._ids[self._bounds[first][0] : self._bounds[last][1]].tolist()
        held = set(ids)
        matched = [word for word in unique if word.id in held]
        share = sum(word.weight for word in matched) / sum(word.weight for word in unique)
        said = sum(word.units for word in matched)
        if not ((share >= ENOUGH and said >= MANY_UNITS) or (share >= STRONG and said >= FEW_UNITS)):
            return 0.0
        pairs, own = set(pairwise(ids)), [(a.id, b.id) for a, b in pairwise(words)]
        order = sum(pair in pairs for pair in own) / max(len(own), 1)
        if not (order >= ORDER or self._telling(matched)) or not self._consistent(words, [(first, last)]):
            return 0.0
        return share + 0.1 * order

    def _telling(self, words: Sequence[_Word]) -> bool:
        """Whether words are rare enough in the sources for their being together to mean something."""
        return sum(word.weight * word.units for word in words) >= RARE * self._rarest * sum(word.units for word in words)

    def _consistent(self, words: Sequence[_Word], spans: Sequence[tuple[int, int]]) -> bool:
        """Whether the chunks have every number of the sentence, and negate when it does and only then."""
        texts = [self._slice(first, last) for first, last in spans]
        held = [match.group() for text in texts for match in _WORD.finditer(text)]
        numbers = {normal(word) for word in held if word[0].isdigit()}
        if any(word.text[0].isdigit() and normal(word.text) not in numbers for word in words):
            return False
        theirs = any(_negates(word.casefold().replace("’", "'")) for word in held)
        ours = any(_negates(word.text.casefold().replace("’", "'")) for word in words)
        return theirs == ours

    def _runs(self, words: Sequence[_Word]) -> list[tuple[int, int]]:
        """The chunks of a long run of words that stand in a source as they do here, or of the runs that make up most of it."""
        found = sorted(self._common(words), key=lambda run: (-_weigh(words, run), run))
        taken: list[tuple[int, int, int]] = []
        enough = False
        for start, end, at in found:
            apart = all(end <= other[0] or other[1] <= start for other in taken)
            said = sum(word.units for word in words[start:end])
            long = end - start >= RUN_WORDS and said >= RUN_UNITS
            part = end - start >= PART_WORDS and said >= PART_UNITS and self._telling(words[start:end])
            if apart and (long or part) and len(taken) < MOST_CITATIONS:
                taken.append((start, end, at))
                enough = enough or long
        if not taken:
            return []
        share = sum(_weigh(words, run) for run in taken) / sum(word.weight for word in words)
        spans = [(int(self._chunk_of[at]), int(self._chunk_of[at + end - start - 1])) for start, end, at in sorted(taken)]
        return spans if (enough or share >= STRONG) and self._consistent(words, spans) else []

    def _common(self, words: Sequence[_Word]) -> set[tuple[int, int, int]]:
        """(start, end, position) of the longest runs around every content word that is not everywhere."""
        runs: set[tuple[int, int, int]] = set()
        reached: dict[int, int] = {}  # alignment of words and source -> end of its last run, which holds the anchors before
        ids = [word.id for word in words]
        for anchor, word in enumerate(words):
            if word.id < 0 or not word.units:
                continue
            for at in self._at(word.id)[:ANCHOR_POSITIONS].tolist():
                if anchor < reached.get(at - anchor, 0):
                    continue
                start, end = anchor, anchor + 1
                while start > 0 and at - (anchor - start) > 0 and ids[start - 1] == self._ids[at - (anchor - start) - 1]:
                    start -= 1
                while end < len(ids) and ids[end] == self._ids[at + end - anchor]:
                    end += 1
                runs.add((start, end, at - (anchor - start)))
                reached[at - anchor] = end
        return runs

    def _slice(self, first: int, last: int) -> str:
        number, start, _ = self._chunks[first]
        return self._passages[number].text[start : self._chunks[last][2]]

    def _citation(self, first: int, last: int) -> Citation:
        number, start, _ = self._chunks[first]
        passage, end = self._passages[number], self._chunks[last][2]
        text = passage.text[start:end]
        match passage.kind:
            case "page_location":
                start, end = passage.number, passage.number + 1
            case "content_block_location" | "search_result_location":
                text, start, end = passage.text, passage.number, passage.number + 1
        return Citation(passage.kind, text, passage.index, start, end, passage.title, passage.source, passage.file_id)


def _weigh(words: Sequence[_Word], run: tuple[int, int, int]) -> float:
    return sum(word.weight for word in words[run[0] : run[1]])
