"""The one training loop: an objective in, a trained net out; schedule, log in JSON lines, checkpoints that resume exactly."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from senryu.train.checkpoint import Progress, load_checkpoint, save_checkpoint
from senryu.train.net import Net
from senryu.train.objective import Loss, Objective, Part
from senryu.train.optim import Optimisers, Schedule
from senryu.train.precision import matmul_dtype
from senryu.train.recipe import StageRecipe

LONG_ROWS = 1.25  # time per token of a decay with longer rows, over the stable part's
LOG_EVERY = 10


@dataclass(frozen=True)
class RunOptions:
    """How a stage runs, as opposed to what it trains (the recipe)."""

    out: Path
    resume: bool = False
    minutes: float | None = None  # time budget: the decay then starts by the clock, and the log says at which token
    checkpoint_minutes: float = 5.0
    stop_after_steps: int | None = None  # leave with a checkpoint, to be resumed
    compile: bool = True


def run_stage(net: Net, objective: Objective, stage: StageRecipe, options: RunOptions) -> Progress:
    """Train `net` in place towards `objective` and return where it ended.

    Writes `log.jsonl`, `last.pt`, and `stable.pt`: the state before the decay. Copied over `last.pt` and resumed with a
    recipe of more tokens, it gives what one longer run would have given.
    """
    options.out.mkdir(parents=True, exist_ok=True)
    optimisers = Optimisers(net, stage)
    progress, schedule = Progress(), Schedule(stage.tokens, stage.decay_tokens, stage.warmup_tokens)
    last = options.out / "last.pt"
    if options.resume and last.exists():
        progress, fixed = load_checkpoint(last, net, optimisers)
        schedule = fixed if progress.decaying else schedule  # a stable run may be given another end
    if options.compile:
        net.compile(dynamic=False)
    offset, started, saved = progress.seconds, time.monotonic(), time.monotonic()
    first = progress.step
    with (options.out / "log.jsonl").open("a", encoding="utf8") as log:
        while progress.tokens < schedule.tokens:
            if not progress.decaying:
                schedule = _by_clock(schedule, stage, options, progress)
                if progress.tokens >= schedule.decay_start:
                    save_checkpoint(options.out / "stable.pt", net, optimisers, progress, schedule)
                    progress.decaying = True
                    _write(log, event="decay", **asdict(progress), schedule=asdict(schedule))
            loss = _differentiate(net, objective, progress)
            factor = schedule.factor(progress.tokens)
            norm = optimisers.step(factor)
            progress.step += 1
            progress.tokens += stage.batch_tokens
            progress.seconds = offset + time.monotonic() - started
            if progress.step % LOG_EVERY == 0 or progress.step <= LOG_EVERY:
                figures = {"loss": float(loss.total), **loss.figures, "grad_norm": norm, "lr_factor": factor}
                _write(log, **asdict(progress), **{name: round(value, 5) for name, value in figures.items()})
            if time.monotonic() - saved > options.checkpoint_minutes * 60:
                save_checkpoint(last, net, optimisers, progress, schedule)
                saved = time.monotonic()
            if options.stop_after_steps is not None and progress.step - first >= options.stop_after_steps:
                break
        save_checkpoint(last, net, optimisers, progress, schedule)
        _write(log, event="end", **asdict(progress), schedule=asdict(schedule))
    return progress


def _by_clock(schedule: Schedule, stage: StageRecipe, options: RunOptions, progress: Progress) -> Schedule:
    """With a time budget, fix the total as soon as the stable part's time is over; the decay keeps its share of tokens."""
    share = stage.decay_tokens / stage.tokens
    decay_time = share * (LONG_ROWS if stage.decay_sequence > stage.sequence else 1.0)
    stable_time = (1 - share) / (1 - share + decay_time)
    if options.minutes is None or progress.seconds < options.minutes * 60 * stable_time or progress.step == 0:
        return schedule
    decay = max(round(progress.tokens * share / (1 - share) / stage.batch_tokens), 1) * stage.batch_tokens
    return Schedule(min(progress.tokens + decay, schedule.tokens), decay, schedule.warmup_tokens)


def _differentiate(net: Net, objective: Objective, progress: Progress) -> Loss:
    """The next batch's loss, its gradients added to the parameters'."""
    batch = objective.batch(net, progress, Part())
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=matmul_dtype() is torch.bfloat16):
        loss = objective.loss(net, batch)
    if not torch.isfinite(loss.total):
        raise FloatingPointError("the loss is not finite; lower lr_matrix or lr_vector and resume from last.pt")
    loss.total.backward()
    loss.total = loss.total.detach()
    return loss


def _write(log: object, **entry: object) -> None:
    line = json.dumps({k: round(v, 1) if k == "seconds" and isinstance(v, float) else v for k, v in entry.items()})
    print(line, file=log, flush=True)  # type: ignore[call-overload]
