"""What `make train-toy` does, by the same code: every stage, then the model is served and answers. CI runs `make train-toy`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.train import end_to_end

from senryu.train.recipe import load_recipe

pytestmark = pytest.mark.slow  # minutes


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("toy") / "run"
    end_to_end.train(out)
    return out


def test_every_stage_of_the_recipe_ran_from_the_one_before(run: Path) -> None:
    stages = list(load_recipe(end_to_end.RECIPE).stages)
    assert stages == ["pretrain", "sft", "long", "constitutional", "reward", "dpo", "rl"]
    told = [line.split("\t") for line in end_to_end.report(run).splitlines()]
    assert [row[0] for row in told] == stages
    assert [row[1] for row in told] == ["seed", "pretrain", "sft", "long", "constitutional", "constitutional", "dpo"]


def test_pretraining_and_fine_tuning_learn(run: Path) -> None:
    for stage in ("pretrain", "sft"):
        entries = [json.loads(line) for line in (run / stage / "log.jsonl").read_text().splitlines()]
        losses = [entry["loss"] for entry in entries if "loss" in entry]
        assert sum(losses[-3:]) < 0.8 * sum(losses[:3])


def test_the_model_is_served_and_answers(run: Path) -> None:
    answer = end_to_end.ask(run)
    assert answer["type"] == "message"
    assert answer["usage"]["input_tokens"] > 0
    assert answer["usage"]["output_tokens"] > 0
    assert answer["stop_reason"] in ("end_turn", "max_tokens")
