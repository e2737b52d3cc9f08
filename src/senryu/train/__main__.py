"""`python -m senryu.train pretrain|sft|export RECIPE`: the training commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from senryu.train.checkpoint import load_weights
from senryu.train.export import export as export_model
from senryu.train.loop import RunOptions
from senryu.train.net import Net
from senryu.train.recipe import RecipeError, load_recipe
from senryu.train.stages import finetune
from senryu.train.stages import pretrain as run_pretraining

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Train a model from a recipe.")

RecipeFile = Annotated[Path, typer.Argument(help="recipe, as recipes/nano.toml")]
Data = Annotated[Path, typer.Option("--data", help="folder of the data bundle (pretrain/, sft/)")]
Out = Annotated[Path, typer.Option("--out", help="folder of this training run")]
Resume = Annotated[bool, typer.Option("--resume", help="go on from the last checkpoint")]
Minutes = Annotated[float | None, typer.Option("--minutes", help="time budget: the decay starts by the clock")]
Compile = Annotated[bool, typer.Option("--compile/--no-compile", help="torch.compile: faster, but a minute to start")]


@app.command()
def pretrain(
    recipe: RecipeFile, data: Data, out: Out, resume: Resume = False, minutes: Minutes = None, compile: Compile = True
) -> None:
    """Prepare data and tokenizer, then pretrain."""
    run_pretraining(load_recipe(recipe), data, RunOptions(out, resume, minutes, compile=compile))


@app.command()
def sft(
    recipe: RecipeFile, data: Data, out: Out, resume: Resume = False, minutes: Minutes = None, compile: Compile = True
) -> None:
    """Fine-tune on conversations, then export to OUT/model."""
    finetune(load_recipe(recipe), data, RunOptions(out, resume, minutes, compile=compile))


@app.command()
def export(
    recipe: RecipeFile,
    out: Out,
    to: Annotated[Path, typer.Option("--to", help="folder of the exported model")],
    stage: Annotated[str, typer.Option("--stage", help="pretrain or sft: whose last checkpoint")] = "sft",
) -> None:
    """Export the last checkpoint of a stage to a Hugging Face folder."""
    net = Net(load_recipe(recipe).net)
    load_weights(out / stage / "last.pt", net)
    export_model(net, out / "data", to)


if __name__ == "__main__":
    try:
        app()
    except RecipeError as error:
        raise SystemExit(f"error: {error}") from None
