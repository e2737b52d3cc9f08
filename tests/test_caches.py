"""Old folders of the caches: only those that are ours, unused for long, and in nobody's hands go."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

import pytest

from senryu import caches
from senryu.engine.spill import Spill

OLD = time.time() - caches.UNUSED_SECONDS - 3600
CURRENT, OTHER = "0123456789abcdef" * 2, "f" * 32


def folder(root: Path, name: str, changed: float = OLD) -> Path:
    path = root / name
    path.mkdir(parents=True)
    (path / "file").write_bytes(bytes(1000))
    os.utime(path, (changed, changed))
    return path


def test_only_our_own_folders_go_when_they_are_old(tmp_path: Path) -> None:
    root = tmp_path / "cache"
    current = folder(root, CURRENT)
    gone = [folder(root, OTHER), folder(root, "a" * 16)]
    young = folder(root, "b" * 32, caches.UNUSED_SECONDS + OLD)
    foreign = [folder(root, name) for name in ("notes", "c" * 31, "C" * 32, "d" * 16 + ".old", "g" * 16)]
    (root / ("e" * 16)).write_text("a file")
    os.utime(root / ("e" * 16), (OLD, OLD))
    (root / ("9" * 16)).symlink_to(folder(tmp_path, "elsewhere"))
    os.utime(root / ("9" * 16), (OLD, OLD), follow_symlinks=False)
    caches.use(current)
    assert not any(path.exists() for path in gone)
    assert {path.name for path in root.iterdir()} == {
        *(path.name for path in (current, young, *foreign)),
        "e" * 16,
        "9" * 16,
    }
    assert (tmp_path / "elsewhere" / "file").exists()


def test_use_makes_a_folder_young(tmp_path: Path) -> None:
    first, second = folder(tmp_path, CURRENT), folder(tmp_path, OTHER)
    os.utime(second)
    caches.use(first)
    caches.use(second)
    assert first.exists()
    assert time.time() - first.stat().st_mtime < caches.UNUSED_SECONDS / 2


def test_what_cannot_be_removed_is_a_line_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError("not yours")

    kept = folder(tmp_path, OTHER)
    caches.use(tmp_path / CURRENT, hold=refuse)  # type: ignore[arg-type]
    assert (kept / "file").exists()
    assert f"{kept}: not yours" in caplog.text
    caches.use(tmp_path / "nowhere" / CURRENT)


def test_cached_keys_and_values_of_a_running_process_stay(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    options = {"fingerprint": "fake", "page_bytes": 4096}
    running = Spill(tmp_path / OTHER, 1 << 20, **options)  # type: ignore[arg-type]
    idle = folder(tmp_path, "a" * 32)
    os.utime(tmp_path / OTHER, (OLD, OLD))
    Spill(tmp_path / CURRENT, 1 << 20, **options).close()  # type: ignore[arg-type]
    assert (tmp_path / OTHER).exists()
    assert not idle.exists()
    running.close()
    os.utime(tmp_path / OTHER, (OLD, OLD))
    Spill(tmp_path / CURRENT, 1 << 20, **options).close()  # type: ignore[arg-type]
    assert not (tmp_path / OTHER).exists()


def test_disk_bytes(tmp_path: Path) -> None:
    folder(tmp_path, CURRENT)
    folder(tmp_path, OTHER)
    assert caches.disk_bytes(tmp_path) == 2000
    assert caches.disk_bytes(tmp_path / "nowhere") == 0
