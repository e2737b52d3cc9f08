"""The stages of a run, one table: what each prepares and trains on. One function runs any of them, one runs them all."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch

from senryu.train import constitutional, data, dpo, manifest, preference, reward, rl
from senryu.train.checkpoint import Progress
from senryu.train.export import export
from senryu.train.loop import run_stage
from senryu.train.mix import Mix
from senryu.train.net import Net
from senryu.train.objective import Objective, PackedRows
from senryu.train.parallel import first_alone
from senryu.train.recipe import STAGES, Recipe, RecipeError, build
from senryu.train.run import BESIDE, Run, clear, first_net, write_json
from senryu.train.vocabulary import train_tokenizer, write_tokenizer

PREFERENCE = ("reward", "dpo", "rl")


@dataclass(frozen=True)
class Stage:
    """One stage: how its data is made where it is missing, from the net that it starts from, and its objective.

    net: what is trained, from the weights that the stage starts with. measure: what the summary says beside. options: the type
    of the recipe's table of options. one_shape: whether all batches have one, so that compiling pays.
    """

    prepare: Callable[[Run, Net], None] | None
    objective: Callable[[Run, Net], Objective]
    net: Callable[[Net], Net] = lambda net: net
    measure: Callable[[Run, Net], dict[str, Any]] = lambda run, net: {}
    options: type | None = None
    one_shape: bool = True


def _prepare_pretraining(run: Run, net: Net) -> None:
    recipe, folder = run.recipe, run.out / "data"
    folder.mkdir(parents=True, exist_ok=True)
    with Mix(recipe.pretrain.mix, recipe, run.places) as mix:
        if not (folder / "tokenizer.json").exists():
            tokenizer = train_tokenizer(data.sample_texts(mix, recipe), recipe.tokenizer.vocab_size)
            write_tokenizer(tokenizer, folder, recipe.net.max_position_embeddings)
        data.write_held_out(mix, folder / "held_out.jsonl.xz")
        _write_rows(run, "pretrain", mix, "stream")


def _prepare_constitutional(run: Run, net: Net) -> None:
    constitutional.make_data(run, net)
    _pack(run, "constitutional", "whole")


def _packed(name: str, how: data.Packing) -> Callable[[Run, Net], None]:
    return lambda run, net: _pack(run, name, how)


def _pack(run: Run, name: str, how: data.Packing) -> None:
    """Packed rows of the stage's mix."""
    held_out = run.out / "data" / "held_out.jsonl.xz"
    with Mix(run.stage(name).mix, run.recipe, run.places, held_out if held_out.exists() else None) as mix:
        _write_rows(run, name, mix, how)


def _write_rows(run: Run, name: str, mix: Mix, how: data.Packing) -> None:
    """A mix's rows and what they were made of."""
    folder = run.out / "data"
    prepared = data.pack(mix, run.stage(name), run.recipe, run.tokenizer(), how)
    manifest.write(folder / "manifest.json", run.recipe, name, prepared.entries)
    part = folder / f"{name}.part"
    with part.open("wb") as file:
        np.save(file, prepared.rows)
    os.replace(part, folder / f"{name}.npy")
    write_json(folder / f"{name}.json", prepared.tokens)  # the last: it says that the data is there


def _rows(name: str, *, assistant_only: bool) -> Callable[[Run, Net], Objective]:
    def objective(run: Run, net: Net) -> Objective:
        return PackedRows(np.load(run.out / "data" / f"{name}.npy", mmap_mode="r"), run.stage(name), assistant_only)

    return objective


def _pairs(name: str) -> Callable[[Run, Net], None]:
    return lambda run, net: preference.prepare_pairs(name, run.recipe, run.data, run.out)


def _measured(name: str) -> Callable[[Run, Net], dict[str, Any]]:
    return lambda run, net: preference.measure(name, run.stage(name), run.out, net, run.options.device)


def _dpo(run: Run, net: Net) -> Objective:
    writes = run.options.part.rank == 0
    return preference.pairs(run.stage("dpo"), run.out, net, run.options.device, writes=writes)


STAGE_TABLE: dict[str, Stage] = {
    "pretrain": Stage(_prepare_pretraining, _rows("pretrain", assistant_only=False)),
    "sft": Stage(_packed("sft", "whole"), _rows("sft", assistant_only=True)),
    "long": Stage(_packed("long", "joined"), _rows("long", assistant_only=True)),
    "constitutional": Stage(
        _prepare_constitutional,
        _rows("constitutional", assistant_only=True),
        measure=constitutional.measure,
        options=constitutional.ConstitutionalOptions,
    ),
    "reward": Stage(
        _pairs("reward"),
        lambda run, net: preference.comparisons(run.stage("reward"), run.out),
        net=reward.from_net,
        measure=_measured("reward"),
        options=reward.RewardOptions,
    ),
    "dpo": Stage(_pairs("dpo"), _dpo, measure=_measured("dpo"), options=dpo.DpoOptions),
    "rl": Stage(
        None,
        lambda run, net: preference.rollouts(run.recipe, run.data, run.out, net, run.options.device),
        options=rl.RlOptions,
        one_shape=False,
    ),
}


def check(recipe: Recipe) -> None:
    """Raises RecipeError for options that no stage knows: before anything is prepared."""
    for name, stage in recipe.stages.items():
        kind = STAGE_TABLE[name].options
        if kind is not None:
            build(kind, stage.options, f"recipe {recipe.name}: [{name}.options]")
        elif stage.options:
            raise RecipeError(f"recipe {recipe.name}: the stage {name} has no options; remove [{name}.options]")


def train(run: Run, name: str) -> Progress:
    """Run one stage into `out`/NAME, export what came out there and to `out`/model. Preparation counts in its time budget.

    Raises RecipeError when there is nothing to start from, or an unfinished run that would be lost.
    """
    stage, began, clock = run.stage(name), time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), time.monotonic()
    entry, part, device, minutes = STAGE_TABLE[name], run.options.part, run.options.device, run.options.minutes
    if minutes is None and run.recipe.minutes is not None:
        minutes = run.recipe.minutes * run.recipe.share(name)
    with first_alone(part):
        prepared = not entry.prepare or _is_prepared(run, name)
        if part.rank == 0:
            clear(run.out / name, resume=run.options.resume)
        first, origin = first_net(run, name)
        if entry.prepare and not prepared:
            entry.prepare(run, first)
            write_json(run.out / "data" / f"{name}.made", _made_by(run, name))
    net = entry.net(first)
    objective = entry.objective(run, net)
    torch.manual_seed(run.recipe.seed + STAGES.index(name))
    if minutes is not None:
        minutes = max(0.0, minutes - (time.monotonic() - clock) / 60)
    device = replace(device, compile=device.compile and entry.one_shape)
    progress = run_stage(net, objective, stage, replace(run.options, out=run.out / name, minutes=minutes, device=device))
    if part.rank == 0:
        _finish(run, name, net, {"start": origin, "began": began, **asdict(progress)})
    return progress


def _is_prepared(run: Run, name: str) -> bool:
    """Whether the stage's data lies in the run's folder as the recipe has it now. Raises RecipeError for a resumed stage whose
    data would become another."""
    folder = run.out / "data"
    if not (folder / f"{name}.json").exists():
        return False
    made = folder / f"{name}.made"
    if not made.exists() or json.loads(made.read_text(encoding="utf8")) == json.loads(json.dumps(_made_by(run, name))):
        return True
    if run.options.resume:
        raise RecipeError(
            f"{folder} holds data for {name} by another mix or other lengths than the recipe's; take back what was changed "
            "there, or start the stage anew, without --resume"
        )
    return False


def _made_by(run: Run, name: str) -> dict[str, Any]:
    """What of the recipe the stage's data follows from."""
    stage = run.stage(name)
    keys = (
        "mix",
        "prepare_tokens",
        "sequence",
        "decay_sequence",
        "options",
        *(("batch_tokens",) if name in PREFERENCE else ()),
    )
    return {"seed": run.recipe.seed, "held_out": run.recipe.held_out, **{key: asdict(stage)[key] for key in keys}}


def _finish(run: Run, name: str, net: Net, facts: dict[str, Any]) -> None:
    """Exports, then the summary: it says that the stage is done."""
    folder, device = run.out / name, run.options.device
    if name not in BESIDE:
        for target in (folder / "model", run.out / "model"):
            export(net, run.out / "data", target)
    summary = {
        "recipe": run.recipe.name,
        "seed": run.recipe.seed,
        "parameters": sum(p.numel() for p in net.parameters()),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "device": device.name,
        "dtype": str(device.dtype).removeprefix("torch."),
        "processes": run.options.part.world,
        **facts,
        **STAGE_TABLE[name].measure(run, net),
    }
    write_json(folder / "summary.json", summary)


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
        minutes *= sum(run.recipe.share(name) for name in left)
    while left:
        name = left[0]
        if passing and (run.out / name / "summary.json").exists():
            left.pop(0)
            continue
        began, share = time.monotonic(), run.recipe.share(name) / (sum(run.recipe.share(n) for n in left) or 1)
        budget = None if minutes is None else minutes * share
        yield name, train(replace(run, options=replace(run.options, minutes=budget)), name)
        minutes = None if minutes is None else max(0.0, minutes - (time.monotonic() - began) / 60)
        if name not in BESIDE:
            run = replace(run, start=None)
        left.pop(0)
