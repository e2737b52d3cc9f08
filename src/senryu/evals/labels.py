"""Classification by generated label: the model writes its answer greedily, and only the exact label counts."""

from __future__ import annotations

import asyncio
import json
import lzma
import random
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from senryu.engine.interface import Sampling, TokenRequest
from senryu.service.registry import LoadedModel

PROMPTS: dict[str, str] = tomllib.loads((Path(__file__).parent / "prompts.toml").read_text(encoding="utf8"))
AT_ONCE = 64
SETS = {  # label task -> its file below eval/, and what its rows call it
    "banking77": ("intents", "intent_banking77"),
    "clinc150": ("intents", "intent_clinc150"),
    "moderation_davidson": ("moderation_davidson", "moderation_davidson"),
}


async def answer(model: LoadedModel, messages: list[dict[str, Any]], max_tokens: int) -> str:
    """The greedy answer of a loaded model to a conversation."""
    ids = model.tokenizer.encode_rendered(model.template.render(messages))
    request = TokenRequest(tuple(ids), max_tokens, Sampling(temperature=0.0), stop_ids=model.tokenizer.eos_ids)
    tokens = [token async for event in model.engine.generate(request) for token in event.tokens]
    return model.tokenizer.decode(tokens)


def read_json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of an .jsonl.xz file."""
    with lzma.open(path, "rt", encoding="utf8") as lines:
        yield from map(json.loads, lines)


def read_rows(path: Path, task: str, limit: int | None, seed: int = 0) -> list[tuple[str, str]]:
    """(input, label) of a task's rows; with `limit` a seeded sample."""
    rows = [(r["input"], r["label"]) for r in read_json_lines(path) if r["task"] == task]
    return rows if limit is None or limit >= len(rows) else random.Random(seed).sample(rows, limit)


async def accuracy(model: LoadedModel, name: str, rows: list[tuple[str, str]], labels: list[str]) -> dict[str, Any]:
    """Share of rows whose generated text is exactly the label; `valid` is the share that is any label of the set,
    `commonest` what always giving the most frequent label would score."""
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(text: str) -> str:
        async with gate:
            return (await answer(model, [{"role": "user", "content": PROMPTS[name].format(input=text)}], 24)).strip()

    answers = await asyncio.gather(*(one(text) for text, _ in rows))
    right = [a == label for a, (_, label) in zip(answers, rows)]
    commonest = Counter(label for _, label in rows).most_common(1)[0][1]
    result: dict[str, Any] = {
        "rows": len(rows),
        "labels": len(labels),
        "accuracy": sum(right) / len(rows),
        "commonest": commonest / len(rows),
        "valid": sum(a in set(labels) for a in answers) / len(rows),
    }
    inside = [ok for ok, (_, label) in zip(right, rows) if label != "out_of_scope"]
    if len(inside) < len(rows):
        result["accuracy_in_scope"] = sum(inside) / len(inside)
    return result


async def measure(model: LoadedModel, data: Path, limit: int | None) -> dict[str, dict[str, Any]]:
    """Every label task of the bundle in `data`; with `limit` a seeded sample of so many rows each."""
    sets = json.loads((data / "eval" / "labels.json").read_text(encoding="utf8"))
    results = {}
    for name, (file, task) in SETS.items():
        rows = read_rows(data / "eval" / f"{file}.jsonl.xz", task, limit)
        results[name] = await accuracy(model, name, rows, sets.get(name) or sorted({label for _, label in rows}))
    return results
