"""log.jsonl of a stage: a line of JSON for every logged step and event; trimmed where a run that was cut off goes on."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from senryu.train.checkpoint import Progress


class Log:
    """Appends lines to `path`; with `keep` as far as that progress only, and None starts anew. `path` None writes nothing."""

    def __init__(self, path: Path | None, keep: Progress | None) -> None:
        self._file = None
        if path is not None:
            if keep is not None and path.exists():
                _trim(path, keep)
            self._file = path.open("a" if keep is not None else "w", encoding="utf8")

    def __enter__(self) -> Log:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._file is not None:
            self._file.close()

    def write(self, progress: Progress, **entry: Any) -> None:
        """One line: where the stage stands, then `entry`, floats rounded to 5 digits behind the point."""
        if self._file is None:
            return
        figures = {key: round(value, 5) if isinstance(value, float) else value for key, value in entry.items()}
        line = asdict(progress) | {"seconds": round(progress.seconds, 1)} | figures
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()


def _trim(path: Path, keep: Progress) -> None:
    """Drop what was logged after the checkpoint of `keep`, the end of the run before, and a last line that is torn."""
    kept = []
    for line in path.read_text(encoding="utf8").splitlines(keepends=True):
        entry = json.loads(line) if line.endswith("\n") else {"event": "end"}
        if entry.get("event") != "end" and (entry["step"], entry["decaying"]) <= (keep.step, keep.decaying):
            kept.append(line)
    part = path.with_suffix(".part")
    part.write_text("".join(kept), encoding="utf8")
    os.replace(part, path)
