"""The suites of `senryu bench`: from a name in the catalog to figures, and from figures to one JSON document."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from senryu.config import Settings
from senryu.evals import bandwidth, catalog, drafts, load, served, speed, startup
from senryu.evals.peers import PeerSubject
from senryu.evals.speed import EngineSubject, Figure
from senryu.model.program import choose_kv
from senryu.model.spec import ModelSpec


@dataclass(frozen=True, slots=True)
class Lab:
    """What is measured, and how much of it."""

    ours: EngineSubject
    spec: ModelSpec
    settings: Settings
    number_format: str
    """Of our weights: int8, int4, bf16 or fp32."""
    ref: str
    """The model's reference; `shape:NAME` for random weights, which have no tokenizer."""
    peers: Sequence[PeerSubject] = ()
    prompts: Sequence[int] = catalog.PROMPTS
    depths: Sequence[int] = catalog.DEPTHS
    ttft: Sequence[int] = catalog.TTFT
    tokens: int = 64
    rounds: int = 5
    say: Callable[[str], None] = field(default=lambda line: None)

    @property
    def subjects(self) -> list[speed.Subject]:
        return [self.ours, *self.peers]

    def fits(self, lengths: Sequence[int], more: int = 0) -> list[int]:
        """The lengths that the model has room for, `more` tokens behind each; the others are announced as left out."""
        most = self.ours.engine.max_context
        for length in lengths:
            if length + more + 1 > most:
                self.say(f"left out: {length} tokens; a request may hold {most} here")
        return [length for length in lengths if length + more + 1 <= most]


def _prefill(lab: Lab) -> list[Figure]:
    return [f for length in lab.fits(lab.prompts) for f in speed.prefill(lab.subjects, length, lab.rounds)]


def _decode(lab: Lab) -> list[Figure]:
    reads = bandwidth.Reads(lab.settings.threads)
    try:
        return speed.decode([lab.ours, reads, *lab.peers], lab.prompts[0], lab.tokens, lab.rounds)
    finally:
        reads.close()


def _batch(lab: Lab) -> list[Figure]:
    return speed.batch(lab.subjects, catalog.STREAMS, lab.tokens, lab.rounds)


def _depth(lab: Lab) -> list[Figure]:
    subjects: list[speed.Subject] = [lab.ours, *(deep for peer in lab.peers for deep in peer.deep())]
    return [f for at in lab.fits(lab.depths, lab.tokens) for f in speed.depth(subjects, at, lab.tokens, lab.rounds)]


def _ttft(lab: Lab) -> list[Figure]:
    return [f for length in lab.fits(lab.ttft) for f in load.ttft(lab.ours, length, lab.rounds)]


def _latency(lab: Lab) -> list[Figure]:
    return [
        f
        for length in lab.fits([catalog.BESIDE], load.lead(catalog.BESIDE))
        for f in load.latency(lab.ours, length, lab.rounds)
    ]


def _shared(lab: Lab) -> list[Figure]:
    return [f for length in lab.fits([catalog.SHARED], 80) for f in load.shared(lab.ours, length)]


def _drafts(lab: Lab) -> list[Figure]:
    tokens = catalog.DRAFTED * lab.tokens
    if not lab.fits([drafts.longest(tokens)], tokens):
        return []
    return drafts.measure(lab.ours.name, lab.ref, lab.settings, tokens, lab.rounds, lab.say)


def _start(lab: Lab) -> list[Figure]:
    return [startup.start_time(lab.ours.name, lab.ref, lab.settings, lab.rounds)]


def _server(lab: Lab) -> list[Figure]:
    return served.server_cost(lab.ours, lab.ref, lab.settings, lab.rounds)


def _cached(lab: Lab) -> list[Figure]:
    return [
        f
        for length in lab.fits([catalog.SHARED], 80)
        for f in served.cached_prefix(lab.ours.name, lab.ref, lab.settings, length, lab.rounds)
    ]


RUN: dict[str, Callable[[Lab], list[Figure]]] = {
    "memory": lambda lab: startup.memory(lab.ours, lab.spec, choose_kv(lab.settings.kv, lab.settings.kernels)),
    "prefill": _prefill,
    "decode": _decode,
    "batch": _batch,
    "depth": _depth,
    "ttft": _ttft,
    "latency": _latency,
    "start": _start,
    "server": _server,
    "cached": _cached,
    "shared": _shared,
    "drafts": _drafts,
}


def run_suites(lab: Lab, names: Sequence[str], facts: dict[str, Any]) -> dict[str, Any]:
    """The suites' figures, ratios and the yardstick, behind `facts` (machine, command, model) in one document."""
    figures: list[Figure] = []
    result = dict(facts)
    for name in names:
        lab.say(f"measuring {name} ...")
        figures += RUN[name](lab)
    if "decode" in names:
        reads = next(f for f in figures if f.subject == bandwidth.Reads.name)
        figures.remove(reads)
        decode = next(f for f in figures if f.measure == "decode" and f.subject == lab.ours.name)
        token = bandwidth.decode_bytes(lab.spec, lab.number_format) / 1e9
        share = statistics.median(rate * token / all for rate, all in zip(decode.rounds, reads.rounds))
        result["streaming_reads"] = {"gb_s": round(reads.median, 1), "decode_share": round(share, 3)}
    result["figures"] = [figure.facts() for figure in figures]
    if ratios := speed.ratios(figures, lab.ours.name, lab.number_format) | drafts.ratios(figures):
        result["ratios"] = ratios
    return result
