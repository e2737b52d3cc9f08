"""What a run was trained on, by source: where it came from, what the filters did, what was used. RUN/data/manifest.json."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from senryu.train.clean import Counts
from senryu.train.recipe import Recipe, RecipeError, Source


@dataclass
class Entry(Counts):
    """One source of a stage's mix. Numbers are documents, unless they say otherwise.

    changed, dropped: by rule of `clean.py`; also dropped: `malformed` rows, `special` (spells a special token), `encoding` (is
    no UTF-8 text), `empty`, and `over_length` (longer than a row of the stage, where documents are not cut).
    duplicates: `exact` and `near` copies of others, and `held_out`, copies of held-out documents.
    """

    source: str = ""
    kind: str = ""
    share: float = 0.0
    sha256: str = ""  # of a file; of a folder, over names and contents; "" for generated rows
    seed: int | None = None  # of generated rows
    licences: Counter[str] = field(default_factory=Counter)  # of the documents kept for training, "unknown" included
    documents_in: int = 0
    characters_in: int = 0
    duplicates: Counter[str] = field(default_factory=Counter)
    held_out: int = 0
    documents: int = 0  # left for training
    tokens: int = 0  # in those; scaled up where the stage did not need them all
    used: int = 0  # documents, repetitions included
    tokens_used: int = 0
    epochs: float = 0.0  # used / documents; 0 for generated rows, which never repeat

    @classmethod
    def of(cls, source: Source) -> Entry:
        """A new entry of a source."""
        return cls(source=source.label, kind=source.kind, share=source.share)

    def json(self) -> dict[str, Any]:
        """As the manifest holds it."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: dict(value) if isinstance(value, Counter) else value for name, value in values.items()}


def write(path: Path, recipe: Recipe, stage: str, entries: list[Entry]) -> None:
    """Set a stage's entries in the manifest at `path`; those of other stages stay."""
    stages = read(path)["stages"] if path.exists() else {}
    stages[stage] = [entry.json() for entry in entries]
    content = {"recipe": recipe.name, "seed": recipe.seed, "held_out": recipe.held_out, "stages": stages}
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf8")
    os.replace(part, path)


def read(path: Path) -> dict[str, Any]:
    """A manifest as JSON. Raises RecipeError if there is none."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf8"))
    except FileNotFoundError as error:
        raise RecipeError(f"{path} does not exist; prepare a stage first") from error
    return content


COLUMNS = ("stage", "source", "documents", "dropped", "copies", "held out", "tokens", "used", "epochs", "licences")


def table(manifest: dict[str, Any]) -> list[tuple[str, ...]]:
    """The manifest as rows of text, a source each, for COLUMNS; a last row for each stage sums its tokens."""
    rows: list[tuple[str, ...]] = []
    for stage, entries in manifest["stages"].items():
        for e in entries:
            rows.append(
                (
                    stage,
                    e["source"],
                    f"{e['documents']:,}" if e["documents"] else "",
                    _counts(e["dropped"]),
                    _counts(e["duplicates"]),
                    f"{e['held_out']:,}" if e["held_out"] else "",
                    f"{e['tokens']:,}" if e["tokens"] else "",
                    f"{e['tokens_used']:,}",
                    f"{e['epochs']:.2f}" if e["epochs"] else "",
                    ", ".join(sorted(e["licences"])),
                )
            )
        rows.append((stage, "all", *[""] * 5, f"{sum(e['tokens_used'] for e in entries):,}", "", ""))
    return rows


def _counts(counts: dict[str, int]) -> str:
    """The largest count first."""
    return ", ".join(f"{rule} {n:,}" for rule, n in sorted(counts.items(), key=lambda item: (-item[1], item[0])))
