"""Pictures of what was measured: a bench document, a needle curve, the losses of a training run. Only here is matplotlib."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from pathlib import Path
from statistics import mean
from typing import Any

from senryu.errors import SenryuError

INK, OURS = "#333333", "#c0392b"
OTHERS = ("#2c6e9b", "#7f8c8d", "#b8860b", "#5b8c5a")
KINDS = {"needle": "one needle", "needles": "two needles", "variables": "variables"}
NAMES = {"senryu": "Senryu", "openvino": "OpenVINO", "ctranslate2": "CTranslate2"}


def require_matplotlib() -> None:
    """Raises SenryuError("no_matplotlib") when it is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        raise SenryuError("no_matplotlib")


def draw(document: dict[str, Any], path: Path) -> None:
    """Write the PNG. Raises SenryuError("no_matplotlib"), and ValueError when nothing in the document can be drawn."""
    depth = [figure for figure in document["figures"] if figure["measure"] == "depth"]
    rates = [f for f in document["figures"] if f["unit"] == "tok/s" and f["measure"] != "depth"]
    if len({figure["subject"] for figure in rates}) == 1:  # no peer
        rates = []
    parts: list[tuple[Callable[[Any, Any], None], Any]] = [(_depth, depth), (_ratios, rates)]
    drawn = [(part, data) for part, data in parts if data]
    if not drawn:
        raise ValueError("nothing to plot: it shows decode speed by depth and ratios to a peer")
    machine = document["machine"]
    title = f"{document['model']}, {document['weights']}: {machine['cpu']}, {machine['threads']} threads, {machine['date']}"
    _save(drawn, title, path)


def draw_needles(measured: dict[str, Any], path: Path) -> None:
    """Write the PNG of what `evals.needles` measured: shares by length, and single needles by depth and length.

    Raises SenryuError("no_matplotlib").
    """
    title = f"{measured['model']}, {measured['weights']}, {measured['texts']} texts of each length, {measured['date']}"
    _save([(_found, measured), (_by_depth, measured["lengths"])], title, path)


def draw_stages(logs: dict[str, list[dict[str, Any]]], title: str, path: Path) -> None:
    """Write the PNG of a training run, a part for each stage. logs: stage -> the lines of its `log.jsonl`, decoded.

    Raises SenryuError("no_matplotlib"), and ValueError when no stage has logged a step.
    """
    parts: list[tuple[Callable[[Any, Any], None], Any]] = [
        (_curve, (stage, lines)) for stage, lines in logs.items() if any("loss" in line for line in lines)
    ]
    if not parts:
        raise ValueError("nothing to plot: no stage has logged a step")
    _save(parts, title, path)


def _save(parts: list[tuple[Callable[[Any, Any], None], Any]], title: str, path: Path) -> None:
    """Parts in rows of up to three, each drawn by its function from its data."""
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(len(parts), 3)
    rows = math.ceil(len(parts) / columns)
    picture = Figure(figsize=(6.4 * columns, 4.2 * rows), dpi=150, layout="constrained")
    FigureCanvasAgg(picture)
    for i, (part, data) in enumerate(parts, 1):
        axes = picture.add_subplot(rows, columns, i)
        part(axes, data)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    picture.suptitle(title, fontsize=10, color=INK)
    picture.savefig(path, format="png")


def name(subject: str) -> str:
    """How a subject is called for people: "Senryu int8", "llama.cpp Q8_0"."""
    first, _, rest = subject.partition(" ")
    return f"{NAMES.get(first, first)} {rest}".strip()


def _curve(axes: Any, stage: tuple[str, list[dict[str, Any]]]) -> None:
    """One stage's loss by tokens, as logged and smoothed; of a stage that has a reward, that: its loss says little."""
    title, lines = stage
    steps = [line for line in lines if "loss" in line]
    measure = "reward" if "reward" in steps[0] else "loss"
    unit, scale = ("million tokens", 1e6) if steps[-1]["tokens"] >= 1e6 else ("thousand tokens", 1e3)
    at, values = [step["tokens"] / scale for step in steps], [step[measure] for step in steps]
    reach = len(values) // 40  # a mean over a twentieth of the steps
    smooth = [mean(values[max(0, i - reach) : i + reach + 1]) for i in range(len(values))]
    axes.plot(at, values, color=OURS, linewidth=0.8, alpha=0.35)
    axes.plot(at, smooth, color=OURS, linewidth=1.8)
    axes.annotate(f"{smooth[-1]:.3g}", (at[-1], smooth[-1]), (4, 0), textcoords="offset points", va="center", color=INK)
    for decay in (line["tokens"] / scale for line in lines if line.get("event") == "decay"):
        late = decay > at[-1] / 2
        axes.axvline(decay, color=INK, linewidth=1, linestyle=":")
        axes.annotate(
            "decay", (decay, 1), (-4 if late else 4, -4), ("data", "axes fraction"), "offset points",
            ha="right" if late else "left", va="top", color=INK,
        )  # fmt: skip
    axes.set(xlabel=unit, ylabel=measure, title=title)
    axes.grid(axis="y", alpha=0.25)


def _found(axes: Any, measured: dict[str, Any]) -> None:
    """Shares by length, and the bar."""
    lengths = measured["lengths"]
    for (kind, label), color in zip(KINDS.items(), (OURS, *OTHERS)):
        shares = [100 * entry[kind]["found"] for entry in lengths]
        axes.plot(range(len(lengths)), shares, color=color, marker="o", markersize=4, label=label)
    axes.axhline(100 * measured["bar"], color=INK, linewidth=1, linestyle=":")
    _token_ticks(axes, lengths)
    axes.set_ylim(-3, 103)
    axes.set(ylabel="found (%)", title="Retrieval by length")
    axes.legend(frameon=False, fontsize=9)


def _by_depth(axes: Any, lengths: list[dict[str, Any]]) -> None:
    depths = list(lengths[0]["depths"])
    shares = [[100 * entry["depths"][depth]["found"] for entry in lengths] for depth in depths]
    drawn = axes.imshow(shares, vmin=0, vmax=100, cmap="RdYlGn", aspect="auto")
    axes.figure.colorbar(drawn, ax=axes, label="found (%)")
    _token_ticks(axes, lengths)
    axes.set_yticks(range(len(depths)), depths)
    axes.set(ylabel="depth (%)", title="One needle by depth")


def _token_ticks(axes: Any, lengths: list[dict[str, Any]]) -> None:
    axes.set_xticks(range(len(lengths)), [f"{entry['tokens']:,}" for entry in lengths])
    axes.set_xlabel("tokens")


def _depth(axes: Any, figures: list[dict[str, Any]]) -> None:
    subjects = list(dict.fromkeys(figure["subject"] for figure in figures))
    depths = sorted({figure["at"] for figure in figures})
    colors = dict(zip(subjects, (OURS, *OTHERS)))
    for subject in subjects:
        points = sorted((depths.index(f["at"]), f["median"]) for f in figures if f["subject"] == subject)
        axes.plot(*zip(*points), color=colors.get(subject, INK), marker="o", markersize=4, label=name(subject))
    axes.set_xticks(range(len(depths)), [f"{d // 1024}K" if d and d % 1024 == 0 else str(d) for d in depths])
    axes.set_ylim(bottom=0)
    axes.set(xlabel="tokens in the cache", ylabel="tokens per second", title="Decode by depth")
    axes.grid(axis="y", alpha=0.25)
    axes.legend(frameon=False, fontsize=9)


def _ratios(axes: Any, figures: list[dict[str, Any]]) -> None:
    """Our median over each rival's; the first subject is ours."""
    ours = figures[0]["subject"]
    own = {(f["measure"], f["at"]): f["median"] for f in figures if f["subject"] == ours}
    bars = [(f, own[f["measure"], f["at"]] / f["median"]) for f in figures if f["subject"] != ours]
    labels = [f"{f['measure']} {f['at']} vs {name(f['subject'])}" for f, _ in bars]
    values = [value for _, value in bars]
    drawn = axes.barh(labels, values, height=0.6, color=[OURS if value >= 1 else OTHERS[1] for value in values])
    axes.bar_label(drawn, fmt="%.2f x", padding=3, fontsize=9, color=INK)
    axes.axvline(1, color=INK, linewidth=1)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.set(xlabel="our speed / the peer's", title="Beside the peer, in one run")
