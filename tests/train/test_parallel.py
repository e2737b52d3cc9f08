"""Two real processes, started by torchrun, train as one does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from senryu.train.loop import RunOptions, run_stage
from senryu.train.net import Net
from senryu.train.objective import PackedRows
from senryu.train.recipe import Recipe, StageRecipe
from senryu.train.vocabulary import BEGIN, IDS, PAD

STEPS = 50
STAGE = StageRecipe(
    tokens=STEPS * 256,
    prepare_tokens=STEPS * 256,
    decay_tokens=STEPS * 64,
    warmup_tokens=1024,
    batch_tokens=256,
    sequence=32,
    decay_sequence=64,
    lr_matrix=0.01,
    lr_vector=0.003,
    weight_decay=0.05,
    mix=(),
)


def train(recipe: Recipe, rows: Path, options: RunOptions) -> None:
    """Rows in which the assistant says more in some than in others, so that processes count different numbers of tokens."""
    net = Net(recipe.net)
    net.initialise(options.part.rank)  # each its own: the group has to begin as rank 0 does
    run_stage(net, PackedRows(np.load(rows), STAGE, assistant_only=True), STAGE, options)


SCRIPT = """
import sys
from pathlib import Path
import torch
from test_parallel import train
from toy_bundle import TOY
from senryu.train.device import Device
from senryu.train.loop import RunOptions
from senryu.train.parallel import first_alone, joined
from senryu.train.recipe import load_recipe

torch.set_num_threads(1)
rows, out = map(Path, sys.argv[1:])
with joined(Device()) as (part, device):
    assert part.world == 2
    with first_alone(part):
        (out.parent / f"{out.name}.order").open("a").write(f"{part.rank}")
    train(load_recipe(TOY), rows, RunOptions(out, device=device, part=part))
"""


def torchrun(processes: int, folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    script = folder / "script.py"
    script.write_text(f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n{SCRIPT}")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", str(script)]
    return subprocess.run([*command, *map(str, arguments)], capture_output=True, text=True, timeout=200)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    draw = np.random.default_rng(0)
    made = draw.integers(64, 400, (23, 64))
    for row in made:
        starts = np.sort(draw.choice(np.arange(1, 60), 4, replace=False))
        row[0], row[starts] = BEGIN, [IDS["<|user|>"], IDS["<|assistant|>"], IDS["<|user|>"], IDS["<|assistant|>"]]
        row[60 - int(draw.integers(20)) :] = PAD
    path = tmp_path_factory.mktemp("rows") / "rows.npy"
    np.save(path, made.astype(np.uint16))
    return path


def test_two_processes_log_the_losses_of_one(recipe: Recipe, rows: Path, tmp_path: Path) -> None:
    train(recipe, rows, RunOptions(tmp_path / "one"))
    done = torchrun(2, tmp_path, rows, tmp_path / "two")
    assert done.returncode == 0, done.stderr
    one, two = ([json.loads(line) for line in (tmp_path / n / "log.jsonl").read_text().splitlines()] for n in ("one", "two"))
    assert [entry["step"] for entry in one] == [entry["step"] for entry in two]
    for name in ("loss", "entropy"):
        ours, theirs = (np.array([entry[name] for entry in log if name in entry]) for log in (one, two))
        assert len(ours) == 14
        assert np.abs(ours - theirs).max() < 1e-4
        assert ours[-1] < ours[0] - 0.3
    assert sorted(p.name for p in (tmp_path / "two").iterdir()) == sorted(p.name for p in (tmp_path / "one").iterdir())
    assert (tmp_path / "two.order").read_text() == "01"
