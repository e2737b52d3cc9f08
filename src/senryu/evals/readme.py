"""The README's speed tables, made from the JSON of `senryu bench`: no figure there is typed by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from senryu.evals.plot import name

BEGIN, END = "<!-- speed: made by `python -m senryu.evals readme`, do not edit -->", "<!-- end of speed -->"
LABELS = {  # measure -> the words of its row; {at} is the length, depth or count
    "prefill": "prefill of {at} tokens",
    "decode": "decode behind {at} tokens",
    "depth": "decode at depth {at}",
    "batch": "decode of {at} streams together",
    "ttft_cold": "first token of a new prompt of {at}",
    "ttft_warm": "first token of a prompt of {at}, the last eighth new",
    "ttft_cached": "first token of the same prompt of {at} again",
    "latency_p50": "time between tokens beside a prompt of {at}, median",
    "latency_p99": "time between tokens beside a prompt of {at}, 99th percentile",
    "start": "start until ready",
    "server_ttft_extra": "first token: server over bare engine",
    "ttft_written": "first token over HTTP, marked prefix of {at} tokens written to the prompt cache",
    "ttft_read": "first token over HTTP, marked prefix of {at} tokens read from the prompt cache",
    "server_cpu_per_token": "CPU of a streamed token: server over bare engine",
    "server_cpu_per_request": "CPU of a request for one token, in the server's main thread",
    "memory_resident": "memory in use",
    "memory_kv_pool": "K/V pool, all pages used",
    "memory_kv_1024_tokens": "K/V of 1,024 tokens",
    "shared_computed": "prompt tokens computed for two live requests with one prefix of {at}",
    "drafts_copy": "answer that copies a passage, with drafts",
    "plain_copy": "answer that copies a passage, without drafts",
    "drafts_edit": "answer that edits a passage, with drafts",
    "plain_edit": "answer that edits a passage, without drafts",
    "drafts_json": "answer in JSON, with drafts",
    "plain_json": "answer in JSON, without drafts",
    "drafts_free": "free text, with drafts",
    "plain_free": "free text, without drafts",
}


def section(document: dict[str, Any]) -> str:
    """A bench document as Markdown: one sentence on machine and command, then a row for each measurement."""
    machine, figures = document["machine"], document["figures"]
    subjects = list(dict.fromkeys(figure["subject"] for figure in figures))
    cells = {(f["measure"], f["at"], f["subject"]): f"{f['median']:,g} {f['unit']}" for f in figures}
    medians = {(f["measure"], f["at"], f["subject"]): f["median"] for f in figures if f["unit"] == "tok/s"}
    ours, *rivals = subjects
    heads = [document["model"], *map(name, subjects), *(["ratio"] if rivals else [])]
    rows = [heads, ["---"] * len(heads)]
    for measure, at in dict.fromkeys((f["measure"], f["at"]) for f in figures):
        row = [LABELS[measure].format(at=at and f"{at:,}"), *(cells.get((measure, at, s), "") for s in subjects)]
        if rivals:
            own = medians.get((measure, at, ours))
            others = [medians[measure, at, r] for r in rivals if (measure, at, r) in medians]
            row.append(", ".join(f"{own / other:.1f} x" for other in others) if own else "")
        rows.append(row)
    if "streaming_reads" in document:
        reads = document["streaming_reads"]
        share = f"{reads['decode_share']:.0%} of {reads['gb_s']:g} GB/s"
        rows.append(["decode's share of streaming reads", share, *[""] * (len(heads) - 2)])
    taken = ("one round" if document["rounds"] == 1 else f"medians of {document['rounds']} rounds") + (
        ", all sides in turns in one run" if rivals else ""
    )
    intro = f"{machine['cpu']}, {machine['threads']} threads, {machine['kernels']} kernels, {machine['date']}, {taken}:"
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"{intro}\n\n```\n{document['command']}\n```\n\n{table}\n"


def refreshed(readme: str, documents: Sequence[dict[str, Any]]) -> str:
    """The README with these documents between its markers. Raises ValueError when it has no markers."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the README has no lines `{BEGIN}` and `{END}`")
    return f"{before}{BEGIN}\n\n" + "\n".join(section(document) for document in documents) + f"\n{END}{after}"


def refresh(readme: Path, files: Sequence[Path]) -> None:
    """Write the README anew from the JSON files, in this order."""
    documents = [json.loads(file.read_text(encoding="utf8")) for file in files]
    readme.write_text(refreshed(readme.read_text(encoding="utf8"), documents), encoding="utf8")
