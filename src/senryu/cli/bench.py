"""`senryu bench`: how fast a model runs on this machine, alone or in turns with a peer."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from senryu.cli.output import CompileProgress, Weights, print_json, print_table, say


def bench(
    model: Annotated[str, typer.Option("--model", "-m", help="nano, path:DIR or hf:ORG/REPO")] = "nano",
    shape: Annotated[str | None, typer.Option(help="Random weights of a shape instead: tiny, 0.3b or 1.1b.")] = None,
    prompt: Annotated[int, typer.Option(min=1, help="Tokens to prefill.")] = 512,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens to decode after them.")] = 64,
    rounds: Annotated[int, typer.Option(min=1, help="Measured rounds; medians are shown.")] = 5,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads; all cores by default.", show_default=False)] = None,
    weights: Weights = None,
    peer: Annotated[str | None, typer.Option(help="Measure a peer in turns, same shape: llama.cpp (needs --shape).")] = None,
    peer_python: Annotated[str | None, typer.Option(help="The Python that has llama-cpp-python and gguf.")] = None,
    quant: Annotated[str, typer.Option(help="The peer's number format: q8_0, q4_0 or q4_k_m.")] = "q8_0",
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure prefill, decode and time to first token. Run it on an idle machine."""
    from senryu.cli.doctor import machine
    from senryu.config import load_settings
    from senryu.evals.speed import EngineSubject, LlamaCppSubject, Subject, measure
    from senryu.service.registry import load_engine

    if peer is not None and (peer != "llama.cpp" or shape is None or peer_python is None):
        say("senryu bench: a peer needs a random shape and its Python: --peer llama.cpp --shape 0.3b --peer-python PATH")
        raise typer.Exit(2)
    # without drafts: random prompts are answered with repetitions, and those would be drafted
    settings = load_settings(threads=threads, weights=weights, drafts=False)
    spec, engine = load_engine(settings, f"shape:{shape}" if shape else model, progress=CompileProgress())
    name = f"senryu {settings.weights} ({shape or model})"
    ours = EngineSubject(name, engine, spec.vocab)
    subjects: list[Subject] = [ours]
    try:
        if peer is not None and peer_python is not None:
            dims = {
                "hidden": spec.hidden,
                "layers": len(spec.layers),
                "heads": spec.heads,
                "kv_heads": spec.kv_heads,
                "head_dim": spec.head_dim,
                "ffn": spec.ffn,
                "vocab": spec.vocab,
            }
            subjects.append(LlamaCppSubject(peer_python, dims, quant, settings.threads, settings.home / "cache" / "peers"))
        speeds = measure(subjects, prompt, tokens, rounds)
        cold, cached = ours.cached(prompt)
    finally:
        for subject in subjects:
            subject.close()
    result: dict[str, Any] = {
        "machine": machine(settings),
        "command": "senryu " + " ".join(sys.argv[1:]),
        "prompt": prompt,
        "tokens": tokens,
        "speeds": [
            {"name": s.name, "prefill_tok_s": round(s.prefill, 1), "decode_tok_s": round(s.decode, 1), "rounds": s.rounds}
            for s in speeds
        ],
        "ttft_ms": {"cold": round(cold * 1e3, 2), "cached": round(cached * 1e3, 2)},
    }
    if len(speeds) == 2:
        ratios = {"prefill": speeds[0].prefill / speeds[1].prefill, "decode": speeds[0].decode / speeds[1].decode}
        result["ratios"] = {f"{key}_{settings.weights}": round(value, 2) for key, value in ratios.items()}
    if json:
        print_json(result)
        return
    rows = [[s.name, f"{s.prefill:.1f}", f"{s.decode:.1f}"] for s in speeds]
    if "ratios" in result:
        rows.append(["ratio", *(f"{value:.2f}x" for value in result["ratios"].values())])
    print_table(("", f"prefill {prompt} tok/s", f"decode {tokens} tok/s"), rows)
    say(f"time to first token of {prompt}: {cold * 1e3:.1f} ms cold, {cached * 1e3:.1f} ms cached")
