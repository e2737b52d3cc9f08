"""Reward model and DPO on pairs that can be told apart: accuracy and margins rise, the reference is exact, runs resume."""

from __future__ import annotations

import json
import math
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import ids, stage, tiny_net, tiny_tokenizer

from senryu.train import dpo, reward
from senryu.train.answers import AnswerRows, pack_answers
from senryu.train.checkpoint import Progress
from senryu.train.loop import RunOptions, run_stage
from senryu.train.objective import Part
from senryu.train.preferences import encode, generated, prepare, stored
from senryu.train.recipe import RecipeError, Source


def separable(count: int, seed: int = 0) -> AnswerRows:
    """The better answer has a letter in it, somewhere, that the worse one lacks."""
    draw = np.random.default_rng(seed)
    groups = []
    for _ in range(count):
        prompt, answer = (draw.integers(100, 130, draw.integers(2, 6)).tolist() for _ in range(2))
        place = draw.integers(len(answer))
        better, worse = ([*answer[:place], mark, *answer[place:], 2] for mark in (90, 91))
        groups.append([(prompt, better), (prompt, worse)])
    return pack_answers(groups, 64, least=8)


def run(net: Any, objective: Any, folder: Path, **options: Any) -> list[dict[str, Any]]:
    run_stage(net, objective, objective.stage, RunOptions(folder, **options))
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_a_reward_model_learns_what_is_better(tmp_path: Path) -> None:
    net = reward.from_net(tiny_net())
    unseen = separable(40, seed=1)
    assert reward.accuracy(net, unseen, 8) == 0  # all alike at the start: none is in the right order
    entries = run(net, reward.Comparisons(separable(150), stage()), tmp_path)
    assert entries[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert entries[-2]["accuracy"] > 0.9
    assert reward.accuracy(net, unseen, 8) > 0.9
    loaded = reward.load_reward(tmp_path / "last.pt", net.config)
    assert reward.accuracy(loaded, unseen, 8) == reward.accuracy(net, unseen, 8)
    with pytest.raises(RecipeError, match="train the stage `reward` first"):
        reward.load_reward(tmp_path / "none.pt", net.config)


def test_the_reward_loss_is_bradley_terry_with_centring() -> None:
    net = reward.from_net(tiny_net(random=True))
    torch.nn.init.normal_(net.score, std=0.3, generator=torch.Generator().manual_seed(1))
    rows = separable(3)
    loss = reward.Comparisons(rows, stage(), reward.RewardOptions(centre=0.1)).loss(net, rows.tensors(slice(None)))
    scores = net.scores(rows.tensors(slice(None))).detach().double().numpy().reshape(-1, 2)
    exact = np.log1p(np.exp(scores[:, 1] - scores[:, 0])) + 0.1 * scores.sum(1) ** 2
    assert loss.total.item() == pytest.approx(exact.mean(), rel=1e-5)
    assert loss.count == 3


@pytest.mark.parametrize("options", [{}, {"normalised": True, "smoothing": 0.1, "sft": 0.0}])
def test_dpo_widens_margins_and_keeps_near_the_reference(tmp_path: Path, options: dict[str, Any]) -> None:
    net, rows, unseen = tiny_net(), separable(150), separable(40, seed=1)
    before = dpo.reference(net, unseen, 8)
    objective = dpo.Pairs(rows, dpo.reference(net, rows, 3), stage(lr_matrix=0.003, lr_vector=0.001), dpo.DpoOptions(**options))
    entries = run(net, objective, tmp_path)
    assert entries[0]["margin"] == pytest.approx(0, abs=1e-5)
    assert entries[0]["kl"] == pytest.approx(0, abs=1e-5)
    margins = [entry["margin"] for entry in entries if "margin" in entry]
    assert margins[-1] > max(margins[2], 0.05)
    assert entries[-2]["accuracy"] > 0.9
    assert dpo.accuracy(net, unseen, before, 8) > 0.9


def test_the_dpo_loss_is_that_of_the_paper() -> None:
    """Against log-probabilities of `forward`, answer by answer."""
    net, start, rows = tiny_net(3, random=True), tiny_net(4, random=True), separable(3)
    settings = dpo.DpoOptions(beta=0.3, smoothing=0.2, sft=0.5)
    objective = dpo.Pairs(rows, dpo.reference(start, rows, 1), stage(), settings)
    batch = objective.batch(net, Progress(), Part())
    with torch.no_grad():
        loss = objective.loss(net, batch)
        table = {}
        for name, each in (("now", net), ("before", start)):
            log_p = each(batch[0], batch[1]).double().log_softmax(-1)
            picked = log_p.gather(-1, batch[3].clamp(min=0)[..., None])[..., 0] * (batch[3] >= 0)
            table[name] = np.array([picked[batch[2] == n].sum().item() for n in range(6)]).reshape(-1, 2)
    lengths = np.array([((batch[2] == n) & (batch[3] >= 0)).sum().item() for n in range(0, 6, 2)])
    h = 0.3 * np.diff(table["now"] - table["before"], axis=1)[:, 0] * -1
    exact = 0.8 * np.log1p(np.exp(-h)) + 0.2 * np.log1p(np.exp(h)) - 0.5 * table["now"][:, 0] / lengths
    assert loss.total.item() == pytest.approx(exact.mean(), rel=1e-4)
    assert loss.figures["margin"] == pytest.approx(h.mean(), rel=1e-3)
    np.testing.assert_allclose(objective.reference.reshape(-1, 2), table["before"], rtol=1e-4)


def test_a_resumed_run_ends_as_an_uninterrupted_one(tmp_path: Path) -> None:
    rows, settings = separable(30), stage(tokens=12 * 512, decay_tokens=512)
    ends = []
    for folder, stops in ((tmp_path / "whole", (None,)), (tmp_path / "parts", (5, 3, None))):
        for stop in stops:
            net = tiny_net()
            objective = dpo.Pairs(rows, dpo.reference(net, rows, 4), settings)
            run(net, objective, folder, resume=True, stop_after_steps=stop)
        ends.append(net.state_dict())
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_processes_share_rows_out(tmp_path: Path) -> None:
    """The mean of two processes' losses, weighed by their pairs, is the loss of one."""
    net, rows = tiny_net(random=True), separable(40)
    objective = dpo.Pairs(rows, dpo.reference(tiny_net(), rows, 4), stage())
    losses = []
    for parts in ([Part()], [Part(0, 2), Part(1, 2)]):
        made = [objective.loss(net, objective.batch(net, Progress(), part)) for part in parts]
        losses.append(sum(loss.total.item() * loss.count for loss in made) / sum(loss.count for loss in made))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


# Pairs


def test_generated_pairs_are_seeded_and_differ_in_the_answer_alone() -> None:
    some = list(islice(generated("tools", 3), 120))
    assert some == list(islice(generated("tools", 3), 120))
    assert all(row["chosen"] != row["rejected"] for row in some)
    prompt, chosen, rejected = encode(some[0], tiny_tokenizer())
    text = tiny_tokenizer().decode(prompt + chosen, skip_special_tokens=False)
    assert text.startswith("<|begin|><|tools|>")
    assert chosen[-1] == rejected[-1] == ids("<|end|>")[0]
    assert prompt[-1] == ids("<|assistant|>")[0]
    assert {"other_tool", "other_value", "left_out", "pretended", "twice", "called"} <= {row["way"] for row in some}


def test_a_mix_of_pairs_is_packed_and_partly_held_out(tmp_path: Path) -> None:
    lines = [{"messages": [{"role": "user", "content": f"Hi {n}"}], "chosen": "Hello.", "rejected": "No."} for n in range(60)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    mix = (Source("preference", 0.5, path="pairs.jsonl"), Source("generated", 0.5, name="retrieval", chars=400))
    settings = stage(mix=mix, sequence=2048, batch_tokens=4096)
    made = prepare(settings, 0.2, 1, (tmp_path / "nowhere", tmp_path), tiny_tokenizer())
    count = [len(np.unique(rows.owner[rows.owner >= 0])) // 2 for rows in (made.train, made.held_out)]
    assert made.counts["pairs.jsonl:preference"] == 60
    assert sum(count) == sum(made.counts.values())
    assert 0.1 < count[1] / sum(count) < 0.3
    again = prepare(settings, 0.2, 1, (tmp_path,), tiny_tokenizer())
    assert np.array_equal(made.train.tokens, again.train.tokens)


def test_stored_rows_that_are_no_pairs_are_named(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"messages": [], "chosen": "a", "rejected": "b"}\n{"messages": []}\n')
    with pytest.raises(RecipeError, match=r"pairs\.jsonl:2: no pair"):
        list(stored(path))
    mix = (Source("preference", 1.0, path="other.jsonl"),)
    with pytest.raises(RecipeError, match="run the stage that writes it"):
        prepare(stage(mix=mix), 0.1, 1, (tmp_path,), tiny_tokenizer())
