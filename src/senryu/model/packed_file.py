"""Arrays in a file, memory-mapped, or copied where memory is plenty: written whole or not at all, checked before it is used.

A file: MAGIC, the header's length and SHA-256, the header (JSON: items by name, each with its meta data and, for every array,
dtype, shape, place, SHA-256 and the CRC of a few samples), the arrays, each at a multiple of 64 bytes. It is written under
another name and renamed, so that a reader finds it whole or not at all; whoever has it mapped keeps what they have.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import mmap
import os
import tempfile
import time
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from senryu.config import usable_threads

MAGIC = b"senryu packed 1\n"
ALIGN = 64
WHOLE = 64 << 20  # files up to this size are verified whole at every start, larger ones by samples
SAMPLE = 4 << 10  # bytes at the start, the middle and the end of an array
STALE = 3600.0  # seconds after which an unfinished file is nobody's any more
SUFFIX = ".tmp"
DTYPES = ("|i1", "|u1", "<u2", "<i4", "<f4")


class PackedFileError(Exception):
    """A file that cannot be trusted."""


@dataclass(frozen=True, slots=True)
class Item:
    """Arrays that belong together, and what a reader must know about them (numbers and strings)."""

    meta: dict[str, Any]
    arrays: dict[str, np.ndarray]


def write(path: Path, items: Mapping[str, Item]) -> None:
    """Write the items; another process may do the same at the same time. Raises OSError, and leaves nothing behind then."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    _drop_stale(path.parent)
    head, arrays = _header(items)
    number, name = tempfile.mkstemp(prefix=path.name, suffix=SUFFIX, dir=path.parent)
    try:
        with open(number, "wb") as file:
            file.write(head)
            for array in arrays:
                file.write(bytes(-file.tell() % ALIGN))
                file.write(array.reshape(-1).view(np.uint8).data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise


def _drop_stale(directory: Path) -> None:
    """What a killed process had begun."""
    for file in directory.glob(f"*{SUFFIX}"):
        with contextlib.suppress(OSError):
            if time.time() - file.stat().st_mtime > STALE:
                file.unlink()


def _header(items: Mapping[str, Item]) -> tuple[bytes, list[np.ndarray]]:
    """The bytes before the arrays, and the arrays in their order. Offsets count from the first array."""
    arrays = [array for item in items.values() for array in item.arrays.values()]
    with ThreadPoolExecutor(usable_threads()) as pool:
        digests = iter(list(pool.map(_digest, arrays)))
    described: dict[str, Any] = {}
    end = 0
    for name, item in items.items():
        places = {}
        for field, array in item.arrays.items():
            end += -end % ALIGN
            places[field] = {
                "dtype": array.dtype.str,
                "shape": array.shape,
                "offset": end,
                "sha256": next(digests),
                "sample": _sample(array),
            }
            end += array.nbytes
        described[name] = {"meta": item.meta, "arrays": places}
    text = json.dumps({"bytes": end, "items": described}).encode()
    return MAGIC + len(text).to_bytes(8, "little") + hashlib.sha256(text).digest() + text, arrays


def read(path: Path, whole: bool = False, spare: int = 0) -> dict[str, Item]:
    """Map a file, or read it into large pages if it has at most `spare` bytes; its arrays are read-only views.

    `whole` verifies every byte, whatever the file's size. Raises FileNotFoundError, OSError, and PackedFileError for a file
    that is damaged.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size < len(MAGIC) + 40:
            raise PackedFileError(f"it has {size} bytes")
        content = _copied(file, size) if size <= spare else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    start = len(MAGIC) + 8
    length = int.from_bytes(content[start - 8 : start], "little")
    text = content[start + 32 : start + 32 + length]
    if content[: len(MAGIC)] != MAGIC or hashlib.sha256(text).digest() != content[start : start + 32]:
        raise PackedFileError("its header is damaged")
    try:
        header = json.loads(text)
        base = start + 32 + length
        base += -base % ALIGN
        if size != base + header["bytes"]:
            raise PackedFileError(f"it has {size} bytes where {base + header['bytes']} belong")
        items = {name: Item(item["meta"], _views(content, base, item["arrays"])) for name, item in header["items"].items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise PackedFileError(f"its header is malformed ({error})") from None
    _verify(items, header["items"], whole or size <= WHOLE)
    if size > spare and hasattr(mmap, "MADV_WILLNEED"):
        content.madvise(mmap.MADV_WILLNEED)
    return items


def _copied(file: BinaryIO, size: int) -> mmap.mmap:
    """The file in memory of our own, in pages of megabytes where the system has them: files are mapped in pages of 4 KB."""
    content = mmap.mmap(-1, size)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a system that has none
            content.madvise(mmap.MADV_HUGEPAGE)
    with memoryview(content) as view:
        at = 0
        while at < size:
            count = file.readinto(view[at:])  # type: ignore[attr-defined]
            if not count:
                raise PackedFileError(f"it ends after {at} of {size} bytes")
            at += count
    return content


def _views(content: mmap.mmap, base: int, places: dict[str, Any]) -> dict[str, np.ndarray]:
    arrays = {}
    for field, place in places.items():
        if place["dtype"] not in DTYPES or place["offset"] % ALIGN:
            raise ValueError(f"{field} is {place['dtype']} at {place['offset']}")
        arrays[field] = np.ndarray(tuple(place["shape"]), place["dtype"], buffer=content, offset=base + place["offset"])
        arrays[field].flags.writeable = False
    return arrays


def _verify(items: dict[str, Item], described: dict[str, Any], whole: bool) -> None:
    pairs = [(a, described[name]["arrays"][field]) for name, item in items.items() for field, a in item.arrays.items()]
    if whole:
        with ThreadPoolExecutor(usable_threads()) as pool:
            found = list(pool.map(_digest, [array for array, _ in pairs]))
        good = found == [place["sha256"] for _, place in pairs]
    else:
        good = all(_sample(array) == place["sample"] for array, place in pairs)
    if not good:
        raise PackedFileError("its contents are damaged")


def _digest(array: np.ndarray) -> str:
    return hashlib.sha256(array.reshape(-1).view(np.uint8).data).hexdigest()


def _sample(array: np.ndarray) -> int:
    """CRC-32 of a few pieces: cheap, and sees a file whose parts were never written."""
    content = array.reshape(-1).view(np.uint8).data
    crc = 0
    for start in (0, (len(content) - SAMPLE) // 2, len(content) - SAMPLE):
        crc = zlib.crc32(content[max(start, 0) : max(start, 0) + SAMPLE], crc)
    return crc
