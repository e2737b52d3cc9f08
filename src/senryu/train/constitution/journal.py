"""JSON lines that grow by one step's results and survive a kill: what is done is known by its id, and is not done again."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from senryu.train.constitution.document import ConstitutionError

Record = dict[str, Any]


class Journal:
    """One file. `done` holds its records by id; a line that a kill cut short is taken away."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.done: dict[str, Record] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = 0
        if path.exists():
            with path.open("rb") as lines:
                for number, line in enumerate(lines, start=1):
                    if not line.endswith(b"\n"):
                        break
                    self._take(line, number)
                    whole += len(line)
            if whole < path.stat().st_size:
                os.truncate(path, whole)

    def _take(self, line: bytes, number: int) -> None:
        try:
            record = json.loads(line)
            self.done[record["id"]] = record
        except (ValueError, KeyError, TypeError):
            raise ConstitutionError(
                f"{self.path}:{number} is no record with an id; correct the line, or remove the file"
            ) from None

    def add(self, *records: Record) -> None:
        """Append records and hand them to the operating system at once."""
        with self.path.open("a", encoding="utf8") as out:
            out.write("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
        self.done.update((record["id"], record) for record in records)

    def left(self, ids: Iterable[str]) -> list[str]:
        """Those that are not done, in their order."""
        return [id for id in ids if id not in self.done]


def settle(path: Path, settings: Record) -> None:
    """Keep the settings that a folder's records are made with. Raises ConstitutionError when they were other ones."""
    text = json.dumps(settings, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    if path.exists():
        before = json.loads(path.read_text(encoding="utf8"))
        changed = sorted(key for key in {*before, *settings} if before.get(key) != json.loads(text).get(key))
        if changed:
            raise ConstitutionError(
                f"{path.parent} was made with another {', '.join(changed)}; name another folder, or remove this one"
            )
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf8")


def write_rows(path: Path, rows: Iterable[Record]) -> int:
    """Write JSON lines whole or not at all; returns how many."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new, count = path.with_suffix(".new"), 0
    with new.open("w", encoding="utf8") as out:
        for row in rows:
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    new.replace(path)
    return count
