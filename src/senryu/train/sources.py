"""Where documents come from: files of rows, folders, addresses, the standard library -> a stream of documents."""

from __future__ import annotations

import fnmatch
import hashlib
import sysconfig
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from senryu.errors import SenryuError
from senryu.train import chat
from senryu.train.conversations import read_turn
from senryu.train.download import fetch, name_of
from senryu.train.manifest import Entry
from senryu.train.recipe import RecipeError, Source
from senryu.train.rows import RowError, checksum, lines, open_packed, parse, unpacked
from senryu.train.store import Document

_CODE = """
    .py .pyi .js .mjs .jsx .ts .tsx .c .h .cc .cpp .hpp .cu .rs .go .java .kt .swift .rb .php .lua .pl .r .jl .sh .sql .cs
    .scala .hs .ml .ex .erl .clj .zig .toml .yaml .yml .css .cmake .jinja
"""
TEXT = frozenset((".txt", ".text", ".md", ".markdown", ".rst", ".adoc", ".org", ".tex"))
CODE = frozenset(_CODE.split())
ROWS = frozenset((".jsonl", ".ndjson"))
_NOT_OURS = frozenset(("node_modules", "__pycache__", "site-packages", "dist-packages"))  # below a folder: installed or made

# Of the standard library: tests, wheels that it brings, and tables that programs wrote.
_NO_SOURCE = _NOT_OURS | {"test", "tests", "idle_test", "lib-dynload", "_bundled"}
_TABLES = (
    *("encodings/cp*.py", "encodings/iso*.py", "encodings/mac_*.py", "encodings/koi8_*.py", "encodings/kz*.py"),
    *("encodings/hp_*.py", "encodings/palmos.py", "encodings/ptcp*.py", "encodings/tis*.py", "encodings/aliases.py"),
    *("html/entities.py", "pydoc_data/*", "stringprep.py", "_sysconfigdata*.py", "config-*", "token.py", "keyword.py"),
    *("msilib/schema.py", "msilib/sequence.py"),
)


@dataclass(frozen=True)
class Places:
    """Where a run's data lies: what paths start from, what downloads are kept in, where there is room for scratch files, and
    what its own stages wrote."""

    data: Path
    downloads: Path | None = None
    scratch: Path | None = None
    run: Path | None = None

    def of(self, path: str) -> Path:
        """Where a path of a recipe leads: to what an earlier stage of the run wrote there, else from the folder of the data."""
        written = self.run / path if self.run else None
        return written if written is not None and written.is_file() else self.data / Path(path).expanduser()


@dataclass(frozen=True)
class Found:
    """A document as it was found."""

    document: Document
    licence: str = ""
    code: bool = False


def find(source: Source, places: Places, entry: Entry) -> Iterator[Found]:
    """The documents of any source but a generated one, in a fixed order. `entry` gets checksum and rows that are dropped.

    Raises RecipeError for what cannot be read, and for a wrong row unless the source says bad_rows = "skip".
    """
    if source.kind == "folder":
        yield from _folder(places.data / Path(source.path).expanduser(), source, entry)
    elif source.kind == "stdlib":
        yield from _stdlib(entry)
    elif source.kind == "url":
        if places.downloads is None:
            raise RecipeError(f"source {source.label}: there is no folder for downloads; name one")
        path = fetch(source.url, source.sha256, places.downloads)
        entry.sha256 = source.sha256
        suffix = unpacked(name_of(source.url))
        if suffix in ROWS:
            yield from _from_rows(path, source, entry)
        elif source.form == "text" and suffix in TEXT | CODE:
            yield from _whole(path, suffix, entry)
        else:
            raise RecipeError(f"source {source.label}: {_unreadable(suffix, source.form)}")
    else:
        path = places.of(source.path)
        if unpacked(path.name) not in ROWS:
            raise RecipeError(f"source {source.label}: {_unreadable(unpacked(path.name), source.form)}")
        entry.sha256 = checksum(path)
        yield from _from_rows(path, source, entry)


def _unreadable(suffix: str, form: str) -> str:
    if form == "text" and suffix in TEXT | CODE:
        return f'{suffix} is a document, not a file of rows; use kind = "folder" with glob for it'
    kinds = "rows are .jsonl, documents .txt, .md and the like, each also with .gz or .xz"
    return f"{suffix or 'a name without a suffix'} cannot be read as {form}; {kinds}"


def _from_rows(path: Path, source: Source, entry: Entry) -> Iterator[Found]:
    makers: dict[str, Callable[[dict[str, Any]], Iterable[Document]]]
    makers = {"text": _text, "chat": _chat, "intent_prompts": _Intents()}
    make = makers[source.form]
    for number, line in lines(path):
        try:
            row = parse(line)
            found = list(make(row))
        except (ValueError, RecursionError, SenryuError) as error:
            if source.bad_rows == "error":
                raise RecipeError(
                    f'{path}, line {number}: {error}; correct the row, or set bad_rows = "skip" for its source'
                ) from error
            entry.dropped["malformed"] += 1
            continue
        licence = row.get("licence") or row.get("license")
        for document in found:
            yield Found(document, licence if isinstance(licence, str) else source.licence)


def _text(row: dict[str, Any]) -> Iterable[Document]:
    if not isinstance(row.get("text"), str):
        raise RowError('has no string `text`; a row of a text source is {"text": ...}')
    origin = row.get("source")
    yield Document(row["text"], origin=origin if isinstance(origin, str) else "")


def _chat(row: dict[str, Any]) -> Iterable[Document]:
    turn, untaught = read_turn(row)
    if untaught:
        raise RowError("weight 0 has no meaning in a mix; leave the row out")
    if not any(message.role == "assistant" for message in turn.messages):
        raise RowError("no message is the assistant's, so there is nothing to learn")
    messages, tools = chat.of_turn(turn)
    yield Document(messages=tuple(messages), tools=tuple(tools))


class _Intents:
    """Labelled messages in the evaluation's wording, each message once."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def __call__(self, row: dict[str, Any]) -> Iterable[Document]:
        read_turn(row)
        try:
            labelled = list(chat.labelled_messages(row))
        except (AttributeError, KeyError, RuntimeError, TypeError) as error:
            raise RowError("is a row of intents in another form than the bundle's") from error
        for name, message, label in labelled:
            if message not in self._seen:
                self._seen.add(message)
                yield Document(messages=(*chat.intent_prompt(name, message), {"role": "assistant", "content": label}))


def _whole(path: Path, suffix: str, entry: Entry, licence: str = "") -> Iterator[Found]:
    """A file as one document."""
    with open_packed(path) as file:
        content = file.read()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        entry.dropped["encoding"] += 1
        return
    yield Found(Document(text), licence, code=suffix in CODE)


def _folder(root: Path, source: Source, entry: Entry) -> Iterator[Found]:
    if not root.is_dir():
        raise RecipeError(f"source {source.label}: there is no folder {root}; relative paths start from what --data names")

    def wanted(name: PurePosixPath) -> bool:
        if any(part.startswith(".") or part in _NOT_OURS for part in name.parts):
            return False
        return bool(source.glob) or unpacked(name.name) in TEXT | CODE

    names = sorted(
        {p.relative_to(root).as_posix() for pattern in source.glob or ("**/*",) for p in root.glob(pattern) if p.is_file()}
    )
    names = [name for name in names if wanted(PurePosixPath(name))]
    for name in names:
        if unpacked(name) in ROWS:
            raise RecipeError(f'source {source.label}: {name} holds rows; name it as path of kind = "text" or "chat"')
    if not names:
        raise RecipeError(f"source {source.label}: no file below {root} matches; check path and glob")
    yield from _files(root, names, entry, source.licence)


def _stdlib(entry: Entry) -> Iterator[Found]:
    root = Path(sysconfig.get_paths()["stdlib"])
    names = sorted(
        p.relative_to(root).as_posix() for p in root.rglob("*.py") if not _NO_SOURCE & set(p.relative_to(root).parts)
    )
    names = [name for name in names if not any(fnmatch.fnmatch(name, pattern) for pattern in _TABLES)]
    if not names:
        raise RecipeError(f"source stdlib: this Python has no sources in {root}; use another Python, or remove the source")
    yield from _files(root, names, entry, "PSF-2.0")


def _files(root: Path, names: list[str], entry: Entry, licence: str) -> Iterator[Found]:
    digest = hashlib.sha256()
    for name in names:
        digest.update(f"{name}\0{checksum(root / name)}\n".encode())
        yield from _whole(root / name, unpacked(name), entry, licence)
    entry.sha256 = digest.hexdigest()
