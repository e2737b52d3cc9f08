"""The stages reward, dpo and rl of a run: from a model and pairs to checkpoints, held-out figures and an exported model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny import CONFIG, stage, tiny_net, tiny_tokenizer

from senryu.train.export import export
from senryu.train.loop import RunOptions
from senryu.train.recipe import Recipe, RecipeError, Source, build, load_recipe, recipe_text
from senryu.train.reward import load_reward
from senryu.train.rl import RlOptions
from senryu.train.run import Run
from senryu.train.stages import train, train_all
from senryu.train.vocabulary import write_tokenizer

PAIRS = {"mix": (Source("preference", 1.0, path="pairs.jsonl"),), "sequence": 128, "decay_sequence": 128, "tokens": 6 * 512}
ASKED = {"mix": (Source("generated", 0.5, name="arithmetic"), *(replace(s, share=0.5) for s in PAIRS["mix"]))}
ROLLED: dict[str, Any] = {"sequence": 512, "decay_sequence": 512, "batch_tokens": 2048, "tokens": 4096, "prepare_tokens": 4096}
STAGES = {
    "reward": stage(**PAIRS),
    "dpo": stage(**PAIRS, options={"beta": 0.2}),
    "rl": stage(**ASKED, **ROLLED, decay_tokens=2048, options={"group": 4, "max_tokens": 24, "model": 0.5, "updates": 2}),
}


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    base = load_recipe(next(Path(__file__).parents[2].glob("recipes/nano.toml")))
    tokenizer = replace(base.tokenizer, vocab_size=CONFIG.vocab_size)
    base = replace(
        base, net=CONFIG, tokenizer=tokenizer, pretrain=replace(base.pretrain, clock=0), sft=replace(base.sft, clock=0)
    )
    return replace(base, long=None, constitutional=None, **STAGES)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, recipe: Recipe) -> Run:
    """The three stages, run through."""
    torch.set_num_threads(1)
    data, model, out = (tmp_path_factory.mktemp(name) for name in ("data", "model", "out"))
    good, bad = ("Yes, gladly.", "Of course."), ("No.", "Why should I?")
    pairs = [
        {"messages": [{"role": "user", "content": f"Help {n}"}], "chosen": good[n % 2], "rejected": bad[n % 3 % 2]}
        for n in range(100)
    ]
    (data / "pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    write_tokenizer(tiny_tokenizer(), model, 1000)
    export(tiny_net(), model, model)
    (out / "data").mkdir()
    np.save(out / "data" / "sft.npy", np.array([[1, 4, 70, 2, 5, 80 + n % 9, 81, 2] for n in range(256)], np.uint16))
    made = Run(recipe, data, RunOptions(out), model)
    assert [name for name, _ in train_all(made, tuple(STAGES))] == list(STAGES)
    return replace(made, start=None)


def summary(run: Run, name: str) -> dict[str, Any]:
    return json.loads((run.out / name / "summary.json").read_text())


def test_stages_follow_each_other_and_measure_held_out_pairs(run: Run) -> None:
    reward, dpo, rl = (summary(run, name) for name in STAGES)
    assert reward["parameters"] == dpo["parameters"] + CONFIG.hidden_size
    assert (reward["held_out_pairs"], dpo["held_out_pairs"]) == (dpo["held_out_pairs"], reward["held_out_pairs"])
    assert reward["held_out_pairs"] > 3
    assert min(reward["held_out_accuracy"], dpo["held_out_accuracy"]) > 0.9
    assert rl["start"] == "dpo"
    assert (run.out / "model" / "model.safetensors").exists()
    entries = [json.loads(line) for line in (run.out / "rl" / "log.jsonl").read_text().splitlines()]
    assert {"reward", "reward_task", "reward_model", "kl", "length", "replay", "clipped"} <= set(entries[0])
    assert json.loads((run.out / "data" / "dpo.json").read_text()) == {"pairs.jsonl:preference": 100}


def test_the_reward_model_is_no_start_for_the_next_stage(run: Run, tmp_path: Path) -> None:
    assert summary(run, "dpo")["start"] != "reward"
    assert load_reward(run.out / "reward" / "last.pt", CONFIG).score.abs().sum() > 0


def test_the_reference_is_kept_for_the_weights_that_it_was_made_with(run: Run) -> None:
    """Resuming reads it; other weights have another."""
    path = run.out / "dpo" / "reference.npz"
    before = path.stat().st_mtime_ns
    again = replace(run, options=replace(run.options, resume=True), start=Path(summary(run, "dpo")["start"]))
    train(again, "dpo")
    assert path.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"baseline": "mean"}, "use rloo or grpo"),
        ({"group": 1}, "group must be at least 2"),
        ({"groups": 4}, "unknown key `groups`"),
        ({"kl": -0.1}, "must not be negative"),
        ({"group": 3, "max_tokens": 24}, "must divide the 4 answers"),
        ({"group": 4, "max_tokens": 600}, "leave room for a prompt"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        build(RlOptions, options, "[rl.options]").prompts(STAGES["rl"])


def test_stages_stand_in_recipes(tmp_path: Path, recipe: Recipe) -> None:
    (tmp_path / "all.toml").write_text(recipe_text(recipe))
    assert load_recipe(tmp_path / "all.toml") == recipe
    text = recipe_text(recipe).replace('kind = "preference"', 'kind = "chat"')
    (tmp_path / "wrong.toml").write_text(text)
    with pytest.raises(RecipeError, match="use preference, generated"):
        load_recipe(tmp_path / "wrong.toml")


def test_a_reward_model_that_counts_must_be_there(run: Run, tmp_path: Path) -> None:
    (tmp_path / "dpo").mkdir()
    (tmp_path / "data").mkdir()
    for name in ("dpo/last.pt", "data/tokenizer.json", "data/sft.npy"):
        (tmp_path / name).write_bytes((run.out / name).read_bytes())
    with pytest.raises(RecipeError, match="train the stage `reward` first"):
        train(replace(run, options=RunOptions(tmp_path)), "rl")
