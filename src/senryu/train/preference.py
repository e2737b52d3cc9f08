"""The preference stages of a run's folder: what reward, dpo and rl prepare, train on, and measure at the end.

RUN/data/reward.npz and dpo.npz hold rows of pairs; RUN/dpo/reference.npz the log-probabilities that training started from.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from senryu.train import dpo, reward, rl
from senryu.train.answers import AnswerRows, of_all, pack_answers
from senryu.train.device import Device
from senryu.train.net import Net
from senryu.train.preferences import PairRows, prepare
from senryu.train.prompts import Tasks
from senryu.train.recipe import Recipe, RecipeError, StageRecipe, build
from senryu.train.rewards import Rewards

KINDS = ("train", "held_out")
PARTS = ("tokens", "owner", "targets")


def prepare_pairs(name: str, recipe: Recipe, data: Path, out: Path) -> None:
    """Rows of pairs of the stage `reward` or `dpo`, from files of the run's folder or the bundle and from generators."""
    stage = recipe.stages[name]
    held_out = _reward_options(stage).held_out if name == "reward" else _dpo_options(stage).held_out
    tokenizer = Tokenizer.from_file(str(out / "data" / "tokenizer.json"))
    pairs = prepare(stage, held_out, recipe.seed, (out, data), tokenizer)
    _save(out / "data" / f"{name}.npz", {f"{k}_{part}": getattr(getattr(pairs, k), part) for k in KINDS for part in PARTS})
    (out / "data" / f"{name}.json").write_text(json.dumps(pairs.counts, indent=2) + "\n", encoding="utf8")


def load_pairs(name: str, out: Path) -> PairRows:
    """What `prepare_pairs` wrote."""
    with np.load(out / "data" / f"{name}.npz") as arrays:
        train, held_out = (AnswerRows(*(arrays[f"{k}_{part}"] for part in PARTS)) for k in KINDS)
    return PairRows(train, held_out, json.loads((out / "data" / f"{name}.json").read_text(encoding="utf8")))


def comparisons(stage: StageRecipe, out: Path) -> reward.Comparisons:
    """The reward model's objective."""
    return reward.Comparisons(load_pairs("reward", out).train, stage, _reward_options(stage))


def pairs(stage: StageRecipe, out: Path, net: Net, device: Device, *, writes: bool) -> dpo.Pairs:
    """DPO's objective; `net` has the weights that training starts from. writes: whether this process keeps the reference."""
    return dpo.Pairs(load_pairs("dpo", out).train, _references(stage, out, net, device, writes)[0], stage, _dpo_options(stage))


def _references(stage: StageRecipe, out: Path, net: Net, device: Device, writes: bool) -> list[np.ndarray]:
    """Of KINDS, the log-probability of each answer under `net`: computed, or read where it was for these weights and pairs."""
    path, rows = out / "dpo" / "reference.npz", load_pairs("dpo", out)
    digest = hashlib.sha256()
    weights = [tensor.cpu().numpy() for tensor in net.state_dict().values()]
    for array in (*weights, *(getattr(getattr(rows, k), part) for k in KINDS for part in PARTS)):
        digest.update(array.tobytes())
    if path.exists():
        with np.load(path) as kept:
            if str(kept["key"]) == digest.hexdigest():
                return [kept[k] for k in KINDS]
    net.to(device.name)
    with device.autocast():
        found = [dpo.reference(net, getattr(rows, k), _at_once(stage)) for k in KINDS]
    if writes:
        path.parent.mkdir(parents=True, exist_ok=True)
        _save(path, {"key": np.array(digest.hexdigest()), **dict(zip(KINDS, found))})
    return found


def rollouts(recipe: Recipe, data: Path, out: Path, net: Net, device: Device) -> rl.Rollouts:
    """The objective of learning from rewards; `net` has the weights that training starts from."""
    stage = recipe.stages["rl"]
    options = build(rl.RlOptions, stage.options, "[rl.options]")
    options.prompts(stage)
    tokenizer = Tokenizer.from_file(str(out / "data" / "tokenizer.json"))
    tasks = Tasks(stage, options.max_tokens, recipe.seed, (out, data), tokenizer)
    reference = Net(net.config)
    reference.load_state_dict(net.state_dict())
    reference.requires_grad_(False).to(device.name)
    model = None
    if options.model:
        judge = reward.load_reward(out / "reward" / "last.pt", net.config).to(device.name)

        def model(asked: Sequence[Any]) -> np.ndarray:
            rows = pack_answers([[each] for each in asked], stage.sequence)
            return of_all(judge, rows, _at_once(stage), lambda net, batch: net.scores(batch))

    rows = out / "data" / "sft.npy"
    if options.replay and not rows.exists():
        raise RecipeError(f"{rows} does not exist; run the stage sft first, or set replay = 0 in [rl.options]")
    rewards = Rewards(options.weights, options.max_tokens, tokenizer, model)
    replay = np.load(rows, mmap_mode="r") if options.replay else None
    return rl.Rollouts(stage, options, tasks.take, rewards, reference, recipe.seed, replay)


def measure(name: str, stage: StageRecipe, out: Path, net: Net, device: Device) -> dict[str, Any]:
    """How many held-out pairs a finished `reward` or `dpo` has, and the share that it puts in the right order."""
    rows = load_pairs(name, out).held_out
    plain = type(net)(net.config).to(device.name)  # not the compiled one, which would be compiled again for other shapes
    plain.load_state_dict(net.state_dict())
    with device.autocast():
        if name == "reward":
            assert isinstance(plain, reward.RewardNet)
            right = reward.accuracy(plain, rows, _at_once(stage))
        else:
            with np.load(out / "dpo" / "reference.npz") as kept:
                right = dpo.accuracy(plain, rows, kept["held_out"], _at_once(stage))
    count = (int(rows.owner.max(initial=-1)) + 1) // 2
    return {"held_out_pairs": count, "held_out_accuracy": round(right, 4) if count else None}


def _reward_options(stage: StageRecipe) -> reward.RewardOptions:
    return build(reward.RewardOptions, stage.options, "[reward.options]")


def _dpo_options(stage: StageRecipe) -> dpo.DpoOptions:
    return build(dpo.DpoOptions, stage.options, "[dpo.options]")


def _at_once(stage: StageRecipe) -> int:
    """Rows at a time where nothing is trained: those of a batch."""
    return stage.batch_tokens // stage.sequence


def _save(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Whole or not at all."""
    part = path.with_suffix(".part.npz")
    np.savez_compressed(part, **arrays)  # type: ignore[arg-type]
    os.replace(part, path)
