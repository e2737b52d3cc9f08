"""Results of all clients as docs/clients.md: a cell for every client and column, and a reason wherever it is not plainly ok."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Results = Sequence[Mapping[str, Any]]
COLUMNS = (
    "create",
    "stream",
    "tools",
    "structured output",
    "cache",
    "documents",
    "batches",
    "count tokens",
    "models",
    "errors",
    "retries",
    "mid-stream",
)
WAITING = "Too many requests: without retries, or what it says while it waits. With them every client waits and is answered."
RAISES = {"errors": "a wrong key", "retries": "too many requests", "mid-stream": "an answer that fails midway"}


def failures(name: str, results: Results) -> list[str]:
    """What keeps a client from being green: failed checks, and columns that it has not reported."""
    failed = [f"{name}: {result['check']}" for result in results if not result["ok"]]
    reported = {result["column"] for result in results}
    return failed + [f"{name}: nothing reported for {column}" for column in COLUMNS if column not in reported]


def document(clients: Mapping[str, tuple[str, Results]]) -> str:
    """The tables and their footnotes. clients: label -> (door, results)."""
    notes: list[str] = []
    rows = [
        [label, door, *(_cell([result for result in results if result["column"] == column], notes) for column in COLUMNS)]
        for label, (door, results) in clients.items()
    ]
    raised = [
        [label, *(_raised([result for result in results if result["column"] == column]) for column in RAISES)]
        for label, (_, results) in clients.items()
    ]
    parts = [
        _table(["client", "through", *COLUMNS], rows),
        "\n".join(f"- [{number}] {note}" for number, note in enumerate(notes, 1)),
        f"## What each client raises\n\n{WAITING}",
        _table(["client", *RAISES.values()], raised),
    ]
    return "\n\n".join(part for part in parts if part)


def _cell(results: Results, notes: list[str]) -> str:
    """ok, lacks, not here or FAIL, and the numbers of its footnotes."""
    if not results or not all(result["ok"] for result in results):
        return "FAIL"
    told = dict.fromkeys(note for result in results if (note := result.get("lacks") or result.get("note")))
    notes += [note for note in told if note not in notes]
    words = {"ok" if "lacks" not in result else "not here" if result["by"] == "server" else "lacks" for result in results}
    word = next(word for word in ("ok", "lacks", "not here") if word in words)
    return " ".join([word, *(f"[{notes.index(note) + 1}]" for note in told)])


def _raised(results: Results) -> str:
    """The classes, each once."""
    found = dict.fromkeys(result["raised"] for result in results if result.get("raised"))
    return ", ".join(f"`{name}`" for name in found) or "nothing"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
