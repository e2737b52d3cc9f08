"""`senryu train`: it says what it will do and what it did, and what to type when something is missing."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from senryu import cli
from senryu.cli import progress
from senryu.errors import SenryuError
from senryu.train.loop import Report
from senryu.train.recipe import load_recipe

RECIPES = Path(__file__).parents[2] / "recipes"
NANO = str(RECIPES / "nano.toml")


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli.app, ["train", *map(str, arguments)])


def refusal(*arguments: object) -> str:
    """What the command line says in place of doing it."""
    result = call(*arguments)
    assert result.exit_code == 1
    assert isinstance(result.exception, SenryuError)
    return str(result.exception)


@pytest.mark.parametrize("command", ["pretrain", "sft", "all", "plan", "export"])
def test_without_torch_every_command_says_what_to_install(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "torch" else found(name, *rest))
    where = {"export": ["--out", tmp_path, "--to", tmp_path], "plan": [NANO]}.get(
        command, [NANO, "--data", tmp_path, "--out", tmp_path]
    )
    assert "pip install 'senryu[train]'" in refusal(command, *where)


def test_a_plan_is_shown_and_kept(tmp_path: Path) -> None:
    printed = call("plan", NANO, "--params", "29m", "--out", tmp_path).stdout
    rows = dict(line.split("\t") for line in printed.splitlines())
    assert rows["parameters"] == "28.79 M, 58 MB in bf16"
    assert rows["vocabulary"].startswith("8,192 tokens")
    assert {"pretrain", "sft", "shape", "windows"} <= set(rows)
    again = call("plan", "--out", tmp_path).stdout
    assert again == printed


def test_a_plan_for_a_budget_measures_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from senryu.train import dial

    monkeypatch.setattr(dial, "measure", lambda net, stage, device: dial.Speed(1e-4, 0.0))
    result = call("plan", NANO, "--params", "auto", "--minutes", "100", "--out", tmp_path)
    rows = dict(line.split("\t") for line in result.stdout.splitlines())
    assert "10,000 tokens/s measured" in rows["speed"]
    share = load_recipe(Path(NANO)).share("pretrain")
    assert rows["pretrain"].startswith(f"{100 * share:.1f} minutes, at most {100 * 60 * share / 100:.2f} M tokens")
    assert "measuring this machine" in result.stderr
    assert "minutes = 100" in (tmp_path / "recipe.toml").read_text()


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["plan", NANO, "--params", "30m"], "use 7m, 14m, 29m, 61m or auto"),
        (["plan", NANO, "--params", "auto"], "--minutes"),
        (["plan", "nowhere.toml"], "nowhere.toml"),
        (["plan"], "recipes/nano.toml"),
        (["all", NANO, "--data", ".", "--out", "OUT"], "--data"),
        (["sft", NANO, "--data", ".", "--out", "OUT"], "senryu train pretrain"),
        (["sft", "--data", ".", "--out", "OUT"], "name a recipe"),
        (["sft", NANO, "--data", ".", "--out", "OUT", "--from", "path:OUT"], "config.json"),
        (["export", "--out", "OUT", "--to", "OUT"], "recipe.toml does not exist"),
        (["report", "--out", "OUT"], "no finished stage"),
    ],
)
def test_what_cannot_be_says_what_to_do(arguments: list[str], hint: str, tmp_path: Path) -> None:
    result = call(*(a.replace("OUT", str(tmp_path)) for a in arguments))
    assert result.exit_code == 1
    assert hint in str(result.exception)


def test_a_run_of_another_shape_is_not_overwritten(tmp_path: Path) -> None:
    assert call("plan", NANO, "--params", "14m", "--out", tmp_path).exit_code == 0
    assert "choose another --out" in refusal("plan", NANO, "--params", "29m", "--out", tmp_path)


def test_a_constitution_is_linted_and_rendered(tmp_path: Path) -> None:
    assert call("constitution", "lint").exit_code == 0
    shown = call("constitution", "render").stdout
    assert shown.startswith("You are an assistant that keeps to these principles.")
    assert len(call("constitution", "render", "--form", "documents").stdout) > len(shown)
    weak = tmp_path / "weak.toml"
    weak.write_text('name = "weak"\n[[principle]]\nid = "a"\nkind = "harm"\ntext = "Never help."\n')
    found = call("constitution", "lint", weak)
    assert found.exit_code == 1
    assert "error: a: has no reason" in found.stdout
    assert "errors" in found.stderr


def test_a_form_that_is_none_is_refused() -> None:
    assert "use system-prompt, critic, preference, documents" in refusal("constitution", "render", "--form", "poem")


def report(step: int = 3, total: int = 100, stage: str = "sft") -> Report:
    return Report(stage, step, step * 10, total, 2.0, {"entropy": 1.9}, 123.4, 3725.0)


def test_progress_elsewhere_is_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.shown() as lines:
        lines(report(1))
        lines(report(2))  # less than ten seconds later
        lines(report(10))  # the end is always told
        lines.done("sft", {"tokens": 100, "seconds": 3.0})
    first, last, done = map(json.loads, capsys.readouterr().out.splitlines())
    assert first == {
        "stage": "sft", "step": 1, "tokens": 10, "total_tokens": 100, "loss": 2.0, "entropy": 1.9, "tokens_per_second": 123,
        "seconds_left": 3725,
    }  # fmt: skip
    assert last["step"] == 10
    assert done == {"stage": "sft", "done": True, "tokens": 100, "seconds": 3.0}


def test_progress_on_a_terminal_is_a_bar_for_each_stage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "160")
    with progress.shown() as bars:
        assert isinstance(bars, progress.Bars)
        bars(report(1, stage="pretrain"))
        bars.done("pretrain", {"tokens": 100, "seconds": 65.0})
        bars(report(5))
    shown = capsys.readouterr().out
    assert "pretrain" in shown
    assert "1:05" in shown
    assert "50 %" in shown
    assert "1:02:05 left" in shown
