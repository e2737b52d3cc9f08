"""Generated tasks as a caller gets them: the generators' test split through the service, greedily; exact answers count.

The test split has names, schemas and phrasings that training never saw. Calls and JSON are written under their schemas.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from senryu.evals.tasks import Answers, Row, turns
from senryu.train.generators import GENERATORS
from senryu.train.generators.arithmetic import evaluate
from senryu.train.generators.exact import flat, last_number
from senryu.types import Block, Message, Text, ToolResult, ToolUse

SEED = 20_261_127
SIZES = (1, 20)  # tools in the list
DIGITS = 2
ROUNDS = 3  # calls of the calculator before an answer counts as missing
NEEDLE_CHARS = (1_000, 4_000, 16_000)

Figures = dict[str, Any]


def held_back(name: str, count: int, **options: Any) -> list[Row]:
    """The first rows of a generator's test split; always the same ones."""
    return list(islice(GENERATORS[name](SEED, "test", **options), count))


async def next_action(answers: Answers, rows: Sequence[Row]) -> Figures:
    """Over every answer of the rows: of those that call, the share with exactly the same calls, and of the tools alone; of
    those that only say something, the share that was answered without a call."""
    asked = [pair for row in rows for pair in turns(answers.name, row)]
    found = await asyncio.gather(*(answers.blocks(turn) for turn, _ in asked))
    calls = names = exact = texts = kept = 0
    for blocks, (_, expected) in zip(found, asked, strict=True):
        ours, theirs = _calls(blocks), _calls(expected.content)
        if theirs:
            calls += 1
            names += [name for name, _ in ours] == [name for name, _ in theirs]
            exact += ours == theirs
        else:
            texts += 1
            kept += bool(blocks) and not ours
    return {"dialogues": len(rows), "calls": calls, "name": _share(names, calls), "exact": _share(exact, calls),
            "texts": texts, "text_kept": _share(kept, texts)}  # fmt: skip


async def extraction(answers: Answers, rows: Sequence[Row]) -> Figures:
    """exact: the whole JSON is the same. f1: over its values, each with its path; null is a value."""
    asked = [(replace(turn, output_schema=row["schema"]), said) for row in rows for turn, said in turns(answers.name, row)]
    found = await asyncio.gather(*(answers.blocks(turn) for turn, _ in asked))
    right = given = wanted = exact = 0
    for blocks, (_, expected) in zip(found, asked, strict=True):
        ours, theirs = _values(blocks), _values(expected.content)
        exact += ours == theirs
        right += sum(path in ours and ours[path] == value for path, value in theirs.items())
        given, wanted = given + len(ours), wanted + len(theirs)
    return {"rows": len(rows), "fields": wanted, "exact": _share(exact, len(rows)), "f1": _share(2 * right, given + wanted)}


async def calculator(answers: Answers, rows: Sequence[Row]) -> Figures:
    """The model calls, the calculator answers, until the model says something: right when its last number is the answer.

    called: the share that called the calculator at all. expression: of these, whose first expression gives the answer.
    """
    results = await asyncio.gather(*(_calculate(answers, row) for row in rows))
    called = [first for _, first in results if first is not None]
    right = sum(said == row["answer"] for (said, _), row in zip(results, rows))
    first_right = sum(first == row["answer"] for (_, first), row in zip(results, rows))
    return {"rows": len(rows), "right": _share(right, len(rows)), "called": _share(len(called), len(rows)),
            "expression": _share(first_right, len(called))}  # fmt: skip


async def _calculate(answers: Answers, row: Row) -> tuple[str, str | None]:
    """The last number that the model said ("" for none), and what its first call gave (None without one)."""
    turn, _ = next(turns(answers.name, row))
    messages, first = turn.messages, None
    for _ in range(ROUNDS + 1):
        blocks = await answers.blocks(replace(turn, messages=messages))
        uses = [block for block in blocks if isinstance(block, ToolUse)]
        if not uses:
            return last_number(_text(blocks)), first
        values = [_result(use) for use in uses]
        first = values[0] if first is None else first
        results: list[Block] = [ToolResult(use.id, (Text(value),)) for use, value in zip(uses, values)]
        messages = (*messages, Message("assistant", tuple(blocks)), Message("user", tuple(results)))
    return "", first


def _result(use: ToolUse) -> str:
    try:
        return evaluate(str(next(iter(use.input.values()), "")))
    except ValueError as error:
        return f"error: {error}"


async def needle(answers: Answers, rows: Sequence[Row]) -> Figures:
    """The share whose answer is the needle, letter by letter but for white space around it."""
    found = await asyncio.gather(*(answers.blocks(next(turns(answers.name, row))[0]) for row in rows))
    right = sum(_text(blocks).strip() == row["answer"] for blocks, row in zip(found, rows))
    return {"rows": len(rows), "exact": _share(right, len(rows))}


async def measure(answers: Answers, count: int, chars: Sequence[int] = NEEDLE_CHARS) -> dict[str, Figures]:
    """All of it, `count` rows each; `chars` are the lengths of the texts with needles."""
    done = {f"tools_{size}": await next_action(answers, held_back("tools", count, size=size)) for size in SIZES}
    done["support"] = await next_action(answers, held_back("support", count))
    done["extraction"] = await extraction(answers, held_back("extraction", count))
    done["arithmetic"] = await calculator(answers, held_back("arithmetic", count, digits=DIGITS, called=True))
    for length in chars:
        rows = held_back("retrieval", count, chars=length, exactly=True, kind="needle")
        done[f"needle_{length}"] = await needle(answers, rows)
    return done


_LINES: dict[str, Callable[[str, Figures], str]] = {
    "tools": lambda tools, f: f"Tools ({tools} in the list)" + _actions(f),
    "support": lambda _, f: "Support dialogues by a policy" + _actions(f),
    "extraction": lambda _, f: (
        f"Extraction: {_percent(f['exact'])} of {f['rows']:,} JSON answers are exact; "
        f"F1 {f['f1']:.2f} over {f['fields']:,} values."
    ),
    "arithmetic": lambda _, f: (
        f"Sums of {DIGITS} digits with a calculator: {_percent(f['right'])} of {f['rows']:,} answers are right; "
        f"{_percent(f['called'])} call it, of these {_percent(f['expression'])} with the right expression."
    ),
    "needle": lambda chars, f: f"A needle in {int(chars):,} characters: {_percent(f['exact'])} of {f['rows']:,} found.",
}


def lines(measured: dict[str, Figures]) -> Iterator[str]:
    """What was measured, one sentence each, as a Markdown list."""
    for name, figures in measured.items():
        kind, _, detail = name.partition("_")
        yield "- " + _LINES[kind](detail, figures)


def _actions(f: Figures) -> str:
    return (
        f": of {f['calls']:,} answers that call {_percent(f['name'])} call the right tools and {_percent(f['exact'])} with the "
        f"same input too; of {f['texts']:,} answers in words {_percent(f['text_kept'])} stay words."
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _share(part: int, whole: int) -> float:
    return part / max(whole, 1)


def _text(blocks: Sequence[object]) -> str:
    return "".join(block.text for block in blocks if isinstance(block, Text))


def _calls(blocks: Sequence[object]) -> list[tuple[str, Any]]:
    return [(block.name, dict(block.input)) for block in blocks if isinstance(block, ToolUse)]


def _values(blocks: Sequence[object]) -> dict[tuple[str, ...], Any]:
    """The values of a JSON answer by their paths; none where the text is no JSON object."""
    try:
        value = json.loads(_text(blocks))
    except ValueError:
        return {}
    return dict(flat(value)) if isinstance(value, dict) else {}
