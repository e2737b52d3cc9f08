"""How commands print: a table on a terminal, tab-separated lines in a pipe, JSON on request; progress on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

Weights = Annotated[
    str | None, typer.Option(help="Number format of the weights: int8, int4 or bf16 [int8].", show_default=False)
]
Kv = Annotated[
    str | None, typer.Option("--kv", help="Number format of keys and values: int8 or float32 [int8].", show_default=False)
]


def say(line: str) -> None:
    """A progress line for people: stderr, never mixed into results."""
    print(line, file=sys.stderr, flush=True)


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], title: str = "") -> None:
    """A table on a terminal, else one tab-separated line a row without a header."""
    if not sys.stdout.isatty():
        for row in rows:
            print("\t".join(str(cell) for cell in row))
        return
    from rich.console import Console
    from rich.table import Column, Table

    table = Table(
        *(Column(name, overflow="fold") for name in columns),
        title=title or None,
        title_justify="left",
        box=None,
        header_style="bold",
        pad_edge=False,
    )
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    Console().print(table)


class CompileProgress:
    """Prints kernel compilation on stderr: one rewritten line on a terminal, else a line at the start and the end."""

    def __init__(self) -> None:
        self.live = sys.stderr.isatty()
        self.started = False

    def __call__(self, name: str, index: int, total: int) -> None:
        """`index` of `total` kernels is being compiled; `index == total` means done."""
        if not self.started:
            say("Compiling kernels for this CPU (first start only; they are cached).")
            self.started = True
        if self.live:
            end = "\n" if index == total else ""
            print(f"\r\033[K  {index}/{total} {name}", end=end, file=sys.stderr, flush=True)
        elif index == total:
            say(f"  {total} kernels compiled.")
