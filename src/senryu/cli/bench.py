"""`senryu bench`: how fast a model runs on this machine, alone or in turns with a peer."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, NoReturn

import typer

from senryu.cli.output import CompileProgress, Kv, Weights, print_json, print_table, say
from senryu.evals import catalog

if TYPE_CHECKING:
    from senryu.config import Settings

HELP = f"""Measure speed, memory and start. Run it on an idle machine; without options it takes half a minute.

\b
Suites (minutes for the bundled model / the 0.3b shape):
{catalog.help_text()}
  {"all":9}all of them
"""


def bench(
    model: Annotated[str, typer.Option("--model", "-m", help="mini, path:DIR or hf:ORG/REPO")] = "mini",
    shape: Annotated[str | None, typer.Option(help="Random weights of a shape instead: tiny, 0.3b or 1.1b.")] = None,
    suite: Annotated[
        str | None,
        typer.Option(
            help="Suites to run, e.g. decode,depth; by default prefill, decode and ttft of 512 tokens.",
            show_default=False,
        ),
    ] = None,
    prompt: Annotated[str | None, typer.Option(help="Tokens to read, e.g. 512,4096.", show_default=False)] = None,
    depth: Annotated[str | None, typer.Option(help="Depths to write at, e.g. 0,1024.", show_default=False)] = None,
    tokens: Annotated[int, typer.Option(min=2, help="Tokens to decode.")] = 64,
    rounds: Annotated[int, typer.Option(min=1, help="Measured rounds; medians are shown.")] = 5,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads; all cores by default.", show_default=False)] = None,
    weights: Weights = None,
    kv: Kv = None,
    peer: Annotated[
        str | None,
        typer.Option(help="Measure a peer in turns, on a random Llama of the same sizes: llama.cpp, openvino or ctranslate2."),
    ] = None,
    peer_python: Annotated[str | None, typer.Option(help="The Python that has the peer's packages.")] = None,
    quant: Annotated[
        str | None, typer.Option(help="The peer's formats, e.g. q4_0,q4_k_m; by default what compares with ours.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw decode by depth and the ratios into this PNG.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """See HELP."""
    names = _suites(suite, shape)
    lengths, depths = _counts("--prompt", prompt, 1), _counts("--depth", depth, 0)
    rival = _rival(peer, peer_python, quant)
    if plot is not None and "depth" not in names and rival is None:
        _refuse("a plot shows decode by depth and ratios to a peer; add --suite depth, or --peer llama.cpp with --shape 0.3b")
    from senryu.config import load_settings
    from senryu.evals.plot import draw, require_matplotlib

    if plot is not None:
        require_matplotlib()  # before minutes of measuring
    if lengths is None and suite is None:
        lengths = [catalog.PROMPTS[0]]
    sizes = {"prompts": lengths, "ttft": lengths, "depths": depths}
    chosen = {name: values for name, values in sizes.items() if values is not None}
    # without drafts, but where they are what is measured: random prompts are answered with repetitions, and those are drafted
    settings = load_settings(threads=threads, weights=weights, kv=kv, drafts=False, kv_spill_gb=0)
    result = _measure(settings, shape, model, names, rival, {**chosen, "tokens": tokens, "rounds": rounds})
    if plot is not None:
        draw(result, plot)
    if json:
        print_json(result)
    else:
        _show(result)


def _suites(wanted: str | None, shape: str | None) -> list[str]:
    """The suites to run, in the catalog's order."""
    if wanted is None:
        return list(catalog.QUICK)
    names = [name.strip() for name in wanted.split(",")]
    for name in names:
        if name != "all" and name not in catalog.SUITES:
            _refuse(f"there is no suite {name!r}; choose from {', '.join(catalog.SUITES)}, all")
    chosen = [name for name in catalog.SUITES if name in names or "all" in names]
    served = [name for name in chosen if catalog.SUITES[name].served]
    if shape is None or not served:
        return chosen
    if "all" not in names:
        _refuse(f"{', '.join(served)} would serve the model, and random weights have no tokenizer; use --model, not --shape")
    say(f"left out: {', '.join(served)}; random weights have no tokenizer to serve")
    return [name for name in chosen if name not in served]


def _counts(option: str, text: str | None, least: int) -> list[int] | None:
    """The whole numbers of a list, `least` or more each."""
    if text is None:
        return None
    counts = [int(part) if part.strip().isdecimal() else -1 for part in text.split(",")]
    if min(counts) < least:
        _refuse(f"{option} is {text!r}, not whole numbers of at least {least}; e.g. {option} 512,4096")
    return counts


def _rival(peer: str | None, python: str | None, quant: str | None) -> Rival | None:
    """The peer to measure beside us, if any."""
    if peer is None:
        if python or quant:
            _refuse("--peer-python and --quant are about a peer; add --peer llama.cpp --shape 0.3b")
        return None
    if peer not in catalog.RIVALS:
        _refuse(f"there is no peer {peer!r}; choose {' or '.join(catalog.RIVALS)}")
    if python is None:
        _refuse(f"a peer needs its own Python: --peer {peer} --peer-python PATH")
    known = list(dict.fromkeys(name for formats in catalog.RIVALS[peer].values() for name in formats))
    formats = tuple(part.strip() for part in quant.split(",")) if quant else ()
    for name in formats:
        if name not in known:
            _refuse(f"{peer} is not measured in {name!r}; choose --quant from {', '.join(known)}")
    return Rival(peer, python, formats)


class Rival(NamedTuple):
    """A peer, its Python, and the formats to measure; none means those that compare with ours."""

    peer: str
    python: str
    formats: tuple[str, ...]


def _measure(
    settings: Settings, shape: str | None, model: str, names: Sequence[str], rival: Rival | None, sizes: dict[str, Any]
) -> dict[str, Any]:
    """Load the model, start the peers, run the suites. sizes: fields of `Lab`."""
    from senryu.cli.doctor import machine
    from senryu.evals.peers import PeerSubject, start_peers
    from senryu.evals.speed import EngineSubject, Subject
    from senryu.evals.suites import Lab, run_suites
    from senryu.service.registry import load_engine

    weights = "fp32" if settings.kernels == "fp32" else settings.weights
    formats = rival and (rival.formats or catalog.RIVALS[rival.peer].get(weights))
    if rival and not formats:
        _refuse(f"{rival.peer} has nothing that compares with {weights}; name its formats with --quant")
    ref = f"shape:{shape}" if shape else model
    spec, engine = load_engine(settings, ref, progress=CompileProgress())
    ours = EngineSubject(_label(settings), engine, spec.vocab)
    subjects: list[Subject] = [ours]
    peers: list[PeerSubject] = []
    try:
        most = engine.max_context - sizes["tokens"] - 1
        if too_long := [n for n in (*sizes.get("prompts", ()), *sizes.get("depths", ())) if n > most]:
            _refuse(f"{max(too_long)} tokens and those behind them are more than a request may hold here; take at most {most}")
        if rival and formats:
            cache = settings.home / "cache" / "peers"
            peers = start_peers(rival.peer, rival.python, spec, formats, settings.threads, cache)
            subjects += peers
        lab = Lab(ours, spec, settings, weights, ref, peers, say=say, **sizes)
        facts = {
            "machine": machine(settings),
            "command": shlex.join(["senryu", *("PATH" if rival and word == rival.python else word for word in sys.argv[1:])]),
            "model": shape or model,
            "weights": weights,
            "rounds": lab.rounds,
        }
        return run_suites(lab, names, facts)
    finally:
        for subject in subjects:
            subject.close()


def _label(settings: Settings) -> str:
    """Us, in which number formats."""
    if settings.kernels == "fp32":
        return "senryu fp32"
    return f"senryu {settings.weights}" + ("" if settings.kv == "int8" else f", {settings.kv} K/V")


def _show(result: dict[str, Any]) -> None:
    """One row a measurement, one column a subject."""
    figures = result["figures"]
    subjects = list(dict.fromkeys(figure["subject"] for figure in figures))
    cells = {(f["measure"], f["at"], f["subject"]): f"{f['median']:g} {f['unit']}" for f in figures}
    rows = [
        [measure.replace("_", " "), "" if at is None else at, *(cells.get((measure, at, subject), "") for subject in subjects)]
        for measure, at in dict.fromkeys((f["measure"], f["at"]) for f in figures)
    ]
    print_table(("", "at", *subjects), rows)
    if ratios := result.get("ratios"):
        print_table(
            ("ours / the peer's, with drafts / without", ""), [[key, f"{value:.2f} x"] for key, value in ratios.items()]
        )
    if reads := result.get("streaming_reads"):
        say(f"decode reads its weights at {reads['decode_share']:.0%} of {reads['gb_s']:g} GB/s of streaming reads")


def _refuse(why: str) -> NoReturn:
    say(f"senryu bench: {why}")
    raise typer.Exit(2)
