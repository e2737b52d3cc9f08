"""The toy recipe end to end: data, tokenizer, pretraining, fine-tuning, export; resuming changes nothing."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_bundle import TOY
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from senryu import cli
from senryu.errors import SenryuError
from senryu.train.checkpoint import Progress
from senryu.train.generators.smalltalk import conversations
from senryu.train.loop import Report, RunOptions
from senryu.train.optim import Schedule
from senryu.train.recipe import Recipe, RecipeError, load_recipe, recipe_text
from senryu.train.run import Run
from senryu.train.stages import train, train_all


def senryu(*arguments: object) -> list[str]:
    """The lines that `senryu ARGUMENTS` prints. Raises what it raises."""
    result = CliRunner().invoke(cli.app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    return result.stdout.splitlines()


def pretrain(recipe: Recipe, bundle: Path, options: RunOptions) -> Progress:
    return train(Run(recipe, bundle, options), "pretrain")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, bundle: Path) -> Path:
    """All stages of the recipe, run through by one command."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("run")
    senryu("train", "all", TOY, "--data", bundle, "--out", out, "--no-compile")
    return out


def log(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_export_loads_in_transformers_and_speaks(run: Path, recipe: Recipe) -> None:
    model = AutoModelForCausalLM.from_pretrained(run / "model", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(run / "model")
    assert sum(p.numel() for p in model.parameters()) == json.loads((run / "sft" / "summary.json").read_text())["parameters"]
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == ("<|begin|>", "<|end|>", "<|pad|>")
    chat = [{"role": "user", "content": "Hi 42"}]
    text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    assert text == "<|begin|><|user|>Hi 42<|end|><|assistant|>"
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
    assert ids[0, [0, 1, -2, -1]].tolist() == [1, 4, 2, 5]
    assert tokenizer.tokenize("42") == ["4", "2"]
    assert model.generate(ids, max_new_tokens=4, do_sample=False, pad_token_id=0).shape[1] <= ids.shape[1] + 4


def test_every_stage_leaves_a_picture_of_the_losses_up_to_it(run: Path) -> None:
    sizes = [int.from_bytes((run / name / "loss.png").read_bytes()[16:20], "big") for name in ("pretrain", "sft")]
    assert sizes[1] == 2 * sizes[0]  # one part wide, then two


def test_the_loss_falls_and_the_decay_uses_longer_rows(run: Path) -> None:
    entries = log(run / "pretrain")
    losses = [e["loss"] for e in entries if "loss" in e]
    assert losses[-1] < losses[0] - 0.5
    assert next(e for e in entries if e.get("event") == "decay")["tokens"] == 4096
    assert (run / "pretrain" / "stable.pt").exists()


def test_held_out_documents_are_not_in_the_training_rows(run: Path, bundle: Path) -> None:
    import lzma

    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(run / "data" / "tokenizer.json"))
    with lzma.open(run / "data" / "held_out.jsonl.xz", "rt") as lines:
        texts = [json.loads(line)["text"] for line in lines]
    seen = "".join(tokenizer.decode(row.tolist()) for row in np.load(run / "data" / "pretrain.npy"))
    assert 0 < len(texts) < 60
    assert not [text for text in texts if text[:80] in seen]


def test_resuming_equals_an_uninterrupted_run(run: Path, tmp_path: Path, bundle: Path, recipe: Recipe) -> None:
    options = RunOptions(tmp_path, stop_after_steps=5)  # of 12; the decay starts after 8
    pretrain(recipe, bundle, options)
    pretrain(recipe, bundle, replace(options, resume=True, stop_after_steps=4))
    pretrain(recipe, bundle, replace(options, resume=True, stop_after_steps=None))
    whole, parts = (torch.load(p / "pretrain" / "last.pt", weights_only=True) for p in (run, tmp_path))
    assert all(torch.equal(whole["net"][name], parts["net"][name]) for name in whole["net"])
    assert {k: v for k, v in whole["progress"].items() if k != "seconds"} == {
        k: v for k, v in parts["progress"].items() if k != "seconds"
    }


def test_the_stable_checkpoint_goes_on_as_one_longer_run(run: Path, tmp_path: Path, bundle: Path, recipe: Recipe) -> None:
    longer = replace(recipe, pretrain=replace(recipe.pretrain, tokens=8192))
    pretrain(longer, bundle, RunOptions(tmp_path / "whole"))
    shutil.copytree(run / "data", tmp_path / "grown" / "data")
    (tmp_path / "grown" / "pretrain").mkdir()
    shutil.copy(run / "pretrain" / "stable.pt", tmp_path / "grown" / "pretrain" / "last.pt")
    pretrain(longer, bundle, RunOptions(tmp_path / "grown", resume=True))
    whole, grown = (torch.load(tmp_path / n / "pretrain" / "last.pt", weights_only=True)["net"] for n in ("whole", "grown"))
    assert all(torch.equal(whole[name], grown[name]) for name in whole)


def test_a_time_budget_moves_the_decay_and_keeps_its_share(tmp_path: Path, bundle: Path, recipe: Recipe) -> None:
    progress = pretrain(recipe, bundle, RunOptions(tmp_path, minutes=0.0))
    entries = log(tmp_path / "pretrain")
    assert next(e for e in entries if e.get("event") == "decay")["tokens"] == 512  # one step, then the time is over
    assert progress.tokens == 1024  # the recipe's third of the tokens, in whole steps


def test_export_command_writes_an_earlier_stage(run: Path, tmp_path: Path) -> None:
    senryu("train", "export", "--out", run, "--to", tmp_path / "base", "--stage", "pretrain")
    assert (tmp_path / "base" / "model.safetensors").stat().st_size == (run / "model" / "model.safetensors").stat().st_size


def test_finetuning_before_pretraining_says_what_to_run(tmp_path: Path, bundle: Path, recipe: Recipe) -> None:
    with pytest.raises(RecipeError, match="run `senryu train pretrain` with the same --out first"):
        train(Run(recipe, bundle, RunOptions(tmp_path)), "sft")


def test_a_run_is_repeated_from_its_folder_and_reports_itself(run: Path, tmp_path: Path, bundle: Path, recipe: Recipe) -> None:
    assert load_recipe(run / "recipe.toml") == recipe
    (tmp_path / "recipe.toml").write_text((run / "recipe.toml").read_text())
    senryu("train", "pretrain", "--data", bundle, "--out", tmp_path, "--no-compile")
    first, again = (torch.load(p / "pretrain" / "last.pt", weights_only=True)["net"] for p in (run, tmp_path))
    assert all(torch.equal(first[name], again[name]) for name in first)
    told = json.loads("\n".join(senryu("train", "report", "--out", run, "--json")))
    assert [(s["stage"], s["start"], s["tokens"]) for s in told] == [("pretrain", "seed", 6144), ("sft", "pretrain", 4096)]
    assert told[0]["losses"][0] > told[0]["losses"][1]
    assert senryu("train", "report", "--out", run)[0].split("\t")[:3] == ["pretrain", "seed", "12"]


def test_finished_stages_are_passed_over_and_unfinished_ones_kept(run: Path, tmp_path: Path, bundle: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    kept = (tmp_path / "run" / "pretrain" / "last.pt").stat().st_mtime_ns
    (tmp_path / "run" / "sft" / "summary.json").unlink()  # as a kill leaves it
    with pytest.raises(SenryuError, match="add --resume"):
        senryu("train", "sft", "--data", bundle, "--out", tmp_path / "run", "--no-compile")
    lines = senryu("train", "all", "--data", bundle, "--out", tmp_path / "run", "--no-compile", "--resume")
    assert (tmp_path / "run" / "pretrain" / "last.pt").stat().st_mtime_ns == kept
    assert [json.loads(line)["stage"] for line in lines if line.startswith("{") and "done" in line] == ["sft"]


def test_data_is_made_again_when_its_mix_has_changed(run: Path, tmp_path: Path, bundle: Path, recipe: Recipe) -> None:
    shutil.copytree(run, tmp_path / "run")
    rows = tmp_path / "run" / "data" / "sft.npy"
    before = rows.read_bytes()
    again = Run(recipe, bundle, RunOptions(tmp_path / "run", stop_after_steps=1))
    train(again, "sft")
    assert rows.read_bytes() == before
    tasks = replace(recipe.sft, mix=tuple(replace(s, share=0.5) for s in recipe.sft.mix[:2]))
    with pytest.raises(RecipeError, match="without --resume"):
        train(replace(again, recipe=replace(recipe, sft=tasks), options=replace(again.options, resume=True)), "sft")
    train(replace(again, recipe=replace(recipe, sft=tasks)), "sft")
    assert rows.read_bytes() != before
    assert len(json.loads((tmp_path / "run" / "data" / "sft.json").read_text())) == 2


def test_a_stage_starts_from_a_model_folder_in_its_shape(run: Path, tmp_path: Path, bundle: Path, recipe: Recipe) -> None:
    wider = tmp_path / "wider.toml"
    wider.write_text(recipe_text(replace(recipe, net=replace(recipe.net, hidden_size=128))))
    out = tmp_path / "out"
    senryu("train", "sft", wider, "--data", bundle, "--out", out, "--from", f"path:{run / 'model'}", "--no-compile")
    assert load_recipe(out / "recipe.toml").net == recipe.net
    assert (out / "model" / "tokenizer.json").read_bytes() == (run / "model" / "tokenizer.json").read_bytes()
    first = next(e["loss"] for e in log(out / "sft"))
    assert first < next(e["loss"] for e in log(run / "sft"))  # it goes on from what was learnt


def test_a_budget_is_shared_by_the_clock(tmp_path: Path, bundle: Path, recipe: Recipe) -> None:
    budgets: list[float] = []

    def told(report: Report) -> None:
        if report.step == 1:
            budgets.append(report.seconds_left)

    long = {name: replace(stage, tokens=10**9, prepare_tokens=stage.prepare_tokens) for name, stage in recipe.stages.items()}
    timed = replace(recipe, minutes=0.05, **long)
    done = dict(train_all(Run(timed, bundle, RunOptions(tmp_path, report=told))))
    assert list(done) == ["pretrain", "sft"]
    assert budgets[0] < 60 * 0.05 * 0.6  # its share of the clock, less what its data took
    assert all(progress.tokens < 10**6 for progress in done.values())


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("lr_matrix", "lr_matrixx", "unknown key `lr_matrixx`"),
        ("share = 0.7", "share = 0.6", "make them 1"),
        ("sequence = 64", "sequence = 65", "must divide"),
        ("seed = 7", "", "missing seed"),
        ("weight_decay = 0.05", "weight_decay = 0.05\ndropout = 1", "dropout = 1 is no share to leave out"),
        ("seed = 7", 'seed = "7"', "seed = '7' is no int"),
        ("lr_matrix = 0.02", "lr_matrix = true", "lr_matrix = True is no float"),
        ("clock = 0.6", "clock = 0", r"\(pretrain 0, sft 0.4\); make all positive"),
        ("seed = 7", "seed = 7\nminutes = 0", "is no time"),
        ('kind = "text"', 'kind = "prose"', "source kind `prose` is unknown; use one of text, chat"),
        ('kind = "text"', 'kind = "text"\nname = "tools"', "a source of kind text takes no name, only path"),
        ('path = "pretrain/prose.jsonl.xz"', "", r"\[pretrain\]\.mix\[0\]: a source of kind text needs path"),
        ('kind = "text"', 'kind = "preference"', "this stage cannot use the kind preference"),
        ('name = "smalltalk"', 'name = "sonnets"', "generator `sonnets` is unknown; use one of arithmetic, "),
        ('name = "smalltalk"', "", "a source of kind generated needs name"),
        ('name = "smalltalk"', 'name = "tools"\npath = "x"', "takes no path, only name, chars; remove it"),
        ('name = "smalltalk"', 'name = "tools"\nchars = 900', "chars is for the generator retrieval alone"),
        ('name = "smalltalk"', 'name = "retrieval"\nchars = 9', "use 400 or more"),
    ],
)
def test_a_wrong_recipe_names_the_mistake(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(TOY.read_text().replace(old, new, 1))
    with pytest.raises(RecipeError, match=message):
        load_recipe(path)


def test_schedule_is_stable_until_its_decay() -> None:
    schedule = Schedule(tokens=1000, decay_tokens=250, warmup_tokens=100)
    assert schedule.factor(0) == pytest.approx(0.01)
    assert schedule.factor(100) == schedule.factor(750) == 1.0
    assert schedule.factor(875) == pytest.approx(0.5)
    assert replace(schedule, tokens=2000).factor(900) == 1.0  # the same run, planned longer


def test_smalltalk_is_seeded_varied_and_honest() -> None:
    talks = list(conversations(1))
    assert talks == list(conversations(1))
    assert len(talks) > 10_000
    answers = {m["content"] for talk in talks for m in talk if m["role"] == "assistant"}
    assert len(answers) > 2_000
    assert not [a for a in answers if "{" in a or "I am Claude" in a or "I am ChatGPT" in a]
    assert any(a.startswith("I am Senryu") for a in answers)
