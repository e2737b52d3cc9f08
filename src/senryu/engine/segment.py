"""A file of K/V pages: written whole or not at all, checked when it is opened and again page by page when it is read.

Layout, little-endian: magic, format version, pages, bytes of a page, hash of the fingerprint | for each page its name and
a hash of its content | a hash of all before | zeros up to a multiple of 4,096 | the pages, one after the other.
The fingerprint stands for all that K/V depends on: weights, kernels, formats. Token ids are not in the file: a page's name
is a hash of its tenant's salt and of all tokens up to its end.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path

from senryu.engine.node import DIGEST_BYTES

SUFFIX, UNFINISHED = ".kv", ".part"
_MAGIC, _VERSION, _ALIGN, _CHECK = b"SENRYUKV", 1, 4096, 16
_HEAD = struct.Struct(f"<8sIIQ{DIGEST_BYTES}s")
_ENTRY = struct.Struct(f"<{DIGEST_BYTES}s{_CHECK}s")


class SegmentError(Exception):
    """The file is not, or not any more, a segment of this fingerprint."""


class Segment:
    """A finished file. Opening reads its table; pages are mapped when they are first read, until `release`."""

    def __init__(self, path: Path, fingerprint: str, page_bytes: int) -> None:
        """Raises SegmentError for a file of another fingerprint, format or length, or with a damaged table; OSError."""
        self.path = path
        self.page_bytes = page_bytes
        with path.open("rb") as file:
            head = file.read(_HEAD.size)
            if len(head) < _HEAD.size or head[: len(_MAGIC)] != _MAGIC:
                raise SegmentError("no segment")
            _, version, count, size, made_for = _HEAD.unpack(head)
            if (version, size, made_for) != (_VERSION, page_bytes, _name(fingerprint)):
                raise SegmentError("made for other weights, kernels or formats")
            self.nbytes = os.fstat(file.fileno()).st_size
            if self.nbytes != _start(count) + count * size:
                raise SegmentError("wrong length")
            table = file.read(count * _ENTRY.size)
            if file.read(_CHECK) != _hash(head + table):
                raise SegmentError("damaged table")
        entries = list(_ENTRY.iter_unpack(table))
        self.digests = [digest for digest, _ in entries]
        self._checks = [check for _, check in entries]
        self._start = _start(count)
        self._map: mmap.mmap | None = None

    def read(self, slot: int) -> memoryview:
        """A page's bytes, a view of the mapped file. Raises SegmentError when they are damaged; OSError."""
        content = self._map  # another thread may `release` at any time
        if content is None:
            with self.path.open("rb") as file:
                if os.fstat(file.fileno()).st_size != self.nbytes:
                    raise SegmentError("wrong length")  # a map past the end of a file would end the process
                content = self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            if hasattr(mmap, "MADV_WILLNEED"):
                content.madvise(mmap.MADV_WILLNEED)  # the disk reads ahead while the first pages are checked
        start = self._start + slot * self.page_bytes
        data = memoryview(content)[start : start + self.page_bytes]
        if _hash(data) != self._checks[slot]:
            raise SegmentError("damaged page")
        return data

    def release(self) -> None:
        """Unmap the file; the map itself lives as long as views of it."""
        self._map = None


def write_segment(path: Path, fingerprint: str, pages: Sequence[tuple[bytes, bytes]]) -> None:
    """Write (name, content) pairs, contents of one length, as the finished file `path`.

    Under another name first, forced to disk, then renamed: whenever the process or the machine dies, the file is there
    whole or not at all. Raises OSError, and then leaves nothing behind.
    """
    head = _HEAD.pack(_MAGIC, _VERSION, len(pages), len(pages[0][1]), _name(fingerprint))
    table = b"".join(_ENTRY.pack(digest, _hash(content)) for digest, content in pages)
    front = head + table + _hash(head + table)
    unfinished = path.with_suffix(UNFINISHED)
    try:
        with open(unfinished, "xb", opener=_private) as file:
            file.write(front.ljust(_start(len(pages)), b"\0"))
            for _, content in pages:
                file.write(content)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
        _sync_directory(path.parent)
    except OSError:
        unfinished.unlink(missing_ok=True)
        raise


def segment_bytes(pages: int, page_bytes: int) -> int:
    """The size of a file of so many pages."""
    return _start(pages) + pages * page_bytes


def _start(count: int) -> int:
    table = _HEAD.size + count * _ENTRY.size + _CHECK
    return -(-table // _ALIGN) * _ALIGN


def _hash(data: bytes | memoryview) -> bytes:
    return blake2b(data, digest_size=_CHECK).digest()


def _name(fingerprint: str) -> bytes:
    return blake2b(fingerprint.encode(), digest_size=DIGEST_BYTES).digest()


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)  # K/V tells what was asked


def _sync_directory(directory: Path) -> None:
    if os.name == "posix":
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
