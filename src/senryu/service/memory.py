"""How much memory this process may still take: what the machine has free, within the limits of its control group."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def available_memory(root: Path = Path("/")) -> int:
    """Bytes. Control groups (containers) count: the machine's free memory may not be ours to take."""
    return min([_machine_bytes(root), *_group_bytes(root)])


def _machine_bytes(root: Path) -> int:
    try:
        for line in (root / "proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return 4 << 30  # a system that does not tell


def _group_bytes(root: Path) -> Iterator[int]:
    """What each control group above this process leaves, version 2 then version 1."""
    base = root / "sys/fs/cgroup"
    for group in {base, *_own_groups(root, base)}:
        yield from _room(group, "memory.max", "memory.current", "inactive_file")
    yield from _room(base / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def _own_groups(root: Path, base: Path) -> Iterator[Path]:
    try:
        line = next(line for line in (root / "proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        return
    path = base / line.removeprefix("0::").lstrip("/")
    while path != base and base in path.parents:
        yield path
        path = path.parent


def _room(group: Path, limit: str, used: str, reclaimable: str) -> Iterator[int]:
    """limit - used + reclaimable, where there is a limit. Cached file pages are given back when asked for."""
    try:
        most, now = (group / limit).read_text().strip(), int((group / used).read_text())
        if most != "max":
            stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
            yield max(int(most) - now + int(stat.get(reclaimable, 0)), 0)
    except (OSError, ValueError, IndexError):
        return
