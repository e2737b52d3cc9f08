"""The parts of a batch that processes take are the whole batch, and a number that does not divide it is an error."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from senryu.train.checkpoint import Progress
from senryu.train.net import Net
from senryu.train.objective import PackedRows, Part
from senryu.train.recipe import Recipe, RecipeError
from senryu.train.vocabulary import BEGIN


@pytest.fixture
def objective(recipe: Recipe) -> PackedRows:
    """Five rows of 128 tokens, four a batch: the second batch goes around."""
    rows = np.random.default_rng(0).integers(BEGIN, 400, (5, 128)).astype(np.uint16)
    return PackedRows(rows, recipe.pretrain)


@pytest.mark.parametrize("decaying", [False, True])
def test_parts_of_a_batch_are_the_batch(objective: PackedRows, recipe: Recipe, decaying: bool) -> None:
    net = Net(recipe.net)
    for row in (0, 4):
        whole = objective.batch(net, Progress(row=row, decaying=decaying), Part())
        assert whole[0].shape == ((4, 128) if decaying else (8, 64))
        cursors = [Progress(row=row, decaying=decaying) for _ in range(2)]
        parts = [objective.batch(net, cursor, Part(rank, 2)) for rank, cursor in enumerate(cursors)]
        assert all(torch.equal(torch.cat(pieces), tensor) for *pieces, tensor in zip(*parts, whole, strict=True))
        assert [cursor.row for cursor in cursors] == [row + 4] * 2


def test_rows_come_again_all_of_them_in_another_order(objective: PackedRows, recipe: Recipe) -> None:
    progress = Progress(decaying=True)  # whole rows
    walked = [tuple(row) for _ in range(5) for row in objective.batch(Net(recipe.net), progress, Part())[0].tolist()]
    laps = [walked[at : at + 5] for at in range(0, 20, 5)]
    assert laps[0] == [tuple(row) for row in objective.rows.tolist()]
    assert all(set(lap) == set(laps[0]) for lap in laps)
    assert len({tuple(lap) for lap in laps}) > 1


def test_processes_that_cannot_share_a_batch_are_told_how_many_can(objective: PackedRows, recipe: Recipe) -> None:
    with pytest.raises(RecipeError, match="3 processes cannot share a batch of 4 rows"):
        objective.batch(Net(recipe.net), Progress(), Part(0, 3))


def test_the_loss_counts_the_tokens_behind_its_mean(objective: PackedRows, recipe: Recipe) -> None:
    net = Net(recipe.net)
    net.initialise(1)
    batch = objective.batch(net, Progress(), Part())
    with torch.no_grad():
        loss = objective.loss(net, batch)
        plain = replace(objective, stage=replace(objective.stage, z_loss=0.0)).loss(net, batch)
    assert loss.count == int((batch[2] >= 0).sum()) < batch[2].numel()
    assert loss.figures["entropy"] < float(loss.total)  # which has the z-loss on top
    assert float(plain.total) == pytest.approx(loss.figures["entropy"])
