"""`senryu train constitution`: read a constitution as training will read it, and make the data of its stage to look through."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from senryu.cli.output import print_json, say

app = typer.Typer(help="A constitution: check it, read it, make training data by it.", no_args_is_help=True)

File = Annotated[
    Path | None,
    typer.Argument(metavar="[FILE]", help="A .toml or .md file of principles; ours without it.", show_default=False),
]


def _load(path: Path | None) -> Any:
    """The constitution of a file. Raises RecipeError."""
    from senryu.train.constitution.document import OURS, load

    return load(path or OURS)


@app.command("lint")
def lint(file: File = None) -> None:
    """Say what weakens a constitution: contradictions, missing reasons and counterweights, examples that do not hold."""
    from senryu.cli.train import trainable

    with trainable():
        from senryu.train.constitution.lint import lint as findings

        found = findings(_load(file))
    for finding in found:
        print(finding)
    errors = sum(finding.level == "error" for finding in found)
    say(f"{errors} errors, {len(found) - errors} warnings")
    if errors:
        raise typer.Exit(1)


@app.command("render")
def render(
    file: File = None,
    form: Annotated[str, typer.Option(help="system-prompt, critic, preference or documents.")] = "system-prompt",
) -> None:
    """Print what a model gets to read of a constitution."""
    from senryu.cli.train import trainable

    with trainable():
        from senryu.train.constitution.render import FORMS, shown
        from senryu.train.recipe import RecipeError

        if form not in FORMS:
            raise RecipeError(f"--form {form} is unknown; use {', '.join(FORMS)}")
        print(shown(_load(file), form), end="")


@app.command("data")
def data(
    data: Annotated[
        Path, typer.Option("--data", "-d", help="Folder that the recipe's paths start from.", file_okay=False, exists=True)
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="RUN", help="Folder of the run, whose model answers.")],
    recipe: Annotated[
        Path | None, typer.Argument(metavar="[RECIPE]", help="Without it RUN/recipe.toml.", show_default=False)
    ] = None,
    origin: Annotated[
        str | None,
        typer.Option("--from", metavar="FROM", help="The stage or model that answers [the stage before].", show_default=False),
    ] = None,
    key: Annotated[
        str, typer.Option(envvar="SENRYU_JUDGE_KEY", help="Key of the endpoint that judges.", show_default=False)
    ] = "",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
) -> None:
    """Make RUN/constitutional, to look through: prompts, answers, critiques, revisions, comparisons, and rows to train on."""
    from senryu.cli.train import open_run, read_recipe, trainable

    with trainable():
        from dataclasses import replace

        from senryu.train.constitutional import make_data
        from senryu.train.device import choose_device
        from senryu.train.run import first_net

        run = open_run(read_recipe(recipe), data, out, origin, device=choose_device(device, compile=False))
        net, _ = first_net(run, "constitutional")
        with_lines = replace(run, prepared=lambda what, done, of: say(f"{what} {done} of {of}"))
        print_json(make_data(with_lines, net, key))
