"""docs/training.md: its own code makes data, recipe and constitution, and every stage runs on them from the shipped model."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import senryu.models
from senryu.train.loop import RunOptions
from senryu.train.recipe import load_recipe
from senryu.train.run import Run, settle
from senryu.train.stages import train_all

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "training.md").read_text()
MINI = Path(senryu.models.__path__[0]) / "mini"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout in which the first two chapters were typed."""
    at = tmp_path_factory.mktemp("checkout")
    for name in ("recipes", "src"):
        (at / name).symlink_to(ROOT / name)
    for block in re.findall(r"```sh\n(cat > .*?)```", TEXT, re.S):
        script = block.replace("python make_data.py", f"{sys.executable} make_data.py")
        script = "\n".join(line for line in script.splitlines() if not line.startswith("senryu "))
        subprocess.run(["bash", "-e", "-c", script], cwd=at, check=True, env={**os.environ, "PYTHONWARNINGS": "error"})
    return at


def test_its_own_recipe_runs_every_stage_from_the_shipped_model(folder: Path, tmp_path: Path) -> None:
    torch.set_num_threads(1)
    recipe = load_recipe(folder / "mine" / "recipe.toml")
    assert recipe.name == "shop"
    small = {"tokens": 2048, "prepare_tokens": 8_000, "decay_tokens": 1024, "warmup_tokens": 0, "batch_tokens": 1024}
    lengths = {"sequence": 1024, "decay_sequence": 1024}
    short = {name: replace(stage, **small, **lengths) for name, stage in recipe.stages.items()}
    short["constitutional"] = replace(short["constitutional"], options={**recipe.stages["constitutional"].options, "pairs": 3})
    run = Run(settle(replace(recipe, **short), tmp_path, MINI), folder / "mine", RunOptions(tmp_path), MINI)
    assert [name for name, _ in train_all(run)] == ["pretrain", "sft", "constitutional"]
    manifest = json.loads((tmp_path / "data" / "manifest.json").read_text())
    assert "chat.jsonl" in json.dumps(manifest)
    report = json.loads((tmp_path / "constitutional" / "report.json").read_text())
    assert report["judge"]
    assert (tmp_path / "model" / "tokenizer.json").read_bytes() == (MINI / "tokenizer.json").read_bytes()
