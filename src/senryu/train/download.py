"""A public address and its checksum in, a file on this machine out: fetched once, resumed where it broke off, verified."""

from __future__ import annotations

import http.client
import logging
import os
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import senryu
from senryu import caches
from senryu.train.recipe import RecipeError
from senryu.train.rows import checksum

log = logging.getLogger("senryu.train.download")

TRIES = 4  # connections that may break before we give up; each goes on where the one before stopped
TIMEOUT_S = 60.0  # without a byte
BLOCK = 1 << 18


def name_of(url: str) -> str:
    """The file's name in an address, without its query."""
    return urllib.parse.unquote(urllib.parse.urlsplit(url).path.rpartition("/")[2])


def fetch(url: str, sha256: str, cache: Path) -> Path:
    """The file at `url` whose SHA-256 is `sha256` (hex), from `cache` or downloaded into it.

    A file appears under its name whole and verified, or not at all. A part that a broken run left is continued if the server
    can, otherwise fetched anew. Raises RecipeError for an address that gives nothing or another file than expected.
    """
    folder = cache / sha256[:32]
    name = re.sub(r"[^\w.-]", "_", name_of(url)).lstrip(".") or "file"
    path, part = folder / name, folder / f"{name}.part"
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder / "lock"):
        caches.use(folder)
        if path.exists():
            if checksum(path) == sha256:
                return path
            log.warning("%s is damaged and is fetched again", path)
            path.unlink()
        resumed = part.exists()
        _download(url, part)
        found = checksum(part)
        if found != sha256 and resumed:  # the part was of another file, perhaps: once more from the start
            part.unlink()
            _download(url, part)
            found = checksum(part)
        if found != sha256:
            part.unlink()
            raise RecipeError(
                f"{url} has the sha256 {found}, but the recipe says {sha256}: the file is not the one that was meant. "
                "Find out why it changed before you correct the recipe"
            )
        os.replace(part, path)
    return path


def _download(url: str, part: Path) -> None:
    """Bring `part` up to the whole file."""
    log.info("downloading %s", url)
    for attempt in range(TRIES):
        try:
            if _go_on(url, part):
                return
            why = "the connection ended early"
        except urllib.error.HTTPError as error:
            if error.code == 416:  # the part is longer than the file
                part.unlink(missing_ok=True)
                why = "the part that was there was too long"
            elif error.code < 500:
                raise RecipeError(f"{url} cannot be downloaded: {error.code} {error.reason}; check the address") from error
            else:
                why = f"{error.code} {error.reason}"
            error.close()
        except (OSError, http.client.HTTPException) as error:
            why = str(getattr(error, "reason", error)) or type(error).__name__
        log.warning("%s: %s (try %d of %d)", url, why, attempt + 1, TRIES)
    raise RecipeError(f"{url} cannot be downloaded: {why}; check the address and the connection, then start again")


def _go_on(url: str, part: Path) -> bool:
    """Fetch what is missing; whether the file is whole now. One connection."""
    have = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": f"senryu/{senryu.__version__}", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S) as answer:
        start = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", "")) if answer.status == 206 else None
        if answer.status == 206 and (start is None or int(start[1]) != have):
            part.unlink(missing_ok=True)  # another range than we asked for: start anew
            return False
        length = answer.headers.get("Content-Length")
        got = 0
        with part.open("ab" if start else "wb") as file:
            while block := answer.read(BLOCK):
                file.write(block)
                got += len(block)
    return length is None or got == int(length)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold a lock while two starts want the same file; where there are no such locks, the checksum alone protects."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
