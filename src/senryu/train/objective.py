"""What a stage trains on and towards: the protocol between the loop and every stage, and the objective of packed rows."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from senryu.train.checkpoint import Progress
from senryu.train.net import Net
from senryu.train.pack import document_numbers, targets
from senryu.train.recipe import RecipeError, StageRecipe


@dataclass(frozen=True)
class Part:
    """Which part of every batch is this process's: the `rank`-th of `world` equal ones."""

    rank: int = 0
    world: int = 1

    def of(self, items: int) -> slice:
        """This process's items of a batch of `items`. Raises RecipeError unless they can be shared out evenly."""
        if items % self.world:
            raise RecipeError(
                f"{self.world} processes cannot share a batch of {items} rows (batch_tokens / decay_sequence) evenly; "
                f"start a number of processes that divides {items}, or change batch_tokens"
            )
        size = items // self.world
        return slice(self.rank * size, (self.rank + 1) * size)


WHOLE = Part()


@dataclass
class Loss:
    """What one batch came to."""

    total: Tensor  # scalar, the mean over `count` items: what is differentiated
    count: int  # items behind the mean (tokens, pairs): processes weigh by it, so that many give the loss of one
    figures: dict[str, float] = field(default_factory=dict)  # means over the same items, logged beside the loss


class Objective(Protocol):
    """What a stage trains on and towards. All that it needs to go on after a kill follows from `progress` and a seed."""

    def batch(self, net: Net, progress: Progress, part: Part) -> list[Tensor]:
        """This process's part of the next batch, on the CPU; moves `progress.row` by the whole batch."""
        ...

    def loss(self, net: Net, batch: list[Tensor]) -> Loss:
        """The loss of a batch that `batch` gave, by now on the net's device."""
        ...


@lru_cache(maxsize=2)
def _order(rows: int, lap: int) -> np.ndarray:
    """The order in which rows are walked the `lap`-th time; the first is the one in which they lie."""
    return np.arange(rows) if lap == 0 else np.random.default_rng(lap).permutation(rows)


@dataclass(frozen=True)
class PackedRows:
    """Next-token prediction on packed rows: pretraining, fine-tuning, long rows.

    rows: uint16 [n, decay_sequence], walked in order, then again and again in new orders; before the decay each is cut into
    rows of `sequence`.
    assistant_only: count only what an assistant says, and plain documents (`pack.targets`).
    """

    rows: np.ndarray
    stage: StageRecipe
    assistant_only: bool = False

    def batch(self, net: Net, progress: Progress, part: Part) -> list[Tensor]:
        """Tokens, document numbers and targets, int64 [rows, length]."""
        count = self.stage.batch_tokens // self.stage.decay_sequence
        cursor = np.arange(progress.row, progress.row + count)[part.of(count)]
        progress.row += count
        lap, at = np.divmod(cursor, len(self.rows))
        picked = self.rows[[_order(len(self.rows), int(n))[i] for n, i in zip(lap, at, strict=True)]]
        picked = picked.reshape(-1, self.stage.decay_sequence if progress.decaying else self.stage.sequence)
        wanted = targets(picked, assistant_only=self.assistant_only)
        return [torch.from_numpy(a) for a in (picked.astype(np.int64), document_numbers(picked), wanted)]

    def loss(self, net: Net, batch: list[Tensor]) -> Loss:
        """Cross-entropy and z-loss in nats a token; `entropy` is the first alone."""
        tokens, document, wanted = batch
        total, entropy = net.loss(tokens, document, wanted, self.stage.z_loss)
        return Loss(total, int((wanted >= 0).sum()), {"entropy": float(entropy.detach())})
