"""A tiny data bundle of our own for the toy recipe."""

from __future__ import annotations

import json
import lzma
import random
from pathlib import Path
from typing import Any

TOY = Path(__file__).parent / "tiny.toml"

PLACES = ("harbour", "market", "library", "station", "garden", "bakery", "bridge", "school")
PEOPLE = ("Ana", "Ben", "Carla", "David", "Emma", "Farid")
THINGS = ("a lamp", "two books", "a green coat", "some bread", "an old map", "seven keys")


def sentence(draw: random.Random) -> str:
    return f"{draw.choice(PEOPLE)} carried {draw.choice(THINGS)} from the {draw.choice(PLACES)} to the {draw.choice(PLACES)}."


def prose(draw: random.Random) -> dict[str, Any]:
    return {"text": " ".join(sentence(draw) for _ in range(draw.randint(4, 14))), "source": "own", "licence": "Apache-2.0"}


def intent(draw: random.Random) -> dict[str, Any]:
    label = draw.choice(("card_arrival", "card_lost"))
    wish = "when does my card come" if label == "card_arrival" else "my card is gone"
    message = f"{draw.choice(PEOPLE)} asks: {wish} {draw.random():.3f}"
    intents = "Classify the user request into one of these intents: card_arrival, card_lost."
    content = f"{intents}\n\nMessage: {message}\n\nAnswer with the intent only."
    return {
        "task": "intent",
        "messages": [{"role": "user", "content": content}, {"role": "assistant", "content": label}],
        "source": "banking77",
    }


def tool_dialogue(draw: random.Random) -> dict[str, Any]:
    place = draw.choice(PLACES)
    schema = {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]}
    return {
        "task": "tool_dialogue",
        "system": "Use the tools.",
        "messages": [
            {"role": "user", "content": f"Is the {place} open?"},
            {
                "role": "assistant",
                "content": [{"type": "tool_use", "id": "toolu_01", "name": "hours", "input": {"place": place}}],
            },
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_01", "content": '{"open": true}'}]},
            {"role": "assistant", "content": f"Yes, the {place} is open."},
        ],
        "tools": [{"name": "hours", "description": "Opening hours.", "input_schema": schema}],
        "source": "own",
    }


def write_bundle(folder: Path) -> Path:
    """pretrain/prose.jsonl.xz and sft/tasks.jsonl.xz under `folder`, seeded."""
    draw = random.Random(3)
    files = {
        "pretrain/prose.jsonl.xz": [prose(draw) for _ in range(150)],
        "sft/tasks.jsonl.xz": [kind(draw) for _ in range(40) for kind in (intent, tool_dialogue)],
    }
    for name, entries in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with lzma.open(folder / name, "wt", encoding="utf8") as out:
            out.writelines(json.dumps(entry) + "\n" for entry in entries)
    return folder
