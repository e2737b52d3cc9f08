"""How training shows where it stands: a bar for each stage on a terminal, else JSON lines on stdout."""

from __future__ import annotations

import json
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from senryu.train.loop import Report

EVERY_SECONDS = 10.0  # between two lines of a stage, where nobody watches


class Lines:
    """A JSON line every ten seconds, and at the end of a stage."""

    def __init__(self) -> None:
        self._at = -EVERY_SECONDS

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        return None

    def __call__(self, report: Report) -> None:
        """After each step."""
        now = time.monotonic()
        if now - self._at >= EVERY_SECONDS or report.tokens >= report.total_tokens:
            self._at = now
            print(json.dumps(facts(report)), flush=True)

    def prepared(self, what: str, done: int, of: int) -> None:
        """A long preparation goes on."""
        now = time.monotonic()
        if now - self._at >= EVERY_SECONDS or done >= of:
            self._at = now
            print(json.dumps({"preparing": what, "done": done, "of": of}), flush=True)

    def done(self, name: str, summary: dict[str, Any]) -> None:
        """The stage is over."""
        print(json.dumps({"stage": name, "done": True, **summary}), flush=True)


class Bars:
    """A bar for each stage: tokens, loss, tokens/s, time left. Finished ones stay."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        columns = (
            TextColumn("[bold]{task.description:<14}"),
            BarColumn(bar_width=28),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[facts]}"),
        )
        self._progress = Progress(*columns, console=Console(), refresh_per_second=4)
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()

    def __call__(self, report: Report) -> None:
        """After each step."""
        if report.stage not in self._tasks:
            self._tasks[report.stage] = self._progress.add_task(report.stage, facts="")
        text = (
            f"loss {report.loss:7.4f}  {report.tokens / 1e6:.2f} M tokens  {report.tokens_per_second:,.0f} tokens/s  "
            f"{clock(report.seconds_left)} left"
        )
        self._progress.update(self._tasks[report.stage], completed=report.tokens, total=report.total_tokens, facts=text)

    def prepared(self, what: str, done: int, of: int) -> None:
        """A long preparation goes on."""
        if what not in self._tasks:
            self._tasks[what] = self._progress.add_task(what, facts="")
        self._progress.update(self._tasks[what], completed=done, total=of, facts=f"{done:,} of {of:,}")

    def done(self, name: str, summary: dict[str, Any]) -> None:
        """The stage is over."""
        task = self._tasks.get(name)
        if task is not None:
            text = f"{summary['tokens'] / 1e6:.2f} M tokens in {clock(summary['seconds'])}"
            self._progress.update(task, completed=1, total=1, facts=text)


def shown() -> Bars | Lines:
    """What suits stdout."""
    return Bars() if sys.stdout.isatty() else Lines()


def facts(report: Report) -> dict[str, Any]:
    """A report as one JSON line holds it."""
    return {
        "stage": report.stage,
        "step": report.step,
        "tokens": report.tokens,
        "total_tokens": report.total_tokens,
        "loss": round(report.loss, 4),
        **{name: round(value, 4) for name, value in report.figures.items()},
        "tokens_per_second": round(report.tokens_per_second),
        "seconds_left": round(report.seconds_left),
    }


def clock(seconds: float) -> str:
    """1:02:03, or 2:03 below an hour."""
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"
