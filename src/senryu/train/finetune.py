"""The steps of fine-tuning a checkpoint: batches of samples, the loss of answers, AdamW, its schedule, checkpoints that resume.

The network is any causal model of transformers; where it comes from and goes to is in `adapters.py`.
"""

from __future__ import annotations

import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from senryu.train.checkpoint import Progress
from senryu.train.conversations import Sample
from senryu.train.device import PLAIN, Device
from senryu.train.log import Log
from senryu.train.loop import LOG_EVERY, Report
from senryu.train.pack import IGNORED
from senryu.train.recipe import RecipeError

STAGE = "sft"
HEAD_ROWS = 512  # rows of logits at a time: 300 MB in float32 at a vocabulary of 150,000
# what may change when a run goes on: where it lies and runs, and when it ends
_FREE = ("model", "data", "out", "home", "device", "micro_tokens", "minutes", "epochs", "tokens", "resume",
         "checkpoint_minutes", "stop_after_steps")  # fmt: skip


@dataclass(frozen=True)
class FinetuneOptions:
    """What is fine-tuned on what, and how. Raises RecipeError for a value that cannot be.

    model: mini, path:DIR or hf:ORG/REPO, as `senryu serve` takes it; home: SENRYU_HOME, where downloads lie.
    A run ends when the first of epochs, tokens and minutes is used up; without any of them it has 3 epochs.
    """

    model: str
    data: Path  # JSON Lines; see conversations.py
    out: Path
    home: Path
    lora: bool = False  # train low-rank additions to the matrices (arXiv 2106.09685) instead of the weights themselves
    rank: int = 16
    alpha: int = 32  # additions count alpha / rank
    dropout: float = 0.0  # of the additions' inputs
    targets: tuple[str, ...] = ()  # names of linear layers, as q_proj; none means all
    learning_rate: float | None = None  # the peak; by itself 2e-4 with LoRA, 2e-5 without
    weight_decay: float = 0.0
    warmup_steps: int = 10
    batch_tokens: int | None = None  # of a step, at least; by itself 4,096, of little data so many that an epoch has 16 steps
    micro_tokens: int = 2048  # of a forward pass, padding included; a longer conversation has one of its own
    longest: int = 2048  # tokens of a conversation; longer ones are left out
    epochs: float | None = None
    tokens: int | None = None
    minutes: float | None = None
    held_out: float = 0.05  # part of the conversations that is not trained on but measured, before and after
    seed: int = 0
    device: Device = PLAIN
    resume: bool = False
    checkpoint_minutes: float = 5.0
    stop_after_steps: int | None = None  # leave with a checkpoint, to be resumed

    def __post_init__(self) -> None:
        for name in (
            "rank",
            "alpha",
            "batch_tokens",
            "micro_tokens",
            "longest",
            "learning_rate",
            "epochs",
            "tokens",
            "minutes",
        ):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise RecipeError(f"{name} = {value} must be above 0")
        for name in ("dropout", "held_out"):
            if not 0 <= getattr(self, name) < 1:
                raise RecipeError(f"{name} = {getattr(self, name)} must be 0 or more, and below 1")
        if self.targets and not self.lora:
            raise RecipeError("targets are those of LoRA; add lora, or leave them out to train all weights")

    @property
    def peak(self) -> float:
        """The peak learning rate that is used."""
        return self.learning_rate or (2e-4 if self.lora else 2e-5)


@dataclass(frozen=True)
class TuningData:
    """Samples to train on and to measure by; how many conversations they are of, and how many were too long."""

    training: list[Sample]
    held_out: list[Sample]
    conversations: int  # trained on
    kept_back: int
    left_out: int
    digest: str  # SHA-256 of the file


class Tuning:
    """A fine-tuning between two of its steps. `model` has on its device what is trained, and says so by requires_grad."""

    def __init__(
        self,
        options: FinetuneOptions,
        model: Any,
        data: TuningData,
        settings: dict[str, Any],
        report: Callable[[Report], None] | None = None,
    ) -> None:
        """settings: what a run that goes on must have in common with this one, beside the options.

        Raises RecipeError where a run is to go on that had other ones.
        """
        self.options, self.model, self.data, self.report = options, model, data, report
        self.weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
        decayed, plain = ([p for p in self.weights.values() if (p.ndim > 1) == matrix] for matrix in (True, False))
        groups = [{"params": decayed, "weight_decay": options.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        self.adamw = torch.optim.AdamW([group for group in groups if group["params"]], lr=options.peak)
        self.before: float | None = None  # losses of the held-out samples, nats per taught token
        self.after: float | None = None
        self.progress = Progress()
        epoch = sum(len(sample.ids) for sample in data.training)
        self.batch_tokens = options.batch_tokens or min(4096, math.ceil(epoch / 16))
        kept = {name: value for name, value in asdict(options).items() if name not in _FREE}
        used = {"data": data.digest, "learning_rate": options.peak, "batch_tokens": self.batch_tokens}
        self.settings = kept | used | settings
        bounds = [bound for bound in (options.tokens, options.epochs and math.ceil(options.epochs * epoch)) if bound]
        self.total = min(bounds) if bounds else math.inf if options.minutes else 3 * epoch
        self.last = options.out / STAGE / "last.pt"
        if options.resume and self.last.exists():
            self._restore()

    def train(self) -> bool:
        """Steps until the budget is spent, or until the options say stop; whether it is spent."""
        options, progress = self.options, self.progress
        speeds: deque[float] = deque(maxlen=20)  # of the last steps, in tokens a second
        with Log(options.out / STAGE / "log.jsonl", progress if options.resume else None) as log:
            if not progress.step and self.data.held_out:
                self.before = self._held_out_loss()
                log.write(progress, event="held_out", held_out=self.before)
            saved, first, started = time.monotonic(), progress.step, time.monotonic() - progress.seconds
            while (spent := self._spent()) < 1:
                began = time.monotonic()
                factor = min((progress.step + 1) / max(options.warmup_steps, 1), 1 - spent)
                tokens, loss, norm = self._step(factor)
                progress.step, progress.tokens = progress.step + 1, progress.tokens + tokens
                progress.seconds = time.monotonic() - started
                speeds.append(tokens / (time.monotonic() - began))
                figures = {"loss": loss, "grad_norm": norm, "lr_factor": factor, "tokens_per_second": median(speeds)}
                if progress.step % LOG_EVERY == 0 or progress.step <= LOG_EVERY:
                    log.write(progress, **figures)
                if self.report is not None:
                    self.report(self._report(loss, median(speeds)))
                if time.monotonic() - saved > options.checkpoint_minutes * 60:
                    self._save()
                    saved = time.monotonic()
                if options.stop_after_steps is not None and progress.step - first >= options.stop_after_steps:
                    break
            self._save()
            done = self._spent() >= 1
            self.after = self._held_out_loss() if done and self.data.held_out else None
            log.write(progress, event="end", held_out=self.after)
        return done

    def _spent(self) -> float:
        """Part of the budget that is used up, 0 to 1 and more: by tokens or by the clock, whichever is ahead."""
        by_clock = self.progress.seconds / (60 * self.options.minutes) if self.options.minutes else 0.0
        return max(self.progress.tokens / self.total, by_clock)

    def _report(self, loss: float, speed: float) -> Report:
        progress, spent = self.progress, self._spent()
        left = max(progress.seconds * (1 - spent) / spent, 0.0)
        total = self.total if math.isfinite(self.total) else progress.tokens / spent
        return Report(STAGE, progress.step, progress.tokens, round(total), loss, {}, speed, left)

    def _step(self, factor: float) -> tuple[int, float, float]:
        """One update at `factor` times the peak rate: (tokens, loss in nats per taught token, norm of the gradient)."""
        torch.manual_seed(self.options.seed + self.progress.step)  # dropout of a run that goes on is what it would have been
        self.model.train()
        samples = self._next_samples()
        taught = sum(int(sample.taught.sum()) for sample in samples)
        total = 0.0
        for batch in _batches(samples, self.options.micro_tokens):
            loss = self._nats(batch) / taught
            loss.backward()
            total += loss.item()
        if not math.isfinite(total):
            raise FloatingPointError("the loss is not finite; lower the learning rate and go on from last.pt")
        norm = nn.utils.clip_grad_norm_(self.weights.values(), 1.0)
        for group in self.adamw.param_groups:
            group["lr"] = self.options.peak * factor
        self.adamw.step()
        self.adamw.zero_grad(set_to_none=True)
        return sum(len(sample.ids) for sample in samples), total, norm.item()

    def _next_samples(self) -> list[Sample]:
        """The next samples of the seeded order, a new one each epoch, up to the tokens of a step; moves the cursor."""
        picked: list[Sample] = []
        training, count = self.data.training, 0
        while count < self.batch_tokens:
            epoch, index = divmod(self.progress.row, len(training))
            order = np.random.default_rng((self.options.seed, epoch)).permutation(len(training))
            for row in order[index:]:
                picked.append(training[row])
                count += len(training[row].ids)
                self.progress.row += 1
                if count >= self.batch_tokens:
                    break
        return picked

    def _nats(self, batch: list[Tensor]) -> Tensor:
        """Sum of the cross-entropies of a batch's taught tokens."""
        ids, mask, targets = self.options.device.put(batch)
        with self.options.device.autocast():
            states = self.model.model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
            wanted = targets[targets != IGNORED]
            rows = states[targets != IGNORED]
            parts = zip(rows.split(HEAD_ROWS), wanted.split(HEAD_ROWS), strict=True)
            # logits are made again for the gradient: those of a whole batch need more memory than a small model
            return torch.stack([checkpoint(self._entropy, *part, use_reentrant=False) for part in parts]).sum()

    def _entropy(self, states: Tensor, wanted: Tensor) -> Tensor:
        logits = self.model.get_output_embeddings()(states).float() * getattr(self.model.config, "logit_scale", 1.0)
        return F.cross_entropy(logits, wanted, reduction="sum")

    def _held_out_loss(self) -> float:
        """Mean over the taught tokens of the held-out samples."""
        samples = self.data.held_out
        self.model.eval()
        with torch.no_grad():
            total = sum(self._nats(batch).item() for batch in _batches(samples, self.options.micro_tokens))
        return total / sum(int(sample.taught.sum()) for sample in samples)

    def _save(self) -> None:
        """Atomically: a crash leaves the checkpoint before it whole."""
        state = {
            "weights": {name: p.detach() for name, p in self.weights.items()},
            "adamw": self.adamw.state_dict(),
            "progress": asdict(self.progress),
            "settings": self.settings,
            "before": self.before,
        }
        part = self.last.with_suffix(".part")
        with part.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, self.last)

    def _restore(self) -> None:
        state = torch.load(self.last, weights_only=True, map_location="cpu")
        for name, value in state["settings"].items():
            now = self.settings.get(name)
            if now != value:
                what = "is another file than" if name == "data" else f"was {value!r}, now it is {now!r}, for"
                raise RecipeError(f"{name} {what} the run in {self.last.parent}; go on with the same, or choose another folder")
        with torch.no_grad():
            for name, value in state["weights"].items():
                self.weights[name].copy_(value)
        self.adamw.load_state_dict(state["adamw"])
        self.progress, self.before = Progress(**state["progress"]), state["before"]


def _batches(samples: Sequence[Sample], micro_tokens: int) -> Iterator[list[Tensor]]:
    """Samples of like length together, padded behind: ids, attention mask and targets, int64 [n, longest]."""
    group: list[Sample] = []
    for sample in sorted(samples, key=lambda sample: len(sample.ids)):
        if group and (len(group) + 1) * len(sample.ids) > micro_tokens:
            yield _padded(group)
            group = []
        group.append(sample)
    if group:
        yield _padded(group)


def _padded(samples: list[Sample]) -> list[Tensor]:
    shape = (len(samples), len(samples[-1].ids))
    ids, mask, targets = np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.full(shape, IGNORED, np.int64)
    for row, sample in enumerate(samples):
        ids[row, : len(sample.ids)] = sample.ids
        mask[row, : len(sample.ids)] = 1
        targets[row, : len(sample.ids) - 1] = np.where(sample.taught, sample.ids, IGNORED)[1:]
    return [torch.from_numpy(part) for part in (ids, mask, targets)]
