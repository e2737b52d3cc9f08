"""The loop: a run that is killed goes on as if nothing had been, its log included; reports; dropout; little memory."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from senryu.train.checkpoint import Progress
from senryu.train.log import Log
from senryu.train.loop import LOG_EVERY, Report, RunOptions, run_stage
from senryu.train.net import Net
from senryu.train.objective import Loss, Objective, PackedRows
from senryu.train.recipe import Recipe, RecipeError, StageRecipe
from senryu.train.vocabulary import BEGIN

STEPS = 40


def stage_of(recipe: Recipe, steps: int = STEPS, **changes: Any) -> StageRecipe:
    batch = recipe.pretrain.batch_tokens
    return replace(recipe.pretrain, tokens=steps * batch, decay_tokens=steps // 3 * batch, dropout=0.1, **changes)


def train(
    recipe: Recipe, options: RunOptions, objective: Callable[..., Objective] = PackedRows, steps: int = STEPS, **changes: Any
) -> Progress:
    """The toy recipe's net on its own schedule, with dropout, over random rows."""
    stage = stage_of(recipe, steps, **changes)
    rows = np.random.default_rng(0).integers(BEGIN, 400, (31, stage.decay_sequence)).astype(np.uint16)
    torch.manual_seed(recipe.seed)
    net = Net(recipe.net)
    net.initialise(recipe.seed)
    return run_stage(net, objective(rows, stage), stage, options)


SCRIPT = """
import sys
from pathlib import Path
import torch
from test_loop import train
from toy_bundle import TOY
from senryu.train.loop import RunOptions
from senryu.train.recipe import load_recipe

torch.set_num_threads(1)
report = lambda report: print(report.step, flush=True)
train(load_recipe(TOY), RunOptions(Path(sys.argv[1]), resume=True, checkpoint_minutes=0.0, report=report))
"""


def kill_at(step: int, out: Path) -> None:
    """Start the training of `train` as a process of its own and kill it after `step` steps, while it goes on."""
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n{SCRIPT}"
    with subprocess.Popen([sys.executable, "-c", code, str(out)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while int(process.stdout.readline()) < step:
            pass
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL  # it had not come to its end


def curve(folder: Path) -> list[dict[str, Any]]:
    """The log without what a clock says."""
    lines = (folder / "log.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in ("seconds", "tokens_per_second")} for line in lines]


def test_a_killed_run_goes_on_to_the_curve_of_one_that_was_not(recipe: Recipe, tmp_path: Path) -> None:
    train(recipe, RunOptions(tmp_path / "whole"))
    kill_at(13, tmp_path / "killed")
    at = torch.load(tmp_path / "killed" / "last.pt", weights_only=True)["progress"]["step"]
    assert 12 <= at < STEPS
    with (tmp_path / "killed" / "log.jsonl").open("a") as log:
        log.write('{"step": 99, "tokens": 50')  # a line that it was writing
    steps: list[int] = []
    train(recipe, RunOptions(tmp_path / "killed", resume=True, report=lambda report: steps.append(report.step)))
    assert steps == list(range(at + 1, STEPS + 1))
    assert curve(tmp_path / "killed") == curve(tmp_path / "whole")
    assert len(curve(tmp_path / "whole")) == 10 + (STEPS - 10) // LOG_EVERY + 2  # lines of steps, and two events
    whole, killed = (torch.load(tmp_path / n / "last.pt", weights_only=True)["net"] for n in ("whole", "killed"))
    assert all(torch.equal(whole[name], killed[name]) for name in whole)


def test_the_log_is_cut_where_the_checkpoint_stands(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    stand = Progress(step=2, tokens=20)
    with Log(path, None) as log:
        for step in (1, 2):
            log.write(replace(stand, step=step), loss=1.0 / 3)
        log.write(replace(stand, decaying=True), event="decay")  # after the checkpoint, if at the same step
        log.write(replace(stand, step=3, decaying=True), loss=0.5)
    with Log(path, stand) as log:
        log.write(stand, event="end")
    with Log(path, replace(stand, step=3, decaying=True)):  # which goes on
        pass
    kept = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(entry["step"], entry["loss"]) for entry in kept] == [(1, 0.33333), (2, 0.33333)]
    with Log(path, None):
        pass
    assert path.read_text() == ""  # a run from the start has no past


def test_reports_come_after_every_step_and_end_with_nothing_left(recipe: Recipe, tmp_path: Path) -> None:
    reports: list[Report] = []
    train(recipe, RunOptions(tmp_path / "pretrain", report=reports.append), steps=12)
    assert [report.step for report in reports] == list(range(1, 13))
    assert {(report.stage, report.total_tokens) for report in reports} == {("pretrain", 12 * 512)}
    assert all(report.tokens == report.step * 512 and report.tokens_per_second > 0 for report in reports)
    assert all(set(report.figures) == {"entropy"} and report.figures["entropy"] < report.loss for report in reports)
    assert reports[0].seconds_left == pytest.approx(11 * 512 / reports[0].tokens_per_second)
    assert reports[-1].seconds_left == 0


def test_a_time_budget_bounds_the_seconds_left(recipe: Recipe, tmp_path: Path) -> None:
    reports: list[Report] = []
    train(recipe, RunOptions(tmp_path, minutes=0.0, report=reports.append), steps=1000)
    assert [report.seconds_left == 0 for report in reports] == [True, True]  # the budget is over; then the decay is short


def test_dropout_follows_from_the_seed_and_is_off_outside_training(recipe: Recipe) -> None:
    tokens = torch.arange(64)[None]
    net = Net(recipe.net)
    net.initialise(1)
    for layer in net.model.layers:
        torch.nn.init.normal_(layer.mlp.down_proj.weight, std=0.1)
    with torch.no_grad():
        plain = net(tokens)
        net.drop(0.5)
        torch.manual_seed(1)
        dropped = net(tokens)
        assert not torch.equal(dropped, net(tokens))
        torch.manual_seed(1)
        assert torch.equal(dropped, net(tokens))
        assert torch.equal(plain, net.eval()(tokens))


def test_a_loss_that_is_no_number_stops_the_run_and_leaves_its_checkpoint(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(FloatingPointError, match="lower lr_matrix or lr_vector and resume"):
        train(recipe, RunOptions(tmp_path, checkpoint_minutes=0.0), steps=30, lr_vector=1e30)
    assert all(w.isfinite().all() for w in torch.load(tmp_path / "last.pt", weights_only=True)["net"].values())


@dataclass(frozen=True)
class Cramped(PackedRows):
    """On a device whose memory holds no step of nets that keep everything, or of any."""

    always: bool = False

    def loss(self, net: Net, batch: list[Tensor]) -> Loss:
        loss = super().loss(net, batch)
        if self.always or not net.model.recompute:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return loss


def test_a_step_that_memory_does_not_hold_is_taken_again_keeping_less(recipe: Recipe, tmp_path: Path) -> None:
    train(recipe, RunOptions(tmp_path / "roomy"), steps=12)
    train(recipe, RunOptions(tmp_path / "cramped"), Cramped, steps=12)
    assert curve(tmp_path / "cramped") == curve(tmp_path / "roomy")
    with pytest.raises(RecipeError, match="512 tokens a process is too large for the memory of cpu; lower batch_tokens"):
        train(recipe, RunOptions(tmp_path / "full"), partial(Cramped, always=True), steps=12)
