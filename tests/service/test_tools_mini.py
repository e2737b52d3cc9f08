"""Mini calls tools at temperature 1 over schemas of our own making: not one call is wrong, and every choice is obeyed.

1,000 calls over more than 100 schemas: `make slow`, or python -m pytest -m slow -s tests/service/test_tools_nano.py
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
from test_tools import inputs_of
from test_turn import finish_of, turn, user

from schemas import Maker
from senryu import kernels
from senryu.config import Settings
from senryu.service.registry import LoadedModel, Registry, load_model
from senryu.service.turn import Service
from senryu.types import BlockStopped, Event, Text, Tool, ToolChoice, Turn

pytestmark = pytest.mark.skipif(kernels.available()[0] == "numpy", reason="too long without compiled kernels")
SIZES = (1, 5, 20)  # tools of a turn
CHOICES = ("any", "one", "tool", "any", "auto", "one", "tool", "none")


@pytest.fixture
def mini(kept_kernels: Path, tmp_path: Path) -> LoadedModel:
    return load_model(Settings(home=tmp_path, kv_cache_gb=0.5, kv_spill_gb=0), "mini")


def tools_of(size: int, seed: int) -> tuple[Tool, ...]:
    """Some with objects that are open, some that stream eagerly."""
    made = []
    for number in range(size):
        maker = Maker(1000 * seed + 50 * size + number, tuples=False)
        schema = maker.object(2)
        if maker.draw.random() < 0.3:
            del schema["additionalProperties"]
        made.append(Tool(f"tool_{size}-{seed}-{number}", schema, f"Tool number {number}", eager=number % 3 == 0))
    return tuple(made)


def turns_of(sets: list[tuple[Tool, ...]], each: int) -> list[Turn]:
    asked = []
    for number, tools in enumerate(sets):
        for seed in range(each):
            kind = CHOICES[(number + seed) % len(CHOICES)]
            named = random.Random(seed).choice(tools).name
            choice = {"one": ToolChoice("any", parallel=False), "tool": ToolChoice("tool", named, parallel=seed % 2 == 0)}
            asked.append(
                turn(
                    user(f"Number {seed}: please call a tool, with whatever arguments."),
                    tools=tools,
                    tool_choice=choice.get(kind) or ToolChoice(kind, parallel=seed % 2 == 0),  # type: ignore[arg-type]
                    max_tokens={"auto": 300, "none": 40}.get(kind, 2000),
                    top_p=1.0,
                    seed=seed,
                )
            )
    return asked


async def answers(model: LoadedModel, turns: list[Turn]) -> list[list[Event]]:
    service = Service(Registry([model]), replace(Settings(home=Path("unused")), max_requests=10_000))

    async def one(asked: Turn) -> list[Event]:
        async with aclosing(service.run(asked)) as stream:
            return [event async for event in stream]

    try:
        return await asyncio.gather(*map(one, turns))
    finally:
        await model.engine.close()


def check(asked: Turn, answer: list[Event], seen: Counter[str]) -> None:
    """By Draft 7, and by what the choice allows. An answer that ends with max_tokens may have one call that is cut."""
    choice, finish = asked.tool_choice, finish_of(answer)
    blocks = [event.block for event in answer if isinstance(event, BlockStopped)]
    calls = [block for block in blocks if not isinstance(block, Text)]
    seen["cut"] += finish.stop_reason == "max_tokens" and bool(calls)
    if finish.stop_reason != "max_tokens":
        assert inputs_of(answer) == [(call.name, call.input) for call in calls]
        assert finish.stop_reason == ("tool_use" if calls else "end_turn")
    for call in calls[:-1] if finish.stop_reason == "max_tokens" else calls:
        (tool,) = [tool for tool in asked.tools if tool.name == call.name]
        jsonschema.Draft7Validator(dict(tool.input_schema)).validate(call.input)
        seen["calls"] += 1
        seen[call.name] += 1
    if choice.kind in ("any", "tool"):
        assert calls or finish.stop_reason == "max_tokens"
        assert len(calls) == len(blocks)
    if choice.kind == "tool":
        assert {call.name for call in calls} <= {choice.name}
    if choice.kind == "none":
        assert not calls
    if not choice.parallel:
        assert len(calls) <= 1


def run(model: LoadedModel, sets: list[tuple[Tool, ...]], each: int) -> Counter[str]:
    turns = turns_of(sets, each)
    seen: Counter[str] = Counter()
    for asked, answer in zip(turns, asyncio.run(answers(model, turns))):
        check(asked, answer, seen)
    return seen


def test_forty_calls(mini: LoadedModel) -> None:
    seen = run(mini, [tools_of(size, seed) for size, count in zip(SIZES, (4, 2, 1)) for seed in range(count)], 8)
    assert seen["calls"] >= 40
    assert seen["cut"] * 10 <= seen["calls"]


@pytest.mark.slow
def test_a_thousand_calls(mini: LoadedModel) -> None:
    sets = [tools_of(size, seed) for size, count in zip(SIZES, (30, 10, 4)) for seed in range(count)]
    seen = run(mini, sets, 32)
    used = {name for name in seen if name.startswith("tool_")}
    print(f"\n{seen['calls']} calls of {len(used)} tools, {seen['cut']} answers cut by max_tokens")
    assert seen["calls"] >= 1000
    assert len(used) >= 100
    assert seen["cut"] * 50 <= seen["calls"]
