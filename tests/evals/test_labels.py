"""Labels count only as they were generated, letter by letter."""

from __future__ import annotations

import asyncio
import json
import lzma
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from senryu.engine.interface import TokenEvent, TokenRequest
from senryu.evals import labels
from senryu.service.registry import LoadedModel


class Scripted:
    """An engine whose answer is written behind a bar in the prompt."""

    async def generate(self, request: TokenRequest) -> AsyncIterator[TokenEvent]:
        assert request.sampling.temperature == 0
        answer = bytes(request.ids).decode().split("|")[1]
        yield TokenEvent(tuple(answer.encode()), finish="stop")


@pytest.fixture
def model() -> LoadedModel:
    tokenizer = SimpleNamespace(
        encode_rendered=lambda pieces: list("".join(pieces).encode()),
        decode=lambda ids: bytes(ids).decode(),
        eos_ids=frozenset(),
    )
    template = SimpleNamespace(render=lambda messages: [messages[-1]["content"]])
    return cast(LoadedModel, SimpleNamespace(engine=Scripted(), tokenizer=tokenizer, template=template))


def test_only_the_exact_label_counts(model: LoadedModel) -> None:
    rows = [
        ("|lost_card|", "lost_card"),
        ("|lost card|", "lost_card"),
        ("|pin|", "lost_card"),
        ("|out_of_scope|", "out_of_scope"),
    ]
    result: dict[str, Any] = asyncio.run(labels.accuracy(model, "clinc150", rows, ["lost_card", "pin", "out_of_scope"]))
    assert result.pop("accuracy_in_scope") == pytest.approx(1 / 3)
    assert result == {"rows": 4, "labels": 3, "accuracy": 0.5, "commonest": 0.75, "valid": 0.75}


def test_samples_are_seeded(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.xz"
    with lzma.open(path, "wt") as out:
        out.writelines(json.dumps({"task": "t" if i % 2 else "u", "input": str(i), "label": "x"}) + "\n" for i in range(40))
    assert len(labels.read_rows(path, "t", None)) == 20
    assert labels.read_rows(path, "t", 5) == labels.read_rows(path, "t", 5)
    assert len(labels.read_rows(path, "t", 5)) == 5
