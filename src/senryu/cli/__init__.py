"""The command line: one file per verb group, each command a call into a package of ours. stdout carries results only."""

from __future__ import annotations

import sys

import typer

app = typer.Typer(
    name="senryu",
    help="The Haiku-class language model that you run yourself.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _register() -> None:
    from senryu.cli import bench, certs, chat, doctor, models, serve, train, usage

    app.command()(serve.serve)
    app.command()(chat.chat)
    app.command()(chat.run)
    app.add_typer(models.app, name="models")
    app.add_typer(certs.app, name="certs")
    app.add_typer(train.app, name="train")
    app.command(help=bench.HELP)(bench.bench)
    app.command()(usage.usage)
    app.command()(doctor.doctor)
    app.command()(doctor.version)


_register()


def main() -> None:
    """Entry point: errors say what, why and what to type next; exit codes 0 ok, 1 failure, 2 usage, 130 interrupted."""
    from senryu.errors import SenryuError
    from senryu.model.spec import ModelError

    try:
        app()
    except (SenryuError, ModelError) as error:
        print(f"senryu: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
