"""Checkpoints: everything a run needs to go on bit for bit - weights, optimiser state, position, schedule, seed."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from senryu.train.net import Net
from senryu.train.optim import Optimisers, Schedule


@dataclass
class Progress:
    """Where a stage stands. `row` is the data cursor; rows have the decay length."""

    step: int = 0
    tokens: int = 0
    row: int = 0
    seconds: float = 0.0  # of training, over all runs that resumed each other
    decaying: bool = False


def save_checkpoint(path: Path, net: Net, optimisers: Optimisers, progress: Progress, schedule: Schedule, seed: int) -> None:
    """Write atomically: a crash leaves the previous checkpoint whole. seed: of the stage's draws (dropout)."""
    state = {
        "net": net.state_dict(),
        "optimisers": optimisers.state_dict(),
        "progress": asdict(progress),
        "schedule": asdict(schedule),
        "seed": seed,
    }
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def load_checkpoint(path: Path, net: Net, optimisers: Optimisers) -> tuple[Progress, Schedule, int]:
    """Restore a run in place; its progress, schedule and seed.

    Raises FileNotFoundError, or RuntimeError where shapes differ from the recipe's."""
    state = torch.load(path, weights_only=True, map_location="cpu")
    net.load_state_dict(state["net"])
    optimisers.load_state_dict(state["optimisers"])
    return Progress(**state["progress"]), Schedule(**state["schedule"]), state["seed"]


def load_weights(path: Path, net: Net) -> None:
    """Only the weights of a checkpoint: where the next stage starts."""
    net.load_state_dict(torch.load(path, weights_only=True, map_location="cpu")["net"])
