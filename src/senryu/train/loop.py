"""The one training loop: an objective in, a trained net out; schedule, log in JSON lines, checkpoints that resume exactly."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import torch
from torch import Tensor

from senryu.train import parallel
from senryu.train.checkpoint import Progress, load_checkpoint, save_checkpoint
from senryu.train.device import PLAIN, Device
from senryu.train.log import Log
from senryu.train.net import Net
from senryu.train.objective import WHOLE, Loss, Objective, Part
from senryu.train.optim import Optimisers, Schedule
from senryu.train.recipe import RecipeError, StageRecipe

LONG_ROWS = 1.25  # time per token of a decay with longer rows, over the stable part's
LOG_EVERY = 10


@dataclass(frozen=True)
class Report:
    """How a stage stands after a step, for whoever watches it."""

    stage: str
    step: int
    tokens: int
    total_tokens: int
    loss: float
    figures: dict[str, float]  # of the objective
    tokens_per_second: float  # of the last steps
    seconds_left: float


@dataclass(frozen=True)
class RunOptions:
    """How a stage runs, as opposed to what it trains (the recipe)."""

    out: Path  # the stage's folder; its name is the stage's
    resume: bool = False
    minutes: float | None = None  # time budget: the decay then starts by the clock, and the log says at which token
    checkpoint_minutes: float = 5.0
    stop_after_steps: int | None = None  # leave with a checkpoint, to be resumed
    device: Device = PLAIN
    part: Part = WHOLE  # of every batch; see parallel.py
    report: Callable[[Report], None] | None = None  # called after every step, by rank 0


def run_stage(net: Net, objective: Objective, stage: StageRecipe, options: RunOptions) -> Progress:
    """Train `net` in place towards `objective` and return where it ended.

    Writes `log.jsonl`, `last.pt`, and `stable.pt`: the state before the decay. Copied over `last.pt` and resumed with a
    recipe of more tokens, it gives what one longer run would have given. Raises RecipeError where processes cannot share
    a batch or memory does not hold it, FloatingPointError when the loss is no number any more.
    """
    return _Run(net, objective, stage, options).run()


class _Run:
    """One call of `run_stage`: the state of a stage between two steps."""

    def __init__(self, net: Net, objective: Objective, stage: StageRecipe, options: RunOptions) -> None:
        self.net, self.objective, self.stage, self.options = net, objective, stage, options
        net.to(options.device.name)
        net.drop(stage.dropout)
        if options.device.compile:
            torch.compiler.reset()  # what an earlier stage compiled is of no use, and would count towards the compiler's limit
            net.compile(dynamic=False)
        self.optimisers = Optimisers(net, stage, options.device.dtype)
        self.progress, self.schedule = Progress(), Schedule(stage.tokens, stage.decay_tokens, stage.warmup_tokens)
        self.seed = torch.initial_seed()  # as the caller set it
        self.writes = options.part.rank == 0
        options.out.mkdir(parents=True, exist_ok=True)
        if options.resume and (options.out / "last.pt").exists():
            self.progress, fixed, self.seed = load_checkpoint(options.out / "last.pt", net, self.optimisers)
            self.schedule = fixed if self.progress.decaying else self.schedule  # a stable run may be given another end
        self.step = parallel.shared(parallel.Step(net, objective), options.part)
        self.started = time.monotonic() - self.progress.seconds
        self.durations: deque[float] = deque(maxlen=20)  # of the last steps, in seconds
        self.first: tuple[int, float] | None = None  # the step and the seconds behind this call's first one, which compiles

    def run(self) -> Progress:
        """Steps until the schedule's end, or until the options say stop."""
        progress, options = self.progress, self.options
        saved, first = time.monotonic(), progress.step
        with Log(options.out / "log.jsonl" if self.writes else None, progress if options.resume else None) as log:
            while progress.tokens < self.schedule.tokens:
                began = time.monotonic()
                if not progress.decaying:
                    self._decay_when_due(log)
                self._take_step(log, began)
                if time.monotonic() - saved > options.checkpoint_minutes * 60:
                    self._save("last.pt")
                    saved = time.monotonic()
                if options.stop_after_steps is not None and progress.step - first >= options.stop_after_steps:
                    break
            self._save("last.pt")
            log.write(progress, event="end", schedule=asdict(self.schedule))
        parallel.wait(options.part)
        return progress

    def _take_step(self, log: Log, began: float) -> None:
        progress, options = self.progress, self.options
        loss = self._differentiate()
        factor = self.schedule.factor(progress.tokens)
        norm = self.optimisers.step(factor)
        self.durations.append(time.monotonic() - began)
        progress.step += 1
        progress.tokens += self.stage.batch_tokens
        progress.seconds = parallel.agreed(time.monotonic() - self.started, options.part, options.device)
        self.first = self.first or (progress.step, progress.seconds)
        report = self._report(loss)
        if progress.step % LOG_EVERY == 0 or progress.step <= LOG_EVERY:
            speed = round(report.tokens_per_second, 1)
            log.write(progress, loss=report.loss, **loss.figures, grad_norm=norm, lr_factor=factor, tokens_per_second=speed)
        if options.report is not None and self.writes:
            options.report(report)

    def _differentiate(self) -> Loss:
        """The next batch's loss, over all processes; its gradients are added to the parameters'.

        The first time that a GPU's memory does not hold a step, layers from then on compute again in the backward pass what
        they would have kept for it.
        """
        device, part = self.options.device, self.options.part
        self.net.eval()
        with device.autocast():  # an objective may ask the net itself
            batch = device.put(self.objective.batch(self.net, self.progress, part))
        self.net.train()
        while True:
            try:
                return self._backward(batch)
            except torch.OutOfMemoryError as error:
                if self.net.model.recompute or part.world > 1:  # other processes would wait for this one's gradients
                    raise RecipeError(
                        f"a batch of {self.stage.batch_tokens // part.world:,} tokens a process is too large for the memory of "
                        f"{device.name}; lower batch_tokens, or start more processes with torchrun"
                    ) from error
            self.net.model.recompute = True
            self.net.zero_grad(set_to_none=True)
            torch.cuda.empty_cache()

    def _backward(self, batch: list[Tensor]) -> Loss:
        part = self.options.part
        # dropout follows from seed, step and process: a run that goes on draws what it would have drawn
        torch.manual_seed((self.seed + self.progress.step * part.world + part.rank) % 2**63)
        with self.options.device.autocast():  # anew: weights that were narrowed without gradients are not kept
            loss: Loss = self.step(batch)
        total, whole = parallel.weigh(loss, part)
        if not torch.isfinite(whole.total):
            raise FloatingPointError("the loss is not finite; lower lr_matrix or lr_vector and resume from last.pt")
        total.backward()
        return whole

    def _decay_when_due(self, log: Log) -> None:
        """With a time budget, fix the total when the decay, with its share of the tokens, will take the time that is left."""
        stage, minutes, progress, schedule = self.stage, self.options.minutes, self.progress, self.schedule
        if minutes is not None and self.first is not None:
            share = stage.decay_tokens / stage.tokens
            steps = max(round(progress.tokens * share / (1 - share) / stage.batch_tokens), 1)
            taken, seconds = progress.step - self.first[0], progress.seconds - self.first[1]
            pace = (LONG_ROWS if stage.decay_sequence > stage.sequence else 1.0) * seconds / max(taken, 1)
            if minutes * 60 - progress.seconds <= steps * pace:
                decay = steps * stage.batch_tokens
                self.schedule = Schedule(min(progress.tokens + decay, schedule.tokens), decay, schedule.warmup_tokens)
        if progress.tokens >= self.schedule.decay_start:
            self._save("stable.pt")
            progress.decaying = True
            log.write(progress, event="decay", schedule=asdict(self.schedule))

    def _report(self, loss: Loss) -> Report:
        progress, minutes = self.progress, self.options.minutes
        speed = self.stage.batch_tokens / median(self.durations)
        left = (self.schedule.tokens - progress.tokens) / speed
        if minutes is not None and not progress.decaying:
            left = min(left, max(minutes * 60 - progress.seconds, 0.0))
        name, total = self.options.out.name, self.schedule.tokens
        return Report(name, progress.step, progress.tokens, total, float(loss.total), loss.figures, speed, left)

    def _save(self, name: str) -> None:
        if self.writes:
            save_checkpoint(self.options.out / name, self.net, self.optimisers, self.progress, self.schedule, self.seed)
