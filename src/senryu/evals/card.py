"""MODEL_CARD.md and ATTRIBUTION.md of a trained model, written from what was measured, never by hand."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

from senryu.evals import generated, needles, refusals

STAGES = {  # of training, in their order -> what the card calls them
    "pretrain": "Pretraining",
    "sft": "Fine-tuning, padding and prompts included",
    "long": "Long rows, padding and prompts included",
    "constitutional": "Revisions by the constitution, padding and prompts included",
    "reward": "Reward model",
    "dpo": "Preference pairs (DPO)",
    "rl": "Verifiable rewards",
}
TEMPLATE = Path(__file__).parent / "card.md"


def sources_table(tokens: dict[str, int]) -> str:
    """Tokens prepared per source, as a Markdown table."""
    total = sum(tokens.values())
    lines = ["| source | tokens (M) | share |", "|---|---|---|"]
    lines += [f"| {name} | {count / 1e6:.2f} | {100 * count / total:.1f} % |" for name, count in tokens.items()]
    return "\n".join(lines)


def bits_table(measured: dict[str, Any]) -> str:
    """Bits per byte of the model beside the baseline, by held-out file."""
    model, baseline = measured["bits_per_byte"]["model"], measured["bits_per_byte"]["ngram"]
    lines = [f"| held-out text | this model | {measured['ngram_order']}-gram |", "|---|---|---|"]
    names = sorted(model, key=lambda name: (name == "all", name))
    lines += [f"| {name} | {model[name]:.3f} | {baseline[name]:.3f} |" for name in names]
    return "\n".join(lines)


def labels_table(measured: dict[str, Any]) -> str:
    """Accuracy by generated label."""
    lines = [
        "| task | rows | labels | exact label | always the commonest label | any valid label |",
        "|---|---|---|---|---|---|",
    ]
    for name, result in measured["labels"].items():
        inside = f" ({100 * result['accuracy_in_scope']:.1f} % in scope)" if "accuracy_in_scope" in result else ""
        lines.append(
            f"| {name} | {result['rows']:,} | {result['labels']} | {100 * result['accuracy']:.1f} %{inside} "
            f"| {100 * result['commonest']:.1f} % | {100 * result['valid']:.1f} % |"
        )
    return "\n".join(lines)


def beaten(measured: dict[str, Any]) -> str:
    """A sentence on label sets where the model is hardly better than always giving the commonest label; empty without any."""
    names = " and ".join(f"`{name}`" for name, r in measured["labels"].items() if r["accuracy"] < r["commonest"] + 0.02)
    return f"\nAccuracy says little about {names}: always giving the commonest label does as well." if names else ""


def tasks_text(measured: dict[str, Any]) -> str:
    """Extraction and calls, in two sentences."""
    receipts, orders = measured["tasks"]["receipts_sroie"], measured["tasks"]["taskmaster_tm4"]
    return (
        f"- Receipts (`receipts_sroie`, {receipts['rows']} rows): F1 {receipts['f1']:.2f} over {receipts['fields']:,} fields.\n"
        f"- Order dialogues (`taskmaster_tm4`, {orders['dialogues']} of them): of {orders['calls']:,} next calls "
        f"{100 * orders['name']:.1f} % have the right tool and {100 * orders['exact']:.1f} % the same input too; of "
        f"{orders['texts']:,} answers in words {100 * orders['text_kept']:.1f} % stay words."
    )


def generated_text(measured: dict[str, Any]) -> str:
    """The generated tasks, a line each, under a sentence of their own; nothing where they were not measured."""
    if "generated" not in measured:
        return ""
    head = "Generated tasks, greedily through the service, with tools, schemas and wordings that training never saw:"
    return "\n".join(("\n", head, "", *generated.lines(measured["generated"])))


def refusals_text(measured: dict[str, Any]) -> str:
    """Refusals and collapse, a line each, under a sentence on what is counted; nothing where they were not measured."""
    if "refusals" not in measured:
        return ""
    head = (
        "Requests that are to be declined and benign twins with the same trigger words, in phrases that training never saw, "
        "greedily; whether an answer declines is decided by rules over its words, intervals are 95 % by bootstrap over pairs:"
    )
    return "\n".join(("\n", head, "", *refusals.lines(measured["refusals"])))


def needles_text(measured: dict[str, Any]) -> str:
    """The needle curve as a table, under a sentence on how it was measured; nothing where it was not."""
    if "needles" not in measured:
        return ""
    found = measured["needles"]
    head = (
        f"Finding things in long texts, greedily through the service, {_texts(found['texts'])} of each length. Every text has "
        "a needle at each tenth of its depth and chains of variables; it stands first, and each question asks for one needle, "
        "for two, or for the end of a chain, in wordings that training never saw. Tokens count prompt and answer together:"
    )
    return "\n".join(("\n", head, "", needles.table(found)))


def _texts(count: int) -> str:
    return "one text" if count == 1 else f"{count} texts"


def needle_options(measured: dict[str, Any]) -> str:
    """The options with which the needles were measured, or those that somebody may begin with."""
    found = measured.get("needles", {"texts": 1, "lengths": [{"tokens": tokens} for tokens in needles.LENGTHS]})
    return f"--tokens {' '.join(str(entry['tokens']) for entry in found['lengths'])} --rows {found['texts']}"


def advertised(measured: dict[str, Any]) -> str:
    """The length that may be advertised, in a sentence."""
    if "needles" not in measured:
        return "How far it finds things was not measured, so no length is advertised."
    return needles.sentence(measured["needles"])


def dialogues(measured: dict[str, Any]) -> str:
    """The sample dialogues as they came out."""
    parts = []
    for i, messages in enumerate(measured["dialogues"], start=1):
        lines = [f"> **{m['role']}**: " + m["content"].replace("\n", "\n> ") for m in messages]
        parts.append(f"Dialogue {i}\n\n" + "\n>\n".join(lines))
    return "\n\n".join(parts)


def device(summary: dict[str, Any]) -> str:
    """What a stage ran on, as its summary has it."""
    return f"{summary['threads']} CPU threads" if summary["device"] == "cpu" else "one GPU"


def seen(trained: int, prepared: int) -> str:
    """How much of the prepared tokens a run trained on."""
    if trained < prepared:
        return f"a random {100 * trained / prepared:.0f} % of them"
    return f"all of them {trained / prepared:.1f} times"


def stage_line(name: str, summary: dict[str, Any]) -> str:
    """One stage's compute in one line, and the model that it started from where that was no stage of the run."""
    start, seconds = summary["start"], summary["seconds"]
    took = f"{seconds / 60:.0f} minutes" if seconds >= 120 else f"{seconds:.0f} seconds"
    return (
        f"- {name}: {summary['tokens'] / 1e6:.1f} M tokens in {summary['step']:,} steps, {took} "
        f"on {device(summary)} ({summary['dtype']}, torch {summary['torch']}), seed {summary['seed']}"
        + ("" if start in ("seed", *STAGES) else f"; started from {start}")
    )


def stage_lines(run: Path) -> str:
    """The stages of the run as they followed each other; then RUN/made.md: in words, what no stage did to the weights."""
    paths = {name: run / name / "summary.json" for name in STAGES}
    lines = [stage_line(STAGES[name], read(path)) for name, path in paths.items() if path.exists()]
    by_hand = run / "made.md"
    return "\n".join(lines) + (f"\n\n{by_hand.read_text(encoding='utf8').strip()}" if by_hand.exists() else "")


def read(path: Path) -> Any:
    """A JSON file of the run."""
    return json.loads(path.read_text(encoding="utf8"))


def card(run: Path, measured: dict[str, Any]) -> str:
    """The card's text from a training run's folder and what `senryu.evals measure` wrote."""
    pretrain = read(run / "pretrain" / "summary.json")
    facts = {
        **read(run / "model" / "config.json"),
        **measured,
        "parameters": f"{pretrain['parameters'] / 1e6:.1f}",
        "bits_table": bits_table(measured),
        "labels_table": labels_table(measured),
        "beaten": beaten(measured),
        "tasks": tasks_text(measured) + generated_text(measured) + refusals_text(measured),
        "needles": needles_text(measured),
        "needle_options": needle_options(measured),
        "advertised": advertised(measured),
        "dialogues": dialogues(measured),
        "stages": stage_lines(run),
        "seen": seen(pretrain["tokens"], sum(measured["prepared"].values())),
        "name": pretrain["recipe"],
        "where": device(pretrain),
        "held_out": 100 * tomllib.loads((run / "recipe.toml").read_text(encoding="utf8"))["held_out"],
        "pretraining_sources": sources_table(measured["prepared"]),
        "finetuning_sources": sources_table(read(run / "data" / "sft.json")),
    }
    return TEMPLATE.read_text(encoding="utf8").format(**facts)


def attribution(data: Path, used: set[str]) -> str:
    """The bundle's credits, cut to the sources whose files this model was trained on; headings and notes stay."""
    kept = []
    for line in (data / "ATTRIBUTION.md").read_text(encoding="utf8").splitlines():
        files = line.partition("Used in ")[2]
        if not line.startswith("- ") or any(name in files for name in used):
            kept.append(line)
    return "\n".join(kept) + "\n"


def write(run: Path, data: Path, measured: dict[str, Any], folder: Path) -> None:
    """Write MODEL_CARD.md and ATTRIBUTION.md into the model's folder."""
    names = {*read(run / "data" / "pretrain.json"), *read(run / "data" / "sft.json")}
    used = {name.partition(":")[0] for name in names} - {"generated"}
    (folder / "MODEL_CARD.md").write_text(card(run, measured), encoding="utf8")
    (folder / "ATTRIBUTION.md").write_text(attribution(data, used), encoding="utf8")
