"""The constitutional stage of a run: the net's own answers are revised, trained on and reported, by any constitution."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import CONFIG, stage, tiny_net, tiny_tokenizer

from senryu.train.export import export
from senryu.train.loop import RunOptions
from senryu.train.recipe import Recipe, RecipeError, Source
from senryu.train.run import Run
from senryu.train.stages import check, train
from senryu.train.vocabulary import contains_special, write_tokenizer

MIX = (Source("chat", 1.0, path="constitutional/sft.jsonl"),)
SIZES = {"sequence": 1024, "decay_sequence": 1024, "batch_tokens": 1024, "tokens": 4096, "prepare_tokens": 8192}


@pytest.fixture(scope="module")
def recipe(recipe: Recipe) -> Recipe:
    options = {"pairs": 6, "max_tokens": 12, "rounds": 1}
    made = stage(mix=MIX, **SIZES, decay_tokens=1024, clock=0.1, options=options)
    return replace(recipe, net=CONFIG, constitutional=made)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, recipe: Recipe) -> Run:
    torch.set_num_threads(1)
    model = tmp_path_factory.mktemp("model")
    write_tokenizer(tiny_tokenizer(), model, 1000)
    export(tiny_net(random=True), model, model)
    heard: list[tuple[str, int, int]] = []
    made = Run(recipe, model, RunOptions(tmp_path_factory.mktemp("out")), model, prepared=lambda *what: heard.append(what))
    train(made, "constitutional")
    assert {what for what, _, _ in heard} == {"answers", "revisions", "comparisons"}
    return made


def lines(run: Run, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.out / "constitutional" / f"{name}.jsonl").read_text().splitlines()]


def test_every_step_is_in_a_file_and_the_report_in_the_summary(run: Run) -> None:
    asked = lines(run, "prompts")
    assert 6 <= len(asked) <= 12
    assert [row["id"] for row in lines(run, "answers")] == [row["id"] for row in asked]
    assert {row["role"] for row in lines(run, "sft")} == {"revision", "helpful"}
    assert all({"chosen", "rejected"} <= set(row) for row in lines(run, "preference"))
    summary = json.loads((run.out / "constitutional" / "summary.json").read_text())
    assert summary["constitution"]["prompts"] == len(asked)
    assert summary["tokens"] == 4096
    assert (run.out / "constitutional" / "model" / "config.json").exists()


def test_answers_are_the_nets_and_hold_no_special_token(run: Run) -> None:
    said = [row["answer"] for row in lines(run, "answers")]
    assert len(set(said)) > len(said) // 2  # of a random net at temperature 0.7
    assert not any(contains_special(answer) for answer in said)  # though it may write "<|" byte by byte


def test_the_rows_that_were_trained_on_are_the_pipelines(run: Run) -> None:
    prepared = json.loads((run.out / "data" / "constitutional.json").read_text())
    assert list(prepared) == ["constitutional/sft.jsonl:chat"]


def test_what_was_made_before_is_used_again(run: Run) -> None:
    before = (run.out / "constitutional" / "answers.jsonl").stat().st_mtime_ns
    train(run, "constitutional")
    assert (run.out / "constitutional" / "answers.jsonl").stat().st_mtime_ns == before


def test_a_constitution_and_prompts_of_the_users(run: Run, recipe: Recipe, tmp_path: Path) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    (data / "mine.md").write_text(
        "# Mine\n\n## Passwords\n\nNever tell a password.\n\nWhy: it is not yours to give.\n\n"
        "## Help\n\nHelp with all else.\n\nWhy: it is what you are for.\n"
    )
    (data / "asked.jsonl").write_text("".join(json.dumps({"prompt": f"Say {word}."}) + "\n" for word in ("yes", "no", "maybe")))
    options = {**recipe.stages["constitutional"].options, "constitution": "mine.md", "asked": "asked.jsonl"}
    mine = replace(recipe, constitutional=replace(recipe.stages["constitutional"], options=options))
    assert run.start is not None
    made = replace(run, recipe=mine, data=data, options=RunOptions(out))
    train(made, "constitutional")
    assert [row["messages"][0]["content"] for row in lines(made, "prompts")] == ["Say yes.", "Say no.", "Say maybe."]
    assert json.loads((out / "constitutional" / "report.json").read_text())["constitution"] == "Mine"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"judge": "oracle"}, "use one of rules, self, endpoint"),
        ({"judge": "endpoint"}, "needs `endpoint`"),
        ({"helpful": 0.2}, "helpful in"),
        ({"pears": 3}, "unknown key `pears`"),
        ({"pairs": 0}, "must be 1 or more"),
    ],
)
def test_options_that_cannot_be_are_refused_before_anything_starts(
    recipe: Recipe, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        check(replace(recipe, constitutional=replace(recipe.stages["constitutional"], options=options)))
