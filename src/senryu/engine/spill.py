"""K/V pages on disk: what no longer fits into memory, to be found again later and after a restart.

The engine's thread hands over copies of pages and reads pages back; a thread of this file's own writes them, several to a
file. Everything that can go wrong with a disk ends in a miss: the page is then computed again.
"""

from __future__ import annotations

import logging
import os
import threading
import uuid
from collections import OrderedDict
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import IO

from senryu import caches
from senryu.engine.segment import SUFFIX, UNFINISHED, Segment, SegmentError, segment_bytes, write_segment

log = logging.getLogger("senryu.engine")

FILE_BYTES = 16 << 20  # a file holds about so much: large enough to be read in one go, small enough to be thrown away
WAITING_BYTES = 64 << 20  # copies that may wait for the disk; when it does not keep up, further pages are not spilled
FLUSH_SECONDS = 1.0  # pages wait no longer than this for others to share a file with


class Spill:
    """Pages by the hash of their path, in files under one directory, at most `max_bytes` of them, least recently used
    files removed first. `wants`, `put`, `read` and `known` are for one thread.
    """

    def __init__(self, directory: Path, max_bytes: int, *, fingerprint: str, page_bytes: int) -> None:
        """Take over the directory: index its files, remove those that are of no use here, start the writing thread.

        Raises OSError when it cannot be created or written to, BlockingIOError when another process uses it.
        """
        self.page_bytes = page_bytes
        self._directory, self._max_bytes, self._fingerprint = directory, max_bytes, fingerprint
        self._per_file = max(1, min(FILE_BYTES, max_bytes // 4) // page_bytes)
        self._most_waiting = max(WAITING_BYTES // page_bytes, 2 * self._per_file)
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock_file = _lock(directory / "lock")
        caches.use(directory, hold=lambda folder: _lock(folder / "lock"))
        self._segments: OrderedDict[Segment, None] = OrderedDict()  # least recently used first
        self._places: dict[bytes, tuple[Segment, int]] = {}
        self._waiting: OrderedDict[bytes, bytes] = OrderedDict()  # not on disk yet
        self._mapped: Segment | None = None  # one file at a time
        self._nbytes = 0
        self._writing = True  # False once a write has failed
        self._closing = self._flushing = False
        self._change = threading.Condition()  # guards all of the above
        self._index()
        self._thread = threading.Thread(target=self._main, name="senryu-spill", daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        """Pages that can be read back."""
        return len(self._places) + len(self._waiting)

    @property
    def nbytes(self) -> int:
        """Bytes of all files."""
        return self._nbytes

    @property
    def writing(self) -> bool:
        """False once a write has failed: nothing is taken any more."""
        return self._writing

    @property
    def most_pages(self) -> int:
        """Pages that the bound has room for."""
        return self._max_bytes // segment_bytes(self._per_file, self.page_bytes) * self._per_file

    def known(self, digest: bytes) -> bool:
        """Whether `read` is worth trying."""
        return digest in self._places or digest in self._waiting

    def wants(self, digest: bytes) -> bool:
        """Whether `put` would take this page now. A page that is there already counts as used."""
        with self._change:
            if place := self._places.get(digest):
                self._use(place[0])
                return False
            return self._writing and digest not in self._waiting and len(self._waiting) < self._most_waiting

    def put(self, digest: bytes, content: bytes) -> None:
        """Keep a page. It can be read at once; it is on disk some time later, or never, when the disk fails."""
        with self._change:
            self._waiting[digest] = content
            if len(self._waiting) >= self._per_file:
                self._change.notify_all()

    def read(self, digest: bytes) -> bytes | memoryview | None:
        """A page's content; None when it is not there any more, or damaged: then its file is removed."""
        with self._change:
            if (content := self._waiting.get(digest)) is not None:
                return content
            if (place := self._places.get(digest)) is None:
                return None
            segment, slot = place
            if self._mapped is not segment:
                if self._mapped is not None:
                    self._mapped.release()
                self._mapped = segment
            self._use(segment)
        try:
            return segment.read(slot)
        except (OSError, ValueError, SegmentError) as error:
            log.warning("a file of cached K/V is unusable and is removed: %s: %s", segment.path, error)
            with self._change:
                self._remove(segment)
            return None

    def wait(self, seconds: float) -> bool:
        """Wait until `put` has room again; False when it has none after so long, or never will have."""
        with self._change:
            return self._change.wait_for(lambda: len(self._waiting) < self._most_waiting, seconds) and self._writing

    def flush(self) -> None:
        """Wait until everything is on disk, or writing has failed."""
        with self._change:
            self._flushing = True
            self._change.notify_all()
            self._change.wait_for(lambda: not self._waiting or not self._writing or self._closing)
            self._flushing = False

    def close(self) -> None:
        """Write what waits and let go of the directory; closing twice is fine."""
        with self._change:
            self._closing = True
            self._change.notify_all()
        self._thread.join()
        if self._mapped is not None:
            self._mapped.release()
        self._lock_file.close()

    def _main(self) -> None:
        while batch := self._next_batch():
            path = self._directory / f"{uuid.uuid4().hex}{SUFFIX}"
            try:
                self._make_room(segment_bytes(len(batch), self.page_bytes))
                write_segment(path, self._fingerprint, batch)
                segment = Segment(path, self._fingerprint, self.page_bytes)
            except (OSError, SegmentError) as error:
                log.warning("cached K/V is no longer written to %s until the next start: %s", self._directory, error)
                with self._change:
                    self._writing = False
                    self._waiting.clear()
                    self._change.notify_all()
                return
            with self._change:
                self._admit(segment)
                for digest, _ in batch:
                    del self._waiting[digest]
                self._change.notify_all()

    def _next_batch(self) -> list[tuple[bytes, bytes]]:
        """Waits for enough pages for a file, or for those there are to have waited long enough; none means the end."""
        with self._change:
            self._change.wait_for(lambda: self._waiting or self._closing)
            due = monotonic() + FLUSH_SECONDS
            self._change.wait_for(
                lambda: len(self._waiting) >= self._per_file or self._closing or self._flushing, max(due - monotonic(), 0)
            )
            return [pair for pair, _ in zip(self._waiting.items(), range(self._per_file))]

    def _make_room(self, nbytes: int) -> None:
        with self._change:
            while self._segments and self._nbytes + nbytes > self._max_bytes:
                self._remove(next(iter(self._segments)))
            if self._nbytes + nbytes > self._max_bytes:
                raise OSError(f"{self._max_bytes} bytes are too few for one file of pages")

    def _index(self) -> None:
        """Find what an earlier process has left; oldest first."""
        found = []
        for path in self._directory.iterdir():
            if path.suffix == UNFINISHED:
                path.unlink(missing_ok=True)
            elif path.suffix == SUFFIX:
                try:
                    found.append((path.stat().st_mtime_ns, Segment(path, self._fingerprint, self.page_bytes)))
                except (OSError, SegmentError) as error:
                    log.info("a file of cached K/V is of no use here and is removed: %s: %s", path, error)
                    path.unlink(missing_ok=True)
        for _, segment in sorted(found, key=lambda pair: pair[0]):
            self._admit(segment)
        while self._segments and self._nbytes > self._max_bytes:
            self._remove(next(iter(self._segments)))

    def _admit(self, segment: Segment) -> None:
        self._segments[segment] = None
        self._nbytes += segment.nbytes
        self._places.update((digest, (segment, slot)) for slot, digest in enumerate(segment.digests))

    def _remove(self, segment: Segment) -> None:
        if segment not in self._segments:
            return
        del self._segments[segment]
        self._nbytes -= segment.nbytes
        for digest in segment.digests:
            if self._places.get(digest, (None,))[0] is segment:
                del self._places[digest]
        if self._mapped is segment:
            segment.release()
            self._mapped = None
        try:
            segment.path.unlink(missing_ok=True)
        except OSError as error:
            log.warning("a file of cached K/V could not be removed: %s: %s", segment.path, error)

    def _use(self, segment: Segment) -> None:
        """The file's time of change carries its last use over a restart."""
        if segment in self._segments and next(reversed(self._segments)) is not segment:
            self._segments.move_to_end(segment)
            with suppress(OSError):
                os.utime(segment.path)


def open_spill(directory: Path, max_bytes: int, *, fingerprint: str, page_bytes: int) -> Spill | None:
    """A Spill; None, and a line in the log, when the directory cannot be used or `max_bytes` holds no page."""
    if max_bytes < 4 * segment_bytes(1, page_bytes):
        return None
    try:
        return Spill(directory, max_bytes, fingerprint=fingerprint, page_bytes=page_bytes)
    except BlockingIOError:
        log.info("cached K/V is not kept on disk: another process uses %s", directory)
    except (OSError, ImportError) as error:
        log.warning("cached K/V is not kept on disk: %s cannot be used: %s", directory, error)
    return None


def _lock(path: Path) -> IO[str]:
    """Hold the directory against other processes, until closed or until this process is gone, however it ends."""
    import fcntl  # Unix only, as everything here that matters

    file = path.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise
    return file
