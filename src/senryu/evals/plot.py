"""A picture of a bench document: decode speed by depth, and the ratios to the peers. The only file that imports matplotlib."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from senryu.errors import SenryuError

INK, OURS = "#333333", "#c0392b"
OTHERS = ("#2c6e9b", "#7f8c8d", "#b8860b", "#5b8c5a")
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
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    picture = Figure(figsize=(6.4 * len(drawn), 4.2), dpi=150, layout="constrained")
    FigureCanvasAgg(picture)
    for i, (part, data) in enumerate(drawn, 1):
        axes = picture.add_subplot(1, len(drawn), i)
        part(axes, data)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    machine = document["machine"]
    picture.suptitle(
        f"{document['model']}, {document['weights']}: {machine['cpu']}, {machine['threads']} threads, {machine['date']}",
        fontsize=10,
        color=INK,
    )
    picture.savefig(path, format="png")


def name(subject: str) -> str:
    """How a subject is called for people: "Senryu int8", "llama.cpp Q8_0"."""
    first, _, rest = subject.partition(" ")
    return f"{NAMES.get(first, first)} {rest}".strip()


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
