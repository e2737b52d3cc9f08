"""The reward model: a scalar head on the last state of the fine-tuned net, trained on which of two answers is better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from senryu.train.answers import AnswerRows, last_states, of_all
from senryu.train.checkpoint import Progress, load_weights
from senryu.train.net import Net, NetConfig
from senryu.train.objective import Loss, Part
from senryu.train.recipe import RecipeError, StageRecipe


@dataclass(frozen=True)
class RewardOptions:
    """What the stage has beside the keys of all stages: the table [reward.options]."""

    centre: float = 0.01  # weight of what keeps scores near 0
    held_out: float = 0.1  # part of the pairs that accuracy is measured on at the end

    def __post_init__(self) -> None:
        if self.centre < 0 or not 0 <= self.held_out < 1:
            raise RecipeError("[reward.options]: centre must not be negative, and held_out in [0, 1); change them")


class RewardNet(Net):
    """A net with a direction in its last state along which answers are better. Its state dict has `score` [hidden] beside."""

    def __init__(self, config: NetConfig) -> None:
        super().__init__(config)
        self.score = nn.Parameter(torch.zeros(config.hidden_size))  # a vector: AdamW's, as all that is no hidden matrix

    def scores(self, batch: Sequence[Tensor]) -> Tensor:
        """[answers] of a batch (tokens, document, owner, targets), in the order of their numbers."""
        return last_states(self, batch).float() @ self.score


def from_net(net: Net) -> RewardNet:
    """A reward model that starts from a net's weights and scores all answers alike."""
    made = RewardNet(net.config).to(net.model.norm.weight.device)
    made.model.load_state_dict(net.model.state_dict())
    return made


def load_reward(path: Path, config: NetConfig) -> RewardNet:
    """The trained reward model of a checkpoint. Raises RecipeError if there is none."""
    if not path.exists():
        raise RecipeError(f"{path} does not exist; train the stage `reward` first, or set model = 0 in [rl]")
    net = RewardNet(config)
    load_weights(path, net)
    return net.requires_grad_(False)


@dataclass(frozen=True)
class Comparisons:
    """Bradley-Terry loss on rows of pairs: answers 2i are better than answers 2i + 1.

    -log sigmoid(r_better - r_worse) + centre (r_better + r_worse)^2; the second term keeps scores near 0, where a reward of
    differences alone would let them drift (Eisenstein et al. 2023, arXiv 2312.09244).
    """

    rows: AnswerRows
    stage: StageRecipe
    options: RewardOptions = RewardOptions()

    def batch(self, net: Net, progress: Progress, part: Part) -> list[Tensor]:
        """Tokens, document numbers, owners and targets, int64 [rows, sequence]."""
        return self.rows.tensors(next_rows(self.rows, self.stage.batch_tokens, progress, part))

    def loss(self, net: Net, batch: list[Tensor]) -> Loss:
        """Mean over pairs; `accuracy` is the share of pairs in the right order."""
        assert isinstance(net, RewardNet)
        pairs = net.scores(batch).view(-1, 2)
        margin = pairs[:, 0] - pairs[:, 1]
        count = max(len(pairs), 1)
        total = (F.softplus(-margin) + self.options.centre * pairs.sum(1).square()).sum() / count
        figures = {"accuracy": (margin > 0).float(), "margin": margin.detach()}
        return Loss(total, len(pairs), {name: float(values.sum()) / count for name, values in figures.items()})


def next_rows(rows: AnswerRows, batch_tokens: int, progress: Progress, part: Part) -> np.ndarray:
    """This process's numbers of the next rows, walked in order and around; moves `progress.row` by the whole batch.

    Raises ValueError where a batch would hold a row twice, and with it two answers of one number.
    """
    count = batch_tokens // rows.tokens.shape[1]
    if count > len(rows.tokens):
        raise ValueError(f"{len(rows.tokens)} rows are less than a batch of {count}; pack at least as many")
    cursor = np.arange(progress.row, progress.row + count)[part.of(count)]
    progress.row += count
    return cursor % len(rows.tokens)


def accuracy(net: RewardNet, rows: AnswerRows, at_once: int) -> float:
    """The share of pairs that the model puts in the right order."""
    scores = of_all(net, rows, at_once, lambda net, batch: net.scores(batch)).reshape(-1, 2)
    return float((scores[:, 0] > scores[:, 1]).mean()) if len(scores) else float("nan")
