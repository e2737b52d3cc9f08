"""`senryu models`: what is on this machine, and what a checkpoint is."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from senryu.cli.output import print_json, print_table

app = typer.Typer(help="Models on this machine.", no_args_is_help=True)
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("ls")
def ls(json: Json = False) -> None:
    """List the models that can be served without a download, and the names that each answers to when it is served."""
    from senryu.config import load_settings
    from senryu.model.hub import describe, local_models
    from senryu.service.registry import names_of

    found = [describe(files) for files in local_models(load_settings().home)]
    rows = [{**row, "answers_to": list(names_of(row["name"]))} for row in found]
    if json:
        print_json(rows)
        return
    columns = ("name", "family", "parameters", "context", "bytes")
    print_table((*columns, "answers to"), [[*(_short(row[name]) for name in columns), _names(row)] for row in rows])


@app.command("show")
def show(model: Annotated[str, typer.Argument(help="mini, path:DIR or hf:ORG/REPO")], json: Json = False) -> None:
    """Describe one model: shape, size, context, licence, memory it needs."""
    from senryu.config import load_settings
    from senryu.model.hub import describe, resolve

    facts = describe(resolve(model, load_settings().home))
    if json:
        print_json(facts)
    else:
        print_table(("", ""), [[key.replace("_", " "), _short(value)] for key, value in facts.items()])


def _names(row: dict[str, Any]) -> str:
    """One a line on a terminal."""
    return ("\n" if sys.stdout.isatty() else ",").join(row["answers_to"])


def _short(value: object) -> str:
    """Large counts with a unit, the rest as it is."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1_000_000:
        return "-" if value is None else str(value)
    return f"{value / 1e9:.2f}G" if value >= 1e9 else f"{value / 1e6:.1f}M"
