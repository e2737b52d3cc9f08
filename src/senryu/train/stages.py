"""The two stages of a model, each one command: pretraining (data, tokenizer, net) and fine-tuning (with the export).

A run's folder holds: `data/` (tokenizer, packed rows, what they were made of, held-out documents), `pretrain/` and
`sft/` (checkpoints, logs) and `model/` (the exported model).
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from senryu.train import data
from senryu.train.checkpoint import Progress, load_weights
from senryu.train.export import export
from senryu.train.loop import RunOptions, run_stage
from senryu.train.net import Net
from senryu.train.objective import PackedRows
from senryu.train.parallel import first_alone
from senryu.train.recipe import Recipe, RecipeError
from senryu.train.vocabulary import train_tokenizer, write_tokenizer


def prepare_pretraining(recipe: Recipe, bundle: Path, out: Path) -> None:
    """Tokenizer, packed rows and held-out documents, unless this run's folder has them already."""
    folder = out / "data"
    if (folder / "pretrain.npy").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(data.sample_texts(recipe, bundle), recipe.tokenizer.vocab_size)
    write_tokenizer(tokenizer, folder, recipe.net.max_position_embeddings)
    data.write_held_out(recipe, bundle, folder / "held_out.jsonl.xz")
    prepared = data.prepare(recipe.pretrain, recipe, bundle, tokenizer, whole=False)
    _write_json(folder / "pretrain.json", prepared.tokens)
    np.save(folder / "pretrain.npy", prepared.rows)


def pretrain(recipe: Recipe, bundle: Path, options: RunOptions) -> Progress:
    """Data and tokenizer where missing, then pretraining from seeded weights into `out`/pretrain."""
    out = options.out
    with first_alone(options.part):
        prepare_pretraining(recipe, bundle, out)
    torch.manual_seed(recipe.seed)
    net = Net(recipe.net)
    net.initialise(recipe.seed)
    rows = np.load(out / "data" / "pretrain.npy", mmap_mode="r")
    return _run(net, rows, recipe, "pretrain", options)


def finetune(recipe: Recipe, bundle: Path, options: RunOptions) -> Progress:
    """Fine-tuning from `out`/pretrain/last.pt with assistant-only loss into `out`/sft, then the export to `out`/model."""
    out = options.out
    start = out / "pretrain" / "last.pt"
    if not start.exists():
        raise RecipeError(f"{start} does not exist; run `python -m senryu.train pretrain` with the same --out first")
    tokenizer = Tokenizer.from_file(str(out / "data" / "tokenizer.json"))
    with first_alone(options.part):
        if not (out / "data" / "sft.npy").exists():
            prepared = data.prepare(recipe.sft, recipe, bundle, tokenizer, whole=True)
            _write_json(out / "data" / "sft.json", prepared.tokens)
            np.save(out / "data" / "sft.npy", prepared.rows)
    torch.manual_seed(recipe.seed + 1)
    net = Net(recipe.net)
    load_weights(start, net)
    progress = _run(net, np.load(out / "data" / "sft.npy", mmap_mode="r"), recipe, "sft", options)
    if options.part.rank == 0:
        export(net, out / "data", out / "model")
    return progress


def _run(net: Net, rows: np.ndarray, recipe: Recipe, name: str, options: RunOptions) -> Progress:
    stage = recipe.pretrain if name == "pretrain" else recipe.sft
    began = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    progress = run_stage(net, PackedRows(rows, stage, name == "sft"), stage, replace(options, out=options.out / name))
    if options.part.rank > 0:
        return progress
    summary = {
        "recipe": recipe.name,
        "seed": recipe.seed,
        "parameters": sum(p.numel() for p in net.parameters()),
        "device": options.device.name,
        "dtype": str(options.device.dtype).removeprefix("torch."),
        "processes": options.part.world,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "began": began,
        **asdict(progress),
    }
    _write_json(options.out / name / "summary.json", summary)
    return progress


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf8")
