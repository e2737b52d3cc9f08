"""JSON lines from a file, packed or not, each with its number: what goes wrong names the file and the line."""

from __future__ import annotations

import gzip
import hashlib
import json
import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from senryu.train.recipe import RecipeError

PACKED = (".gz", ".xz")
DIGESTED = 1 << 20  # bytes read at once for a checksum


class RowError(ValueError):
    """What is wrong with one row; whoever reads the file adds where it stands."""


def open_packed(path: Path) -> BinaryIO:
    """A file's bytes, unpacked if its name ends in .gz or .xz. Raises RecipeError if there is no such file."""
    try:
        if path.suffix == ".xz":
            return lzma.open(path)  # type: ignore[return-value]
        return gzip.open(path) if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]
    except (FileNotFoundError, IsADirectoryError) as error:
        what = "is a folder, not a file" if path.is_dir() else "does not exist"
        raise RecipeError(f"{path} {what}; paths of a recipe start from the folder that --data names") from error


def unpacked(name: str) -> str:
    """A file's suffix without what it is packed with: .jsonl of x.jsonl.xz."""
    path = Path(name)
    return (Path(path.stem) if path.suffix in PACKED else path).suffix.lower()


def lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """(number from 1, line) of each line that is not blank. Raises RecipeError for a file that is missing or damaged."""
    with open_packed(path) as file:
        number = 0
        try:
            for number, line in enumerate(file, 1):
                if not line.isspace():
                    yield number, line
        except (lzma.LZMAError, gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise RecipeError(f"{path} is damaged behind line {number}: {error}; fetch or pack it again") from error


def parse(line: bytes) -> dict[str, Any]:
    """A line's JSON object. Raises RowError."""
    try:
        row = json.loads(line)
    except UnicodeDecodeError as error:
        raise RowError(f"is not UTF-8 at byte {error.start}") from error
    except (json.JSONDecodeError, RecursionError) as error:
        raise RowError(f"is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise RowError(f"is {type(row).__name__}, not a JSON object")
    return row


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects of a file. Raises RecipeError with the place of a line that is none."""
    for number, line in lines(path):
        try:
            yield parse(line)
        except RowError as error:
            raise RecipeError(f"{path}, line {number}: {error}; correct the line") from error


def checksum(path: Path) -> str:
    """SHA-256 of a file's bytes as they lie on the disk, in hex. Raises RecipeError if there is no such file."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(DIGESTED):
                digest.update(block)
    except (FileNotFoundError, IsADirectoryError) as error:
        what = "is a folder, not a file" if path.is_dir() else "does not exist"
        raise RecipeError(f"{path} {what}; paths of a recipe start from the folder that --data names") from error
    return digest.hexdigest()
