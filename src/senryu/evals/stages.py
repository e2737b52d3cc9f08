"""What each stage of a training run did to each figure: the stages' exports, measured alike, as one Markdown table."""

from __future__ import annotations

import asyncio
import json
import math
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from senryu.config import Settings
from senryu.errors import SenryuError
from senryu.evals import generated, labels, perplexity, refusals, tasks
from senryu.model.tokenizer import load_tokenizer
from senryu.service.registry import load_model

STAGES = {  # folder of the run -> column
    "pretrain": "base",
    "sft": "SFT",
    "long": "long",
    "constitutional": "constitutional",
    "dpo": "DPO",
    "rl": "RL",
}
NEEDLE_CHARS = (1_000, 4_000)
LABELS = 5  # times as many rows of the label tasks: they are short
Z = 1.96  # 95 % of a normal distribution lies so many deviations around its mean
RESAMPLES = 1_000

Figure = dict[str, Any]  # value; low and high of an interval of 95 %, and n, where there is one


def wilson(part: float, whole: int) -> Figure:
    """The share part / whole with Wilson's interval (Wilson 1927, JASA 22), which holds near 0 and 1 and for few rows."""
    if not whole:
        return {"value": None, "low": None, "high": None, "n": 0}
    share, squared = part / whole, Z * Z / whole
    middle = (share + squared / 2) / (1 + squared)
    reach = Z * math.sqrt(share * (1 - share) / whole + squared / whole / 4) / (1 + squared)
    return {"value": share, "low": max(0.0, middle - reach), "high": min(1.0, middle + reach), "n": whole}


def ratio(parts: Sequence[tuple[float, float]], seed: int = 0) -> Figure:
    """Sum of the first over sum of the second of pairs, with a bootstrap interval over the pairs (percentiles)."""
    draw = random.Random(seed)
    ratios = []
    for _ in range(RESAMPLES):
        picked = draw.choices(parts, k=len(parts))
        ratios.append(sum(a for a, _ in picked) / sum(b for _, b in picked))
    ratios.sort()
    value = sum(a for a, _ in parts) / sum(b for _, b in parts)
    return {"value": value, "low": ratios[RESAMPLES // 40], "high": ratios[-(RESAMPLES // 40) - 1], "n": len(parts)}


def held_out_bits(folder: Path, held_out: Path, bytes_per_file: int) -> Figure:
    """Bits per byte over held-out documents, by the fp32 definition."""
    documents = perplexity.read_held_out(held_out, load_tokenizer(folder), bytes_per_file)
    nats = perplexity.model_nats(folder)
    return ratio([(float(nats(d.ids)[1:].sum()) / math.log(2), d.size) for d in documents])


async def _by_service(settings: Settings, folder: Path, rows: int, data: Path | None) -> dict[str, Figure]:
    """Everything that is measured as callers get it; with the bundle in `data` its tasks, too."""
    model = load_model(settings, f"path:{folder}")
    try:
        answers = tasks.Answers(model, settings)
        found = await generated.measure(answers, rows, NEEDLE_CHARS)
        asked = await refusals.measure(answers, rows)
        if data is not None:
            found |= await labels.measure(model, data, LABELS * rows) | await tasks.measure(answers, data, rows)
    finally:
        await model.engine.close()
    figures = {}
    for name, (key, of) in SHARES.items():
        if name in found:
            figures[name] = wilson(round(found[name][key] * found[name][of]), found[name][of])
    for name in ("refused", "answered"):
        figures[name] = wilson(round(asked[name]["share"] * asked["pairs"]), asked["pairs"])
    if data is not None:
        figures["receipts_sroie"] = {"value": found["receipts_sroie"]["f1"]}
    low, high = asked["correct"]["interval"]
    figures["correct"] = {"value": asked["correct"]["share"], "low": low, "high": high, "n": asked["pairs"]}
    count = asked["collapse"]["answers"]
    figures["loops"] = wilson(round(asked["collapse"]["loops"] * count), count)
    figures["distinct_2"] = {"value": asked["collapse"]["distinct_2"]}
    return figures


SHARES = {  # a generated task -> the share that counts, and how many it is a share of
    **{f"tools_{size}": ("exact", "calls") for size in generated.SIZES},
    "support": ("exact", "calls"),
    "extraction": ("exact", "rows"),
    "arithmetic": ("right", "rows"),
    **{f"needle_{chars}": ("exact", "rows") for chars in NEEDLE_CHARS},
    **dict.fromkeys(labels.SETS, ("accuracy", "rows")),
    "taskmaster_tm4": ("exact", "calls"),
}
REFUSALS = ("refused", "answered", "correct")
ROWS = {  # figure -> its row in the table
    "bits_per_byte": "held-out text, bits per byte (less is better)",
    **{f"tools_{size}": f"tool calls on unseen schemas, {size} in the list, exact" for size in generated.SIZES},
    "support": "support dialogues by a policy, exact calls",
    "extraction": "extraction to JSON, all of it exact",
    "arithmetic": "sums with the calculator, right",
    **{f"needle_{chars}": f"a needle in {chars:,} characters" for chars in NEEDLE_CHARS},
    **{name: f"{name}, exact label" for name in labels.SETS},
    "receipts_sroie": "fields of receipts, F1",
    "taskmaster_tm4": "next call of order dialogues, exact",
    **{name: refusals.MEASURES[name] for name in REFUSALS},
    "loops": "answers that end in a circle (less is better)",
    "distinct_2": "distinct-2 of the answers to these requests",
}


def measure(
    run: Path, settings: Settings, rows: int, bytes_per_file: int, data: Path | None = None, say: Callable[[str], None] = print
) -> dict[str, Any]:
    """The figures of every stage of `run` that left a model. rows: of each task; data: the bundle, whose tasks are measured
    with it. Raises SenryuError when no stage did."""
    folders = {name: run / name / "model" for name in STAGES if (run / name / "model" / "config.json").exists()}
    if not folders:
        raise SenryuError("untrainable", why=f"{run} has no stage with a model; `senryu train all --out {run}` leaves them")
    document: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "recipe": _summary(run, next(iter(folders)))["recipe"],
        "parameters": _summary(run, next(iter(folders)))["parameters"],
        "rows": rows,
        "stages": {},
    }
    for name, folder in folders.items():
        say(f"{STAGES[name]} ...")
        figures: dict[str, Figure] = {}
        if (run / "data" / "held_out.jsonl.xz").exists():
            figures["bits_per_byte"] = held_out_bits(folder, run / "data" / "held_out.jsonl.xz", bytes_per_file)
        figures |= asyncio.run(_by_service(settings, folder, rows, data))
        trained = {key: _summary(run, name)[key] for key in ("tokens", "step", "seconds", "start")}
        document["stages"][name] = {"trained": trained, "figures": figures}
    return document


def _summary(run: Path, stage: str) -> dict[str, Any]:
    return json.loads((run / stage / "summary.json").read_text(encoding="utf8"))


def table(document: dict[str, Any]) -> str:
    """The table: a row a figure with its interval, a column a stage."""
    stages = document["stages"]
    lines = ["| | " + " | ".join(STAGES[name] for name in stages) + " |", "|---" * (len(stages) + 1) + "|"]
    trained = [f"{s['trained']['tokens'] / 1e6:.2f} M in {s['trained']['seconds'] / 60:.1f} min" for s in stages.values()]
    lines.append("| tokens trained on, and time | " + " | ".join(trained) + " |")
    for name, row in ROWS.items():
        cells = [_cell(name, stage["figures"].get(name)) for stage in stages.values()]
        if any(cells):
            lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def starts(document: dict[str, Any]) -> str:
    """A sentence for every stage that started from a model of another run; empty where none did."""
    found = {STAGES[name]: stage["trained"]["start"] for name, stage in document["stages"].items()}
    return "".join(f" {stage} started from {start}." for stage, start in found.items() if start not in ("seed", *STAGES))


def _cell(name: str, figure: Figure | None) -> str:
    """As in 61 % (54-67) or 1.531 (1.49-1.57)."""
    if figure is None or figure["value"] is None:
        return ""
    if name == "bits_per_byte":
        return f"{figure['value']:.3f} ({figure['low']:.3f}-{figure['high']:.3f})"
    if "low" not in figure:
        return f"{figure['value']:.3f}"
    return f"{100 * figure['value']:.0f} % ({100 * figure['low']:.0f}-{100 * figure['high']:.0f})"


def page(document: dict[str, Any], command: str) -> str:
    """The whole page, with how it was made."""
    return PAGE.format(
        table=table(document),
        command=command,
        recipe=document["recipe"],
        millions=f"{document['parameters'] / 1e6:.2f}",
        rows=document["rows"],
        date=document["date"],
        starts=starts(document),
    )


PAGE = """# What each stage does

One run, measured after each of its stages: recipe `{recipe}`, {millions} M parameters, {date}. In brackets intervals of 95 %:
Wilson's for shares, a bootstrap over pairs for refusal correctness and over documents for bits per byte. {rows} rows of each
task (for refusals pairs of an unsafe request and a benign twin with the same words; five times as many of label tasks), all
held back from training: generated ones have tools, schemas and wordings that it never saw. Answers are greedy, through the
service, calls and JSON under their schemas.{starts}

{table}

Made by `{command}`; nothing here is written by hand.
"""
