"""Citations by attribution: the answer is cut into sentences as it streams, and each is cited where a source says the same.

A small model cannot be trusted to mark its sources; where a sentence stands in them can be looked up. The model sees nothing of
it, and nothing of it is billed. A cited sentence is a Text block of its own; what lies between is merged. The blocks' texts
joined are the answer's text, and a cited text stands verbatim in its source.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator

from senryu.errors import SenryuError
from senryu.service.attribution import Attribution, Passage
from senryu.service.documents import sources
from senryu.service.sentences import SentenceCutter, sentences
from senryu.types import (
    BlockStarted,
    BlockStopped,
    Chunks,
    Citation,
    CitationDelta,
    Document,
    Event,
    Pages,
    PlainText,
    SearchResult,
    Text,
    TextDelta,
    Turn,
)

INLINE_CHARACTERS = 16_384  # longer sources are indexed off the event loop
_ENDS = ".!?…。！？:"


def check_citations(turn: Turn) -> bool:
    """Whether the answer is to be cited. Raises SenryuError when it cannot be as it is asked."""
    enabled = False
    first: dict[type, bool] = {}
    for path, block in sources(turn):
        if first.setdefault(type(block), block.citations) != block.citations:
            kind = "documents" if isinstance(block, Document) else "search results"
            raise SenryuError("citations_mixed", path=f"{path}.citations", kind=kind)
        enabled = enabled or block.citations
    if enabled and turn.output_schema is not None:
        raise SenryuError("citations_format")
    return enabled


async def citer(turn: Turn) -> Citer | None:
    """What cites the answer of a resolved turn; None where it is not to be cited. Raises SenryuError as `check_citations`."""
    if not check_citations(turn):
        return None
    passages = list(_passages(turn))
    long = sum(len(passage.text) for passage in passages) > INLINE_CHARACTERS
    index = await asyncio.to_thread(Attribution, passages) if long else Attribution(passages)
    return Citer(index, _unfinished(turn))


def _passages(turn: Turn) -> Iterator[Passage]:
    """What may be cited: the contents of documents and search results that allow it, counted over all messages."""
    counts = {Document: 0, SearchResult: 0}
    for _, block in sources(turn):
        index = counts[type(block)]
        counts[type(block)] += 1
        if not block.citations:
            continue
        if isinstance(block, SearchResult):
            for number, text in enumerate(block.texts):
                yield Passage("search_result_location", text, index, number, block.title, block.source)
            continue
        match block.source:
            case PlainText(text):
                yield Passage("char_location", text, index, title=block.title, file_id=block.file_id)
            case Pages(texts):
                for number, text in enumerate(texts, start=1):
                    yield Passage("page_location", text, index, number, block.title, file_id=block.file_id)
            case Chunks(texts):
                for number, text in enumerate(texts):
                    yield Passage("content_block_location", text, index, number, block.title, file_id=block.file_id)


def _unfinished(turn: Turn) -> str:
    """The beginning of the answer's first sentence, where the caller wrote it (prefill)."""
    last = turn.messages[-1]
    text = "".join(block.text for block in last.content if isinstance(block, Text)) if last.role == "assistant" else ""
    spans = sentences(text)
    return text[spans[-1][0] :] if spans and text.rstrip()[-1] not in _ENDS else ""


class Citer:
    """Push an answer's events, get them back with citations. Text waits for the end of its sentence, nothing else waits."""

    def __init__(self, sources: Attribution, before: str = "") -> None:
        """before: the beginning of the first sentence, which is not part of the answer."""
        self._sources, self._before = sources, before
        self._cutter = SentenceCutter()
        self._open: list[str] | None = None  # the texts of the block that is being written
        self._citations: tuple[Citation, ...] = ()

    def push(self, events: Iterable[Event]) -> Iterator[Event]:
        """What `events` become."""
        for event in events:
            match event:
                case BlockStarted(Text()):
                    self._cutter = SentenceCutter()
                case TextDelta(text):
                    for sentence in self._cutter.push(text):
                        yield from self._sentence(sentence)
                case BlockStopped(Text()):
                    yield from self._finish()
                case _:
                    yield event

    def _sentence(self, text: str) -> Iterator[Event]:
        citations = self._sources.cite(self._before + text)
        self._before = ""
        if self._open is not None and (citations or self._citations):
            yield from self._close()
        yield from self._write(text)
        self._citations = citations
        for citation in citations:
            yield CitationDelta(citation)

    def _write(self, text: str) -> Iterator[Event]:
        if self._open is None:
            self._open = []
            yield BlockStarted(Text(""))
        self._open.append(text)
        yield TextDelta(text)

    def _finish(self) -> Iterator[Event]:
        """The rest of a block. White space at its end stays with the sentence before: alone it would be no valid block."""
        left, space = self._cutter.flush()
        for sentence in left:
            yield from self._sentence(sentence)
        if space:
            yield from self._write(space)
        yield from self._close()

    def _close(self) -> Iterator[Event]:
        if self._open is not None:
            yield BlockStopped(Text("".join(self._open), citations=self._citations))
        self._open, self._citations = None, ()
