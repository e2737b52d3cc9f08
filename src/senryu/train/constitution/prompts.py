"""Prompts to begin with: pairs of the safety generator's training split, or a file of the user's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from senryu.train.constitution.document import ConstitutionError
from senryu.train.constitution.judge import Prompt
from senryu.train.generators.safety import pairs


def generated(seed: int, count: int) -> list[Prompt]:
    """`count` pairs of the training split, duplicates left out; benign ones, and questions about texts with orders, have their
    right answer as reference."""
    made: list[Prompt] = []
    seen: set[str] = set()
    for row in pairs(seed, "train", count):
        key = json.dumps([row.get("system"), row["messages"][:-1]])
        if key in seen:
            continue
        seen.add(key)
        id, twin = (f"{row['pair']}-{'unsafe' if side else 'benign'}" for side in (row["unsafe"], not row["unsafe"]))
        known = not row["unsafe"] or row["category"] == "injection"
        made.append(
            Prompt(
                id,
                tuple(row["messages"][:-1]),
                row.get("system", ""),
                tuple(row.get("tools", ())),
                row["category"],
                row["unsafe"],
                row["messages"][-1]["content"] if known else "",
                twin,
            )
        )
    return made


def read(path: Path) -> list[Prompt]:
    """Prompts from JSON lines: {"prompt": TEXT} or {"messages": [...]} each, with `system`, `tools`, `category`, `unsafe`,
    `reference`, `twin` and `id` where known. Raises ConstitutionError with the line."""
    made: list[Prompt] = []
    try:
        lines = path.read_text(encoding="utf8").splitlines()
    except FileNotFoundError:
        raise ConstitutionError(f"{path} does not exist; name a file of JSON lines with prompts") from None
    for number, line in enumerate(lines, start=1):
        if line.strip():
            made.append(_prompt(line, number, f"{path}:{number}"))
    if not made:
        raise ConstitutionError(f'{path} has no prompt; write lines such as {{"prompt": "How do I ...?"}}')
    ids = [prompt.id for prompt in made]
    if len(set(ids)) < len(ids):
        raise ConstitutionError(f"{path}: the id {next(id for id in ids if ids.count(id) > 1)} stands twice; rename one")
    return made


_TEXTS = ("id", "system", "category", "reference", "twin")


def _prompt(line: str, number: int, where: str) -> Prompt:
    try:
        row: dict[str, Any] = json.loads(line)
    except ValueError as error:
        raise ConstitutionError(f"{where} is no JSON ({error}); correct the line") from None
    if not isinstance(row, dict):
        raise ConstitutionError(f'{where} is no object; write {{"prompt": TEXT}}')
    unknown = sorted(set(row) - {*_TEXTS, "prompt", "messages", "tools", "unsafe"})
    if unknown:
        raise ConstitutionError(f"{where}: unknown key `{unknown[0]}`; remove it")
    for key in (*_TEXTS, "prompt"):
        if not isinstance(row.get(key, ""), str):
            raise ConstitutionError(f"{where}: {key} must be a text")
    if not isinstance(row.get("unsafe"), bool | None):
        raise ConstitutionError(f"{where}: unsafe must be true or false")
    messages = row.get("messages") or [{"role": "user", "content": row.get("prompt", "")}]
    good = isinstance(messages, list) and all(isinstance(m, dict) and m.get("content") and m.get("role") for m in messages)
    if not good or messages[-1]["role"] != "user":
        raise ConstitutionError(f"{where}: messages must end with what the user says; add `prompt`, or `messages` with content")
    values = {key: row[key] for key in _TEXTS if key in row}
    values.setdefault("id", str(number))
    return Prompt(**values, messages=tuple(messages), tools=tuple(row.get("tools", ())), unsafe=row.get("unsafe"))
