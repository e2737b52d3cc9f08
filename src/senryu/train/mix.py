"""A stage's mix, opened: each stored source read once as a stream, cleaned, split, rid of copies; its text lies on the disk."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType

import numpy as np

from senryu.train import chat
from senryu.train.clean import clean, normalise
from senryu.train.dedupe import Copies
from senryu.train.generators import GENERATORS
from senryu.train.join import Key, reading_order
from senryu.train.manifest import Entry
from senryu.train.recipe import RAW, Recipe, RecipeError, Source
from senryu.train.rows import rows
from senryu.train.sources import Found, Places, find
from senryu.train.store import Document, Store
from senryu.train.vocabulary import contains_special


def is_held_out(text: str, recipe: Recipe) -> bool:
    """A stable draw by content, so that the split survives new files and orders."""
    digest = hashlib.sha256(f"{recipe.seed}\n{text}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < recipe.held_out * 2**64


Title = tuple[str, Key]


@dataclass
class Opened:
    """A source as it was read. Documents have numbers in `store`: those for training, and those held out."""

    source: Source
    entry: Entry
    store: Store | None = None  # None for generated rows
    training: list[int] = field(default_factory=list)
    held_out: list[int] = field(default_factory=list)

    def held_out_texts(self) -> Iterator[str]:
        """The texts that training never sees, in the order of reading."""
        if self.store is not None:
            yield from (self.store[at].text for at in self.held_out)

    def in_order(self, seed: int, epochs: int) -> Iterator[Document]:
        """Documents as training takes them: stored ones in a new order each epoch, generated ones fresh, without end."""
        if self.store is None:
            options = {"chars": self.source.chars} if self.source.chars else {}
            for row in GENERATORS[self.source.name](seed, "train", **options):
                yield Document(messages=tuple(chat.to_messages(row)), tools=tuple(chat.to_tools(row) or ()))
            return
        for epoch in range(epochs):
            order = np.random.default_rng(seed + epoch).permutation(len(self.training))
            yield from (self.store[self.training[at]] for at in order)

    def in_runs(self, seed: int, epochs: int, chars: int) -> Iterator[Document]:
        """Texts with their neighbours behind them: runs of at least so many characters, in a new order each epoch.

        Files of a folder stand in the order of their paths, rows by origin and title: chapters of a book are neighbours.
        """
        assert self.store is not None, "generated rows have no neighbours"
        sizes: dict[int, int] = {}
        titles: dict[int, Title] = {}
        for at in self.training:
            document = self.store[at]
            sizes[at], titles[at] = len(document.text), (document.origin, reading_order(document.text))
        order = self.training if self.source.kind in RAW else sorted(self.training, key=titles.__getitem__)
        runs, room = [list[int]()], chars
        for at in order:
            if room <= 0:
                runs.append([])
                room = chars
            runs[-1].append(at)
            room -= sizes[at]
        for epoch in range(epochs):
            for run in np.random.default_rng(seed + epoch).permutation(len(runs)):
                yield from (self.store[at] for at in runs[run])


class Mix:
    """The opened sources of a mix. Close it, or use it in a `with`, to give the disk's space back."""

    def __init__(self, sources: Sequence[Source], recipe: Recipe, places: Places, held_out: Path | None = None) -> None:
        """Read every stored source. held_out: an earlier stage's held-out documents, whose copies are left out too.

        Raises RecipeError for a source that cannot be read, or of which nothing is left.
        """
        self._recipe, self._places = recipe, places
        self._copies = Copies() if any(s.copies != "none" for s in sources) else None
        self._near = any(s.copies == "near" for s in sources)
        self.opened: list[Opened] = []
        try:
            if self._copies and held_out is not None:
                for row in rows(held_out):
                    self._copies.add(row["text"], near=self._near, held_out=True)
            read = [self._read(source) for source in sources]
            verdicts = self._copies.judge() if self._copies else []
            for opened, (compared, licences) in zip(self.opened, read, strict=True):
                _settle(opened, {at: verdicts[number] for at, number in compared.items()}, licences)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Mix:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        for opened in self.opened:
            if opened.store is not None:
                opened.store.close()

    def _read(self, source: Source) -> tuple[dict[int, int], list[str]]:
        """Read one source: the numbers among `Copies` of its documents that are compared, and the licence of each document."""
        entry = Entry.of(source)
        if source.kind == "generated":
            entry.seed = self._recipe.seed
            self.opened.append(Opened(source, entry))
            return {}, []
        opened = Opened(source, entry, store := Store(self._places.scratch))
        self.opened.append(opened)
        compared: dict[int, int] = {}
        licences: list[str] = []
        for found in find(source, self._places, entry):
            entry.documents_in += 1
            document = _filtered(found, source, entry)
            if document is None or not _stored(document, store, entry):
                continue
            held_out = source.form == "text" and is_held_out(document.text, self._recipe)
            (opened.held_out if held_out else opened.training).append(len(licences))
            if self._copies and (held_out or source.copies != "none"):
                near = self._near if held_out else source.copies == "near"
                compared[len(licences)] = self._copies.add(document.plain(), near=near, held_out=held_out)
            licences.append(found.licence or "unknown")
        return compared, licences


def _filtered(found: Found, source: Source, entry: Entry) -> Document | None:
    """The document as its source's rules leave it, or None."""
    document = found.document
    entry.characters_in += len(document.plain())
    if source.is_cleaned and document.messages:
        said = tuple({**message, "content": normalise(message["content"], entry)} for message in document.messages)
        document = replace(document, messages=said)
    elif source.is_cleaned:
        text = clean(document.text, entry, code=found.code)
        if text is None:
            return None
        document = replace(document, text=text)
    if not document.messages and not document.text.strip():
        entry.dropped["empty"] += 1
        return None
    return document


def _stored(document: Document, store: Store, entry: Entry) -> bool:
    """Whether the document can be trained on; then it is in the store."""
    serialised = document.serialised()
    if contains_special(serialised):
        entry.dropped["special"] += 1
        return False
    try:
        store.append(serialised)
    except UnicodeEncodeError:  # half of a surrogate pair
        entry.dropped["encoding"] += 1
        return False
    return True


def _settle(opened: Opened, verdicts: dict[int, str], licences: list[str]) -> None:
    """Leave copies out. Held-out documents stay as they are where the source keeps copies."""
    entry, source = opened.entry, opened.source
    if source.copies != "none":
        for numbers in (opened.training, opened.held_out):
            entry.duplicates.update(verdict for at in numbers if (verdict := verdicts[at]))
            numbers[:] = [at for at in numbers if not verdicts[at]]
    entry.held_out, entry.documents = len(opened.held_out), len(opened.training)
    entry.licences.update(licences[at] for at in opened.training)
    if opened.store is not None and not opened.training:
        raise RecipeError(f"source {source.label} has no document left: {_why(entry)}; check what it names and its filters")


def _why(entry: Entry) -> str:
    lost = {**entry.dropped, **{f"{kind} copies": n for kind, n in entry.duplicates.items()}, "held out": entry.held_out}
    return f"{entry.documents_in:,} read, " + ", ".join(f"{n:,} {rule}" for rule, n in lost.items() if n)
