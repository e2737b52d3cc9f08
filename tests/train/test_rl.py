"""RLOO and GRPO: gradients by hand, a trivial task that is learnt, prompts without end, runs that resume exactly."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tiny import CONFIG, ids, stage, tiny_net, tiny_tokenizer
from torch import nn

from senryu.train.answers import of_all, pack_answers
from senryu.train.checkpoint import Progress
from senryu.train.loop import RunOptions, run_stage
from senryu.train.net import Net
from senryu.train.objective import Part
from senryu.train.prompts import Tasks
from senryu.train.recipe import RecipeError, Source, StageRecipe
from senryu.train.reward import from_net
from senryu.train.rewards import Rewards, Said, Task
from senryu.train.rl import RlOptions, Rollouts, advantages
from senryu.train.vocabulary import END

LETTERS = "ABCD"
NAMES = ("task", "model", "length", "repetition")


def letters(first: int, count: int) -> list[Task]:
    """Prompts that all want the same letter."""
    return [Task(ids(f"<|begin|><|user|>{n % 7}<|end|><|assistant|>"), "label", Said("B")) for n in range(first, first + count)]


@pytest.fixture(scope="module")
def speaker() -> Net:
    """A net that answers with one of four letters."""
    torch.set_num_threads(1)
    net = tiny_net()
    optimiser = torch.optim.AdamW(net.parameters(), lr=0.01)
    groups = [[(task.prompt, [*ids(LETTERS[n % 4]), END])] for n, task in enumerate(letters(0, 28))]
    tokens, document, _, targets = pack_answers(groups, 64).tensors(slice(None))
    for _ in range(25):
        net.loss(tokens, document, targets, 0.0)[0].backward()
        optimiser.step()
        optimiser.zero_grad()
    return net


def copied(net: Net) -> Net:
    made = Net(net.config)
    made.load_state_dict(net.state_dict())
    return made


def rollouts(speaker: Net, steps: int = 8, **options: Any) -> Rollouts:
    return objective(stage(tokens=steps * 512, sequence=16, lr_matrix=0.003, lr_vector=0.001), speaker, max_tokens=4, **options)


def objective(settings: StageRecipe, reference: Any, model: Any = None, **options: Any) -> Rollouts:
    made = RlOptions(**options)
    rewards = Rewards(made.weights, made.max_tokens, tiny_tokenizer(), model)
    return Rollouts(settings, made, letters, rewards, reference, seed=5)


def run(net: Net, objective: Rollouts, folder: Path, **options: Any) -> list[dict[str, Any]]:
    run_stage(net, objective, objective.stage, RunOptions(folder, **options))
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("options", [{}, {"baseline": "grpo", "updates": 2}])
def test_the_reward_of_a_trivial_task_rises(tmp_path: Path, speaker: Net, options: dict[str, Any]) -> None:
    net = copied(speaker)
    entries = run(net, rollouts(speaker, 30, **options), tmp_path)
    rewards = [entry["reward_task"] for entry in entries if "reward_task" in entry]
    assert rewards[0] < 0.5
    assert rewards[-1] > 0.9
    assert entries[0]["kl"] == pytest.approx(0, abs=1e-5)
    assert 0 < entries[-2]["kl"] < 3


def test_kl_holds_the_net_near_its_reference(tmp_path: Path, speaker: Net) -> None:
    ends = [run(copied(speaker), rollouts(speaker, 25, kl=kl), tmp_path / str(kl))[-2] for kl in (0.0, 3.0)]
    assert ends[1]["kl"] < ends[0]["kl"] / 2
    assert ends[1]["reward_task"] < ends[0]["reward_task"]


class Bigram(nn.Module):
    """Just enough of a net: the logits of the next token are a column of a table."""

    def __init__(self, table: np.ndarray) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.from_numpy(table))
        self.config = SimpleNamespace(logit_scale=1.0)
        self.model = SimpleNamespace(embed_tokens=SimpleNamespace(weight=self.table))

    def hidden(self, tokens: torch.Tensor, document: torch.Tensor) -> torch.Tensor:
        return nn.functional.one_hot(tokens, len(self.table)).to(self.table.dtype)


@pytest.mark.parametrize("baseline", ["rloo", "grpo"])
def test_gradients_are_those_worked_out_by_hand(baseline: str) -> None:
    draw = np.random.default_rng(3)
    table, base = draw.normal(size=(6, 6)), draw.normal(size=(6, 6))
    answers, rewards = [[1, 2], [3, 3, 1], [4], [2, 5]], np.array([[1.0, 0.0, 0.25, 1.0]])
    gains = advantages(rewards, baseline)[0]
    exact, total = np.zeros((6, 6)), 0.0
    for answer, reward in zip(answers, rewards[0], strict=True):
        others = (rewards.sum() - reward) / 3
        gain = reward - others if baseline == "rloo" else (reward - rewards.mean()) / (rewards.std() + 1e-4)
        divisor = 3 if baseline == "rloo" else len(answer)
        for before, token in zip([0, *answer], answer):
            log_p, log_q = (t[:, before] - np.log(np.exp(t[:, before]).sum()) for t in (table, base))
            ahead = log_q[token] - log_p[token]
            slope = -gain + 0.5 * (1 - np.exp(ahead))  # by the log-probability of the token
            exact[:, before] += slope / divisor / 4 * ((np.arange(6) == token) - np.exp(log_p))
            total += (-gain + 0.5 * (np.exp(ahead) - ahead - 1)) / divisor / 4
    rows = pack_answers([[([0], answer)] for answer in answers], 8)
    net, reference = Bigram(table), Bigram(base)
    target = objective(stage(), reference, baseline=baseline, group=4, kl=0.5, max_tokens=3)
    batch = [*rows.tensors(slice(None)), torch.zeros(8), torch.from_numpy(gains), torch.ones(4, 3)]
    loss = target.loss(net, batch)  # type: ignore[arg-type]
    loss.total.backward()
    assert loss.total.item() == pytest.approx(total, rel=1e-5)
    np.testing.assert_allclose(net.table.grad, exact, rtol=1e-4, atol=1e-6)


def test_ratios_are_to_the_probabilities_as_drawn_and_clipped() -> None:
    table = np.random.default_rng(4).normal(size=(6, 6))
    net = Bigram(table)
    log_p = torch.from_numpy(table).log_softmax(0)[[1, 2, 3], 0].float()
    target = objective(stage(), net, updates=2, kl=0.0, clip=0.2, max_tokens=1)
    rows = pack_answers([[([0], [token])] for token in (1, 2, 3)], 8)
    batch = [*rows.tensors(slice(None)), log_p - torch.tensor([0.5, 0.1, -0.5]), torch.tensor([1.0, 1.0, -1.0])]
    loss = target.loss(net, [*batch, torch.ones(3, 3)])  # type: ignore[arg-type]
    assert loss.total.item() == pytest.approx(-(1.2 + np.exp(0.1) - 0.8) / 3, rel=1e-5)
    loss.total.backward()
    assert net.table.grad is not None
    assert loss.figures["clipped"] == pytest.approx(2 / 3)


def test_advantages() -> None:
    rewards = np.array([[1.0, 0.0, 0.0], [2.0, 2.0, 2.0]])
    np.testing.assert_allclose(advantages(rewards, "rloo"), [[1, -0.5, -0.5], [0, 0, 0]])
    np.testing.assert_allclose(advantages(rewards, "grpo"), [[1.4139, -0.7070, -0.7070], [0, 0, 0]], rtol=1e-3)


def test_a_resumed_run_ends_as_an_uninterrupted_one(tmp_path: Path, speaker: Net) -> None:
    ends = []
    for folder, stops in ((tmp_path / "whole", (None,)), (tmp_path / "parts", (3, 2, None))):
        for stop in stops:
            net = copied(speaker)
            run(net, rollouts(speaker), folder, resume=True, stop_after_steps=stop)
        ends.append(net.state_dict())
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


@pytest.mark.parametrize("length", [8, 128])  # of replayed rows: 16 and 1 a step
def test_processes_share_prompts_out(speaker: Net, length: int) -> None:
    """Together they draw the answers of one process, and their mean loss is its loss, replayed rows included."""
    replay = np.array([[1, 4, 70, 2, 5, 80 + n, 81, 2] * (length // 8) for n in range(64)], np.uint16)
    losses, drawn = [], []
    for parts in ([Part()], [Part(0, 2), Part(1, 2)]):
        objectives = [replace(rollouts(speaker), replay=replay, _ready={}) for _ in parts]
        batches = [each.batch(speaker, Progress(), part) for each, part in zip(objectives, parts, strict=True)]
        made = [each.loss(speaker, batch) for each, batch in zip(objectives, batches, strict=True)]
        drawn.append(sorted(tuple(row) for batch in batches for row in batch[0].tolist()))
        losses.append(sum(loss.total.item() * loss.count for loss in made) / sum(loss.count for loss in made))
    assert drawn[0] == drawn[1]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_reward_model_and_penalties_count_beside_the_task(speaker: Net) -> None:
    judge = from_net(speaker)
    torch.nn.init.normal_(judge.score, generator=torch.Generator().manual_seed(2))

    def scores(asked: list[Any]) -> np.ndarray:
        return of_all(judge, pack_answers([[each] for each in asked], 16), 4, lambda net, batch: net.scores(batch))

    target = rollouts(speaker, model=scores)
    target = replace(target, options=RlOptions(model=0.5, max_tokens=4), rewards=replace(target.rewards, names=NAMES))
    batch = target.batch(speaker, Progress(), Part())
    figures = target.loss(speaker, batch).figures
    assert {"reward_task", "reward_model", "reward_length", "reward_repetition"} <= set(figures)
    components = batch[6]
    assert components.shape == (32, 4)
    assert figures["reward"] == pytest.approx((components @ torch.tensor([1.0, 0.5, -0.1, -0.2])).mean().item(), rel=1e-4)
    torch.testing.assert_close(components[:, 1], judge.scores(batch[:4]).detach(), rtol=1e-4, atol=1e-4)


# Prompts


def test_prompts_are_the_same_wherever_one_begins(tmp_path: Path) -> None:
    pair = {"messages": [{"role": "user", "content": "Hi"}], "chosen": "Hello.", "rejected": "No."}
    (tmp_path / "pairs.jsonl").write_text(json.dumps(pair) + "\n")
    mix = (
        Source("generated", 0.4, name="arithmetic"),
        Source("generated", 0.4, name="tools"),
        Source("preference", 0.2, path="pairs.jsonl"),
    )
    settings = stage(mix=mix, sequence=2048)
    tasks = Tasks(settings, 200, 3, (tmp_path,), tiny_tokenizer())
    some = tasks.take(0, 60)
    assert some[20:25] == tasks.take(20, 5) == Tasks(settings, 200, 3, (tmp_path,), tiny_tokenizer()).take(20, 5)
    assert {task.check for task in some} >= {"", "calls", "number", "words"}
    assert all(len(task.prompt) + 200 <= 2048 for task in some)
    tight = Tasks(replace(settings, sequence=210), 200, 3, (tmp_path,), tiny_tokenizer())
    with pytest.raises(RecipeError, match="do not fit sequence = 210"):
        Tasks(replace(settings, sequence=210, mix=mix[:1]), 200, 3, (tmp_path,), tiny_tokenizer()).take(0, 1)
    assert {task.check for task in tight.take(0, 3)} == {""}


def test_labelled_messages_are_prompts(bundle: Path) -> None:
    mix = (Source("intent_prompts", 1.0, path="sft/tasks.jsonl.xz"),)
    tasks = Tasks(stage(mix=mix, sequence=1024), 128, 3, (bundle,), tiny_tokenizer())
    wanted = {(task.check, task.wanted.text) for task in islice(tasks.take(0, 30), 30) if task.wanted}
    assert wanted == {("label", "card_arrival"), ("label", "card_lost")}
    assert CONFIG.vocab_size > max(max(task.prompt) for task in tasks.take(0, 3))
