"""How far a model finds things: needles, several at once, chains of variables, at lengths in its own tokens and at every depth.

As callers get it: greedily, through the service and the engine. Every text has a needle at each depth and chains of variables
between them, and many questions are asked over it, one a request. The text stands first, so all but the first request
find it in the prompt cache: a text is read once, however many questions follow.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import Any

from senryu.config import Settings
from senryu.evals.generated import SEED
from senryu.evals.tasks import Answers, Row, turns
from senryu.service.registry import load_model
from senryu.train.generators.retrieval import over_one_text
from senryu.types import Text, Turn

LENGTHS = (4_000, 32_000, 128_000, 200_000)  # tokens, of prompt and answer together
DEPTHS = tuple(tenth / 10 for tenth in range(11))
KINDS = ("needle", "needles", "variables")
BAR = 0.8  # the share of needles that makes a length one to be advertised
ANSWER_TOKENS = 64  # two codes and a sentence around them
SPARE = 0.02  # a prompt may be so much shorter than asked for, or as much as SENTENCES
SENTENCES, TIGHT = 96, 8  # tokens: a few sentences; by how many the shortest question may have more than the longest
FITTINGS = 6  # tries to make a text as long as that

Figures = dict[str, Any]


async def measure(
    answers: Answers, context: int, lengths: Sequence[int] = LENGTHS, texts: int = 1, say: Callable[[str], None] = print
) -> Figures:
    """The figures at each length: of every kind the share of questions answered, of single needles by depth too.

    context: the model's window. lengths: tokens of prompt and answer together. texts: of each length. say: hears of each.
    Raises ValueError for a length past the window, or too short for all that a text holds.
    """
    for length in lengths:
        if length > context:
            raise ValueError(f"{length} tokens are more than the model's window of {context}; use {context} or less")
    figures = []
    for length in sorted(set(lengths)):
        began, results, tokens = time.monotonic(), list[tuple[Row, bool]](), 0
        async for rows, count in _fitted(answers, length, texts):
            results += [(row, right) for row, right in zip(rows, await _ask(answers, rows), strict=True)]
            tokens = max(tokens, count)
        entry: Figures = {"tokens": length, "prompt_tokens": tokens, "seconds": round(time.monotonic() - began, 1)}
        entry |= {kind: _share([right for row, right in results if row["kind"] == kind]) for kind in KINDS}
        single = [(row["depth"], right) for row, right in results if row["kind"] == "needle"]
        entry["depths"] = {f"{100 * d:.0f}": _share([right for at, right in single if at == d]) for d in DEPTHS}
        figures.append(entry)
        say(_line(entry))
    made = {"texts": texts, "answer_tokens": ANSWER_TOKENS, "bar": BAR}
    return {**made, "lengths": figures, "advertised": advertised(figures)}


def advertised(lengths: Sequence[Figures]) -> int:
    """The longest of the lengths, in tokens, at which over BAR of single needles are found, there and at all shorter ones.

    0 where there is none.
    """
    longest = 0
    for entry in sorted(lengths, key=lambda entry: entry["tokens"]):
        if entry["needle"]["found"] <= BAR:
            break
        longest = entry["tokens"]
    return longest


def table(measured: Figures) -> str:
    """The figures as a Markdown table, a row a length."""
    head = ("tokens", "one needle", "at the worst depth", "two needles", "variables")
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for entry in measured["lengths"]:
        worst = min(entry["depths"], key=lambda depth: entry["depths"][depth]["found"])
        share = _percent(entry["depths"][worst]["found"])
        cells = [f"{entry['tokens']:,}", _of(entry["needle"]), f"{share} at {worst} %"]
        cells += [_of(entry[kind]) for kind in KINDS[1:]]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def sentence(measured: Figures) -> str:
    """What may be advertised, in a sentence or two."""
    least, most = measured["lengths"][0], measured["advertised"]
    if not most:
        return (
            f"No length is advertised: at {least['tokens']:,} tokens, the shortest measured, it finds {_of(least['needle'])} "
            f"needles, and {100 * BAR:.0f} % are the bar."
        )
    reached = next(entry for entry in measured["lengths"] if entry["tokens"] == most)
    return (
        f"Use it up to {most:,} tokens: there, and at every shorter length that was measured, it finds over {100 * BAR:.0f} % "
        f"of single needles ({_of(reached['needle'])})."
    )


def run(settings: Settings, ref: str, lengths: Sequence[int], texts: int) -> Figures:
    """`measure` of the model of a reference (mini, path:DIR, hf:ORG/REPO), and what it was measured with.

    Raises ValueError as `measure`, SenryuError where the model cannot be loaded.
    """

    async def measured() -> Figures:
        model = load_model(settings, ref)
        try:
            how = {"model": model.name, "date": time.strftime("%Y-%m-%d", time.gmtime()), "context": model.limits.context}
            how |= {"weights": settings.weights, "kv": settings.kv, "kernels": settings.kernels}
            return how | await measure(Answers(model, settings), model.limits.context, lengths, texts)
        finally:
            await model.engine.close()

    return asyncio.run(measured())


async def _fitted(answers: Answers, length: int, texts: int) -> AsyncIterator[tuple[list[Row], int]]:
    """The rows of so many texts and the tokens of the longest prompt, which with its answer is as long as asked for."""
    most, chars = length - ANSWER_TOKENS - TIGHT, 4 * length
    spare = max(round(most * SPARE), SENTENCES)
    for text in range(texts):
        for _ in range(FITTINGS):
            rows = _rows(text, chars)
            longest = max(rows, key=lambda row: len(row["messages"][0]["content"]))
            count = await answers.count(_turn(answers, longest))
            if most - spare <= count <= most:
                break
            chars = int(chars * (most - spare / 2) / count)
        else:
            raise ValueError(f"no text of {length} tokens can be made; use another length")
        yield rows, count


def _rows(text: int, chars: int) -> list[Row]:
    try:
        return next(over_one_text(SEED + text, chars=chars, depths=DEPTHS))
    except ValueError as error:
        raise ValueError(f"a length is too short to hold every needle: {error}") from error


async def _ask(answers: Answers, rows: Sequence[Row]) -> list[bool]:
    """Whether each row was answered. The first alone: it leaves the text in the cache."""
    asked = [_turn(answers, row) for row in rows]
    found = [await answers.blocks(asked[0]), *await asyncio.gather(*(answers.blocks(turn) for turn in asked[1:]))]
    said = ("".join(block.text for block in blocks if isinstance(block, Text)) for blocks in found)
    return [answered(row, text) for row, text in zip(rows, said, strict=True)]


def _turn(answers: Answers, row: Row) -> Turn:
    return replace(next(turns(answers.name, row))[0], max_tokens=ANSWER_TOKENS)


def answered(row: Row, text: str) -> bool:
    """Whether the values of the text's sentences that an answer names are those that were asked for, in their order.

    Words around them do no harm; another value of the same text does.
    """
    pattern = "|".join(rf"\b{re.escape(value)}\b" for value in row["planted"])
    return list(dict.fromkeys(re.findall(pattern, text))) == list(row["values"])


def _share(right: Sequence[bool]) -> Figures:
    return {"rows": len(right), "found": sum(right) / max(len(right), 1)}


def _line(entry: Figures) -> str:
    kinds = ", ".join(f"{kind} {_of(entry[kind])}" for kind in KINDS)
    return f"{entry['tokens']:,} tokens: {kinds} ({entry['seconds']} s)"


def _of(figures: Figures) -> str:
    return f"{_percent(figures['found'])} of {figures['rows']}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
