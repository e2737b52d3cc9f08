"""Direct preference optimisation: pairs of answers move a net's own log-probabilities, held near those it started with."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from senryu.train.answers import AnswerRows, answer_log_probs, local, log_probs, of_all, sums
from senryu.train.checkpoint import Progress
from senryu.train.net import Net
from senryu.train.objective import Loss, Part
from senryu.train.recipe import RecipeError, StageRecipe
from senryu.train.reward import next_rows


@dataclass(frozen=True)
class DpoOptions:
    """What the stage has beside the keys of all stages: the table [dpo.options]."""

    beta: float = 0.1  # how dear it is to move away from the reference
    smoothing: float = 0.0  # part of the pairs that are taken to be in the wrong order
    sft: float = 0.1  # weight of the better answer's own loss
    normalised: bool = False  # log-probabilities a token instead of a whole answer
    held_out: float = 0.1  # part of the pairs that accuracy is measured on at the end

    def __post_init__(self) -> None:
        if self.beta <= 0 or not 0 <= self.smoothing < 0.5 or self.sft < 0 or not 0 <= self.held_out < 1:
            raise RecipeError(
                "[dpo.options]: beta must be above 0, smoothing in [0, 0.5), sft not negative, held_out in [0, 1); change them"
            )


def reference(net: Net, rows: AnswerRows, at_once: int) -> np.ndarray:
    """float32 [answers]: the log-probability of each answer under the net as it is now; computed once, before training."""
    return of_all(net, rows, at_once, answer_log_probs)


@dataclass(frozen=True)
class Pairs:
    """DPO (Rafailov et al. 2023, arXiv 2305.18290, equation 7) on rows of pairs: answers 2i are better than answers 2i + 1.

    With h = beta (log-probability over the reference's, better less worse): -(1 - smoothing) log sigmoid(h) -
    smoothing log sigmoid(-h), and `sft` times the better answer's loss a token. normalised: log-probabilities a token.
    """

    rows: AnswerRows
    reference: np.ndarray
    stage: StageRecipe
    options: DpoOptions = DpoOptions()

    def batch(self, net: Net, progress: Progress, part: Part) -> list[Tensor]:
        """Tokens, document numbers, owners and targets, int64 [rows, sequence]; the reference's float32 [answers]."""
        batch = self.rows.tensors(next_rows(self.rows, self.stage.batch_tokens, progress, part))
        return [*batch, torch.from_numpy(self.reference)[local(batch[2])[0]]]

    def loss(self, net: Net, batch: list[Tensor]) -> Loss:
        """Mean over pairs. `accuracy`: pairs with h > 0; `margin`: h; `chosen`: the better answer's part of it; `kl`: from the
        reference, k3 of whole answers a token, over both answers (Schulman 2020, "Approximating KL divergence")."""
        *rows, before = batch
        values, places = log_probs(net, rows)
        now = sums(values, places, len(before))
        lengths = sums(torch.ones_like(values), places, len(before)).clamp(min=1)
        gains = (now - before) / lengths if self.options.normalised else now - before
        rewards = self.options.beta * gains.view(-1, 2)
        h = rewards[:, 0] - rewards[:, 1]
        smoothing = self.options.smoothing
        losses = (1 - smoothing) * F.softplus(-h) + smoothing * F.softplus(h)
        losses = losses - self.options.sft * (now / lengths).view(-1, 2)[:, 0]
        count = max(len(h), 1)
        moved = ((before - now) / lengths).detach()
        kl = (torch.expm1(moved) - moved).view(-1, 2).mean(1)
        figures = {"accuracy": (h > 0).float(), "margin": h.detach(), "chosen": rewards[:, 0].detach(), "kl": kl}
        return Loss(losses.sum() / count, len(h), {name: float(each.sum()) / count for name, each in figures.items()})


def accuracy(net: Net, rows: AnswerRows, before: np.ndarray, at_once: int) -> float:
    """The share of pairs whose better answer gained more, over the reference, than the worse one."""
    gains = (reference(net, rows, at_once) - before).reshape(-1, 2)
    return float((gains[:, 0] > gains[:, 1]).mean()) if len(gains) else float("nan")
