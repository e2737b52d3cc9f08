"""One training run and its folder: the recipe kept there, where a stage starts, exports of what it left. It trains nothing.

The folder holds `recipe.toml`, `data/` (tokenizer, packed rows, what they were made of, held-out documents), a folder for each
stage (checkpoints, log, summary, `model/`) and `model/` (that of the latest stage).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from senryu.train.checkpoint import load_weights
from senryu.train.export import export
from senryu.train.loop import RunOptions
from senryu.train.net import Net
from senryu.train.recipe import STAGES, Recipe, RecipeError, StageRecipe, load_recipe, recipe_text
from senryu.train.sources import Places
from senryu.train.start import load_folder, starting_from, take_tokenizer

BESIDE = ("reward",)  # stages that train another model than the one that is passed on


@dataclass(frozen=True)
class Run:
    """A training run: what (the recipe), from which data, where and how (the options; their `out` is the run's folder).

    start: the stage, or the folder with a model, that the next stage starts from; None: the stage before it. downloads: where
    files from public addresses are kept. prepared: hears of long preparations: what, how many are done, of how many.
    """

    recipe: Recipe
    data: Path
    options: RunOptions
    start: str | Path | None = None
    downloads: Path | None = None
    prepared: Callable[[str, int, int], None] = lambda what, done, of: None

    @property
    def out(self) -> Path:
        return self.options.out

    @property
    def places(self) -> Places:
        return Places(self.data, self.downloads, self.out / "data", self.out)

    def stage(self, name: str) -> StageRecipe:
        """Raises RecipeError when the recipe has no such stage."""
        stage = self.recipe.stages.get(name)
        if stage is None:
            raise RecipeError(f"recipe {self.recipe.name} has no [{name}]; add it, as recipes/toy.toml shows")
        return stage

    def tokenizer(self) -> Tokenizer:
        """The run's, as pretraining or the model that it started from left it."""
        return Tokenizer.from_file(str(self.out / "data" / "tokenizer.json"))


def first_net(run: Run, name: str) -> tuple[Net, str]:
    """The net with the weights that stage `name` starts from, and where they come from.

    Raises RecipeError when there is nothing to start from.
    """
    net = Net(run.recipe.net)
    if isinstance(run.start, Path):
        take_tokenizer(run.start, run.out / "data")
        load_folder(run.start, net)
        return net, str(run.start)
    before = [n for n in STAGES[: STAGES.index(name)] if n not in BESIDE]
    if run.start is None and not before:
        net.initialise(run.recipe.seed)
        return net, "seed"
    done = [n for n in before if (run.out / n / "last.pt").exists()]
    wanted = run.start if run.start is not None else done[-1] if done else before[0]
    if wanted not in done:
        raise RecipeError(
            f"{run.out / wanted / 'last.pt'} does not exist; run `senryu train {wanted}` with the same --out first, "
            "or start from a model with --from mini or --from path:DIR"
        )
    load_weights(run.out / wanted / "last.pt", net)
    return net, wanted


def clear(folder: Path, *, resume: bool) -> None:
    """A stage that starts anew replaces a finished one, and never an unfinished one: one without a summary.

    Raises RecipeError for that.
    """
    if resume or not folder.exists():
        (folder / "summary.json").unlink(missing_ok=True)
        return
    if (folder / "last.pt").exists() and not (folder / "summary.json").exists():
        raise RecipeError(f"{folder} holds an unfinished run; add --resume to go on with it, or remove that folder")
    for name in ("summary.json", "last.pt", "stable.pt", "log.jsonl", "loss.png"):
        (folder / name).unlink(missing_ok=True)


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


def export_stage(out: Path, stage: str, folder: Path) -> None:
    """Write the last checkpoint of a stage of the run in `out` as a model folder. Raises RecipeError if there is none."""
    recipe = settle(None, out)
    checkpoint = out / stage / "last.pt"
    if stage in BESIDE or not checkpoint.exists():
        made = [n for n in STAGES if n not in BESIDE and (out / n / "last.pt").exists()]
        raise RecipeError(f"{out} has no model of stage `{stage}`; it has {', '.join(made) or 'none: train one first'}")
    net = Net(recipe.net)
    load_weights(checkpoint, net)
    export(net, out / "data", folder)


def write_json(path: Path, content: Any) -> None:
    """With an end of line, for people."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf8")
