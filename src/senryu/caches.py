"""Folders of a cache under SENRYU_HOME: each named by a hash (32 or 16 hex digits), removed when long unused.

A folder's time of change says when it was last used. Whatever lies in a cache can be made again, and nothing here fails a
start.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import Any

log = logging.getLogger("senryu.caches")

UNUSED_SECONDS = 30 * 86_400.0
_OURS = re.compile(r"[0-9a-f]{16}|[0-9a-f]{32}")


def use(folder: Path, hold: Callable[[Path], AbstractContextManager[Any]] = nullcontext) -> None:
    """Mark `folder` as used now, and remove those beside it that nobody has used for 30 days.

    hold: entered with a folder while it is removed; raises OSError for one that another process still works in.
    """
    with suppress(OSError):
        os.utime(folder)
    for other in _unused(folder):
        try:
            with hold(other):
                shutil.rmtree(other)
            log.info("removed, since it was unused for 30 days: %s", other)
        except OSError as error:
            log.warning("unused for 30 days, but it could not be removed: %s: %s", other, error)


def _unused(folder: Path) -> list[Path]:
    latest = time.time() - UNUSED_SECONDS
    found = []
    with suppress(OSError), os.scandir(folder.parent) as entries:
        for entry in entries:
            ours = entry.name != folder.name and _OURS.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False)
            with suppress(OSError):  # removed meanwhile
                if ours and entry.stat(follow_symlinks=False).st_mtime < latest:
                    found.append(Path(entry.path))
    return found


def disk_bytes(root: Path) -> int:
    """Bytes of all files below `root`; 0 when there is no such folder."""
    total = 0
    for folder, _, names in os.walk(root):
        for name in names:
            with suppress(OSError):  # removed meanwhile
                total += os.lstat(os.path.join(folder, name)).st_size
    return total
