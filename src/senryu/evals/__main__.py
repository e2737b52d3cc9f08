"""`python -m senryu.evals measure|needles|stages|refusals|card|agreement|readme`: figures of models, cards, tables."""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from senryu.config import Settings, load_settings
from senryu.evals import agreement, card, generated, labels, needles, ngram, perplexity, plot, readme, refusals, stages, tasks
from senryu.model.hub import resolve
from senryu.model.program import Program
from senryu.model.spec import load_spec
from senryu.model.tokenizer import load_tokenizer
from senryu.model.weights import load_weights
from senryu.service.registry import LoadedModel, load_model

# The first turns of three conversations; the model answers each user turn greedily.
OPENINGS = (
    ("Hello!", "What can you do?", "Thanks, bye"),
    ("Hi, I am Maria. Who are you?", "What is the weather in Rome?", "What is my name?"),
    ('What does "quiet" mean?', "Who won the World Cup in 2018?", "Summarize this"),
)


async def _talk(model: LoadedModel, turns: Sequence[str]) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    for text in turns:
        messages.append({"role": "user", "content": text})
        messages.append({"role": "assistant", "content": await labels.answer(model, messages, 96)})
    return messages


async def _by_engine(
    settings: Settings, folder: Path, data: Path, limit: int | None, made: int, needle_chars: Sequence[int]
) -> dict[str, Any]:
    model = load_model(settings, f"path:{folder}")
    try:
        results = await labels.measure(model, data, limit)
        answers = tasks.Answers(model, settings)
        done = await tasks.measure(answers, data, limit)
        fresh = await generated.measure(answers, made, needle_chars)
        declined = await refusals.measure(answers, made)
        talks = [await _talk(model, turns) for turns in OPENINGS]
        return {"labels": results, "tasks": done, "generated": fresh, "refusals": declined, "dialogues": talks}
    finally:
        await model.engine.close()


def measure(
    run: Path, data: Path, held_out_bytes: int, limit: int | None, made: int, needle_chars: Sequence[int]
) -> dict[str, Any]:
    """Everything the card says about RUN/model, measured now. made: rows of each generated task."""
    settings = load_settings()
    result = asyncio.run(_by_engine(settings, run / "model", data, limit, made, needle_chars))
    documents = perplexity.read_held_out(run / "data" / "held_out.jsonl.xz", load_tokenizer(run / "model"), held_out_bytes)
    vocab = load_spec(run / "model").vocab
    order = ngram.longest(vocab)
    rows = np.load(run / "data" / "pretrain.npy", mmap_mode="r")
    seen = rows.reshape(-1)[: card.read(run / "pretrain" / "summary.json")["tokens"]]
    bits = {
        "model": perplexity.bits_per_byte(documents, perplexity.model_nats(run / "model")),
        "ngram": perplexity.bits_per_byte(documents, perplexity.ngram_nats(seen, order, vocab)),
    }
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "engine": "Senryu's int8 CPU engine" if settings.kernels not in ("numpy", "fp32") else f"the {settings.kernels} path",
        "sequence": max(_row_length(run / "data" / f"{name}.npy") for name in ("pretrain", "sft", "long")),
        "held_out_bytes": sum(d.size for d in documents),
        "ngram_tokens": len(seen),
        "ngram_order": order,
        "prepared": card.read(run / "data" / "pretrain.json"),
        "bits_per_byte": bits,
        **result,
    }


def _row_length(path: Path) -> int:
    """Tokens of a row of packed data; 0 where there is none."""
    return int(np.load(path, mmap_mode="r").shape[1]) if path.exists() else 0


def compare(ref: str, files: Sequence[Path], per_file: int, variants: Sequence[str], kernels: str | None) -> dict[str, Any]:
    """What the engine's formats cost against the fp32 definition over texts, each opened as a document."""
    settings = load_settings(kernels=kernels)
    model = resolve(ref, settings.home)
    spec, weights, tokenizer = load_spec(model.path), load_weights(model.path), load_tokenizer(model.path)
    fixed: dict[str, Any] = {"pages": agreement.MOST // Program.page_size, "max_sequences": agreement.CHUNK}
    fixed |= {"kernels": settings.kernels, "cache_dir": settings.kernel_cache, "weights_dir": settings.weight_cache}
    opening = [spec.bos_id] if spec.bos_id is not None else []
    ids = (np.array([*opening, *tokenizer.encode(t)]) for file in files for t in agreement.read_texts(file, per_file))
    programs: dict[str, Program] = {}
    try:
        for name in variants:
            programs[name] = Program(spec, weights, **fixed, **agreement.VARIANTS[name])
        found = agreement.agreement(spec, weights.to_float32(), programs, (text for text in ids if len(text) > 1))
    finally:
        for program in programs.values():
            program.close()
    first = next(iter(found.values()))
    result: dict[str, Any] = {"tokens": first.tokens, "fp32": {"perplexity": round(first.exact_perplexity, 4)}}
    for name, a in found.items():
        figures = {"perplexity": round(a.perplexity, 4), "delta_percent": round(a.delta, 3)}
        result[name] = figures | {"same_next_token": round(a.share, 4), "kl_nats": round(a.kl, 5)}
    return result


def _needles(ref: str, lengths: Sequence[int], texts: int, out: Path, picture: Path | None) -> None:
    """Measure, write the JSON and the picture, print the table."""
    if picture is not None:
        plot.require_matplotlib()  # before minutes of measuring
    try:
        found = needles.run(load_settings(), ref, lengths, texts)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None
    out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf8")
    if picture is not None:
        plot.draw_needles(found, picture)
    print(f"\n{needles.table(found)}\n\n{needles.sentence(found)}")


def _refusals(refs: Sequence[str], pairs: int, out: Path) -> None:
    """Measure, write the JSON, print the table and what the comparisons say."""
    try:
        found = refusals.run(load_settings(), refs, pairs)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None
    out.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", encoding="utf8")
    print("\n\n".join((refusals.table(found), *refusals.verdicts(found))))


def _stages(run: Path, data: Path | None, out: Path, figures: Path | None, rows: int, held_out_bytes: int) -> None:
    """Measure every stage of a run and write the page, and the JSON beside it."""
    found = stages.measure(run, load_settings(), rows, held_out_bytes, data)
    (figures or run / "stages.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf8")
    bundle = " --data DATA" if data else ""
    command = f"python -m senryu.evals stages RUN{bundle} --out {out} --rows {rows} --held-out-bytes {held_out_bytes}"
    out.write_text(stages.page(found, command), encoding="utf8")
    print(stages.table(found))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="python -m senryu.evals", description="Measure a trained model and write its card.")
    verbs = top.add_subparsers(dest="verb", required=True)
    for verb, text in (("measure", "measure RUN/model"), ("card", "write MODEL_CARD.md and ATTRIBUTION.md")):
        command = verbs.add_parser(verb, help=text, description=text)
        command.add_argument("--run", type=Path, required=True, help="folder of the training run")
        command.add_argument("--data", type=Path, required=True, help="folder of the data bundle")
        if verb == "measure":
            command.add_argument("--out", type=Path, required=True, help="JSON file to write")
            command.add_argument("--held-out-bytes", type=int, default=120_000, help="of each file, at least")
            command.add_argument("--limit", type=int, help="rows per label task, a seeded sample; all by default")
            command.add_argument("--generated", type=int, default=200, metavar="N", help="rows of each generated task")
            lengths: dict[str, Any] = {"type": int, "nargs": "+", "metavar": "N", "default": generated.NEEDLE_CHARS}
            command.add_argument("--needle-chars", **lengths, help="characters of the texts that hide a needle")
        else:
            command.add_argument("--measured", type=Path, required=True, help="JSON file that measure wrote")
            command.add_argument("--needles", type=Path, help="JSON file that needles wrote, for the needle curve")
            command.add_argument("--to", type=Path, required=True, help="folder of the model")
    _add_comparisons(verbs)
    return top


def _add_comparisons(verbs: Any) -> None:
    """Commands beside measuring and the card."""
    command = verbs.add_parser("agreement", help="perplexity and next tokens of number formats against the fp32 definition")
    command.add_argument("--model", default="mini", help="mini, path:DIR or hf:ORG/REPO")
    command.add_argument("--data", type=Path, help="folder of the data bundle: the texts of its eval/ are taken")
    command.add_argument("--text", type=Path, nargs="+", default=[], help="files of text, or .jsonl.xz rows, to take")
    command.add_argument("--per-file", type=int, default=100, help="rows of each .jsonl.xz file")
    names = list(agreement.VARIANTS)
    command.add_argument("--formats", nargs="+", choices=names, default=names, metavar="FORMAT", help=" ".join(names))
    command.add_argument("--kernels", help="auto, numpy or an instruction set, as in config.toml")
    command = verbs.add_parser("needles", help="what the model finds in long texts, by length and depth")
    command.add_argument("--model", default="mini", help="mini, path:DIR or hf:ORG/REPO")
    command.add_argument(
        "--tokens", type=int, nargs="+", default=needles.LENGTHS, metavar="N", help="prompt and answer together"
    )
    command.add_argument(
        "--rows", type=int, default=1, metavar="N", help="texts of each length; 19 questions are asked over each"
    )
    command.add_argument("--out", type=Path, required=True, help="JSON file to write")
    command.add_argument("--plot", type=Path, help="PNG to draw the curve into")
    command = verbs.add_parser(
        "refusals", help="unsafe requests declined, benign twins answered, collapse; models side by side"
    )
    command.add_argument("--model", default="mini", help="mini, path:DIR or hf:ORG/REPO")
    command.add_argument(
        "--against", nargs="+", default=[], metavar="REF", help="models that it is compared with, prompt by prompt"
    )
    command.add_argument("--pairs", type=int, default=refusals.PAIRS, metavar="N", help="pairs of requests")
    command.add_argument("--out", type=Path, required=True, help="JSON file to write, answers included")
    command = verbs.add_parser("stages", help="what each stage of a run did to each figure, as a page")
    command.add_argument("run", type=Path, metavar="RUN", help="folder of the training run")
    command.add_argument("--data", type=Path, help="folder of the data bundle: labels, receipts and orders are measured too")
    command.add_argument("--out", type=Path, required=True, help="Markdown file to write")
    command.add_argument("--json", type=Path, help="JSON file to write [RUN/stages.json]")
    command.add_argument("--rows", type=int, default=100, metavar="N", help="rows of each task")
    command.add_argument("--held-out-bytes", type=int, default=30_000, help="of each held-out file, at least")
    command = verbs.add_parser("readme", help="the README's speed tables from the JSON of `senryu bench`")
    command.add_argument("files", type=Path, nargs="+", metavar="FILE.json", help="what `senryu bench --json` printed")
    command.add_argument("--readme", type=Path, default=Path("README.md"), help="the file to refresh")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command."""
    top = parser()
    args = top.parse_args(arguments)
    if args.verb == "readme":
        readme.refresh(args.readme, args.files)
    elif args.verb == "stages":
        _stages(args.run, args.data, args.out, args.json, args.rows, args.held_out_bytes)
    elif args.verb == "needles":
        _needles(args.model, args.tokens, args.rows, args.out, args.plot)
    elif args.verb == "refusals":
        _refusals([args.model, *args.against], args.pairs, args.out)
    elif args.verb == "agreement":
        texts = [*args.text, *(sorted((args.data / "eval").glob("*.jsonl.xz")) if args.data else [])]
        if not texts:
            top.error("agreement needs texts: --data DIR or --text FILE")
        print(json.dumps(compare(args.model, texts, args.per_file, args.formats, args.kernels), indent=2))
    elif args.verb == "measure":
        result = measure(args.run, args.data, args.held_out_bytes, args.limit, args.generated, args.needle_chars)
        args.out.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf8")
    else:
        found = {"needles": card.read(args.needles)} if args.needles else {}
        card.write(args.run, args.data, card.read(args.measured) | found, args.to)


if __name__ == "__main__":
    main()
