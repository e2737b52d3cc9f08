"""What a run's folder tells of its stages: summaries and logs read back. It imports no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from senryu.errors import SenryuError

SMOOTH = 10  # logged steps whose mean is a first or last loss


def read_run(folder: Path) -> list[dict[str, Any]]:
    """The finished stages of a run in the order in which they ran: `summary.json`, with `losses` (first and last) and `rate`
    in tokens a second. Raises SenryuError when there is none."""
    paths = sorted(folder.glob("*/summary.json"), key=lambda path: path.stat().st_mtime_ns)  # within one second of `began`
    found = [{"stage": path.parent.name, **json.loads(path.read_text(encoding="utf8"))} for path in paths]
    if not found:
        raise SenryuError("untrainable", why=f"{folder} has no finished stage; `senryu train all` makes one")
    for stage in found:
        losses = [entry["loss"] for entry in read_log(folder / stage["stage"]) if "loss" in entry]
        size = min(SMOOTH, max(1, len(losses) // 2))
        ends = (losses[:size], losses[-size:])
        stage["losses"] = [round(sum(part) / len(part), 4) if part else None for part in ends]
        stage["rate"] = stage["tokens"] / max(stage["seconds"], 1e-9)
    return sorted(found, key=lambda stage: str(stage["began"]))


def read_log(stage: Path) -> list[dict[str, Any]]:
    """The lines of a stage's log; a last one that a kill has cut off is left out."""
    lines = (stage / "log.jsonl").read_text(encoding="utf8").splitlines() if (stage / "log.jsonl").exists() else []
    whole = []
    for line in lines:
        try:
            whole.append(json.loads(line))
        except ValueError:
            continue
    return whole
