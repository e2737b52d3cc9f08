"""The stages of a run, one table: what each prepares and trains on. One function runs any of them, one runs them all.

A run's folder holds: `recipe.toml`, `data/` (tokenizer, packed rows, what they were made of, held-out documents), a folder
for each stage (checkpoints, log, summary) and `model/` (the export of the latest stage).
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

from senryu.train import data, manifest, preference, reward
from senryu.train.checkpoint import Progress, load_weights
from senryu.train.export import export
from senryu.train.loop import RunOptions, run_stage
from senryu.train.mix import Mix
from senryu.train.net import Net
from senryu.train.objective import Objective, PackedRows
from senryu.train.parallel import first_alone
from senryu.train.recipe import STAGES, Recipe, RecipeError, StageRecipe, load_recipe, recipe_text
from senryu.train.sources import Places
from senryu.train.start import load_folder, starting_from, take_tokenizer
from senryu.train.vocabulary import train_tokenizer, write_tokenizer

PREFERENCE = ("reward", "dpo", "rl")


@dataclass(frozen=True)
class Run:
    """A training run: what (the recipe), from which data, where and how (the options; their `out` is the run's folder).

    start: the stage, or the folder with a model, that the next stage starts from; None: the stage before it.
    downloads: where files from public addresses are kept.
    """

    recipe: Recipe
    data: Path
    options: RunOptions
    start: str | Path | None = None
    downloads: Path | None = None

    @property
    def places(self) -> Places:
        return Places(self.data, self.downloads, self.out / "data")

    @property
    def out(self) -> Path:
        return self.options.out

    def stage(self, name: str) -> StageRecipe:
        """Raises RecipeError when the recipe has no such stage."""
        stage = self.recipe.stages.get(name)
        if stage is None:
            raise RecipeError(f"recipe {self.recipe.name} has no [{name}]; add it, as recipes/toy.toml shows")
        return stage


@dataclass(frozen=True)
class Stage:
    """One stage: how its data is made where it is missing, its objective, and whether its weights are the model's.

    net: what is trained, from the weights that the stage starts with. measure: what the summary says beside. one_shape: whether
    all batches have one, so that compiling pays.
    """

    prepare: Callable[[Run], None] | None
    objective: Callable[[Run, Net], Objective]
    passes_on: bool = True
    net: Callable[[Net], Net] = lambda net: net
    measure: Callable[[Run, Net], dict[str, Any]] = lambda run, net: {}
    one_shape: bool = True


def _prepare_pretraining(run: Run) -> None:
    recipe, folder = run.recipe, run.out / "data"
    folder.mkdir(parents=True, exist_ok=True)
    with Mix(recipe.pretrain.mix, recipe, run.places) as mix:
        if not (folder / "tokenizer.json").exists():
            tokenizer = train_tokenizer(data.sample_texts(mix, recipe), recipe.tokenizer.vocab_size)
            write_tokenizer(tokenizer, folder, recipe.net.max_position_embeddings)
        data.write_held_out(mix, folder / "held_out.jsonl.xz")
        _write_rows(run, "pretrain", mix, "stream")


def _prepare(run: Run, name: str, how: data.Packing) -> None:
    """Packed rows of the stage's mix."""
    held_out = run.out / "data" / "held_out.jsonl.xz"
    with Mix(run.stage(name).mix, run.recipe, run.places, held_out if held_out.exists() else None) as mix:
        _write_rows(run, name, mix, how)


def _write_rows(run: Run, name: str, mix: Mix, how: data.Packing) -> None:
    """A mix's rows and what they were made of."""
    folder = run.out / "data"
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    prepared = data.pack(mix, run.stage(name), run.recipe, tokenizer, how)
    manifest.write(folder / "manifest.json", run.recipe, name, prepared.entries)
    part = folder / f"{name}.part"
    with part.open("wb") as file:
        np.save(file, prepared.rows)
    os.replace(part, folder / f"{name}.npy")
    _write_json(folder / f"{name}.json", prepared.tokens)  # the last: it says that the data is there


def _rows(run: Run, name: str, *, assistant_only: bool) -> Objective:
    return PackedRows(np.load(run.out / "data" / f"{name}.npy", mmap_mode="r"), run.stage(name), assistant_only)


def _pairs(run: Run, net: Net) -> Objective:
    writes = run.options.part.rank == 0
    return preference.pairs(run.stage("dpo"), run.out, net, run.options.device, writes=writes)


def _measure(run: Run, net: Net, name: str) -> dict[str, Any]:
    return preference.measure(name, run.stage(name), run.out, net, run.options.device)


STAGE_TABLE: dict[str, Stage] = {
    "pretrain": Stage(_prepare_pretraining, lambda run, _: _rows(run, "pretrain", assistant_only=False)),
    "sft": Stage(lambda run: _prepare(run, "sft", "whole"), lambda run, _: _rows(run, "sft", assistant_only=True)),
    "long": Stage(lambda run: _prepare(run, "long", "joined"), lambda run, _: _rows(run, "long", assistant_only=True)),
    "reward": Stage(
        lambda run: preference.prepare_pairs("reward", run.recipe, run.data, run.out),
        lambda run, _: preference.comparisons(run.stage("reward"), run.out),
        passes_on=False,
        net=reward.from_net,
        measure=lambda run, net: _measure(run, net, "reward"),
    ),
    "dpo": Stage(
        lambda run: preference.prepare_pairs("dpo", run.recipe, run.data, run.out),
        _pairs,
        measure=lambda run, net: _measure(run, net, "dpo"),
    ),
    "rl": Stage(
        None,
        lambda run, net: preference.rollouts(run.recipe, run.data, run.out, net, run.options.device),
        one_shape=False,
    ),
}


def train(run: Run, name: str) -> Progress:
    """Run one stage into `out`/NAME and export what came out to `out`/model. The time its data takes counts in its budget.

    Raises RecipeError when there is nothing to start from, or an unfinished run that would be lost.
    """
    stage, began, clock = run.stage(name), time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), time.monotonic()
    folder, minutes = run.out / name, run.options.minutes
    if minutes is None and run.recipe.minutes is not None:
        minutes = run.recipe.minutes * stage.clock
    with first_alone(run.options.part):
        if run.options.part.rank == 0:
            _clear(folder, resume=run.options.resume)
            if isinstance(run.start, Path):
                take_tokenizer(run.start, run.out / "data")
        net, origin = start(run, name)
        net = STAGE_TABLE[name].net(net)
        prepare = STAGE_TABLE[name].prepare
        if prepare and not (run.out / "data" / f"{name}.json").exists():
            prepare(run)
    objective = STAGE_TABLE[name].objective(run, net)
    torch.manual_seed(run.recipe.seed + STAGES.index(name))
    if minutes is not None:
        minutes = max(0.0, minutes - (time.monotonic() - clock) / 60)
    device = run.options.device
    device = replace(device, compile=device.compile and STAGE_TABLE[name].one_shape)
    progress = run_stage(net, objective, stage, replace(run.options, out=folder, minutes=minutes, device=device))
    if run.options.part.rank > 0:
        return progress
    summary = {
        "recipe": run.recipe.name,
        "seed": run.recipe.seed,
        "start": origin,
        "parameters": sum(p.numel() for p in net.parameters()),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "device": run.options.device.name,
        "dtype": str(run.options.device.dtype).removeprefix("torch."),
        "processes": run.options.part.world,
        "began": began,
        **asdict(progress),
        **STAGE_TABLE[name].measure(run, net),
    }
    _write_json(folder / "summary.json", summary)
    if STAGE_TABLE[name].passes_on:
        export(net, run.out / "data", run.out / "model")
    return progress


def train_all(run: Run, names: tuple[str, ...] | None = None) -> Iterator[tuple[str, Progress]]:
    """The recipe's stages (or those of `names` that it has), one after the other; (name, where it ended) as each is done.

    A wall-clock budget (options or recipe) is shared by the stages' `clock`: what one leaves is the later ones'. With resume,
    finished stages of several are passed over. `start` is where the first stage starts.
    """
    left = [name for name in run.recipe.stages if names is None or name in names]
    if not left:
        raise RecipeError(f"recipe {run.recipe.name} has none of {', '.join(names or ())}; add one of them")
    passing = run.options.resume and len(left) > 1
    minutes = run.options.minutes if run.options.minutes is not None else run.recipe.minutes
    if run.options.minutes is None and minutes is not None:
        minutes *= sum(run.stage(name).clock for name in left)
    while left:
        name = left[0]
        if passing and (run.out / name / "summary.json").exists():
            left.pop(0)
            continue
        began, share = time.monotonic(), run.stage(name).clock / (sum(run.stage(n).clock for n in left) or 1)
        budget = None if minutes is None else minutes * share
        yield name, train(replace(run, options=replace(run.options, minutes=budget)), name)
        minutes = None if minutes is None else max(0.0, minutes - (time.monotonic() - began) / 60)
        if STAGE_TABLE[name].passes_on:
            run = replace(run, start=None)
        left.pop(0)


def start(run: Run, name: str) -> tuple[Net, str]:
    """The net with the weights that stage `name` starts from, and where they come from."""
    net = Net(run.recipe.net)
    if isinstance(run.start, Path):
        load_folder(run.start, net)
        return net, str(run.start)
    before = [n for n in STAGES[: STAGES.index(name)] if n in STAGE_TABLE and STAGE_TABLE[n].passes_on]
    if run.start is None and not before:
        net.initialise(run.recipe.seed)
        return net, "seed"
    done = [n for n in before if (run.out / n / "last.pt").exists()]
    origin = run.start if run.start is not None else done[-1] if done else before[-1]
    if origin not in done:
        raise RecipeError(
            f"{run.out / origin / 'last.pt'} does not exist; run `senryu train {origin}` with the same --out first, "
            "or start from a model with --from nano or --from path:DIR"
        )
    load_weights(run.out / origin / "last.pt", net)
    return net, origin


def _clear(folder: Path, *, resume: bool) -> None:
    """A stage that starts anew replaces a finished one, and never an unfinished one: one without a summary."""
    if resume or not folder.exists():
        (folder / "summary.json").unlink(missing_ok=True)
        return
    if (folder / "last.pt").exists() and not (folder / "summary.json").exists():
        raise RecipeError(f"{folder} holds an unfinished run; add --resume to go on with it, or remove that folder")
    shutil.rmtree(folder)


def settle(recipe: Recipe | None, out: Path, origin: str | Path | None = None) -> Recipe:
    """The recipe of the run in `out`: the given one, in the shape of the model that it starts from, or the one kept there.

    It is kept as `out`/recipe.toml, from which the run can be repeated. Raises RecipeError when the run has another shape.
    """
    path = out / "recipe.toml"
    kept = load_recipe(path) if path.exists() else None
    if recipe is None:
        if kept is None:
            raise RecipeError(f"{path} does not exist; name a recipe, for example recipes/nano.toml")
        recipe = kept
    if isinstance(origin, Path):
        recipe = starting_from(origin, recipe)
    if kept is not None and (kept.net, kept.seed) != (recipe.net, recipe.seed):
        raise RecipeError(
            f"{out} holds a run of another shape or seed ({kept.name}); leave the recipe out to go on with {path}, "
            "or choose another --out"
        )
    out.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(f".{os.getpid()}")
    part.write_text(recipe_text(recipe), encoding="utf8")
    os.replace(part, path)
    return recipe


def export_stage(run_folder: Path, stage: str, folder: Path) -> None:
    """Write the last checkpoint of a stage as a model folder."""
    recipe = settle(None, run_folder)
    checkpoint = run_folder / stage / "last.pt"
    if not checkpoint.exists():
        raise RecipeError(f"{checkpoint} does not exist; run `senryu train {stage} --out {run_folder}` first")
    net = Net(recipe.net)
    load_weights(checkpoint, net)
    export(net, run_folder / "data", folder)


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf8")
