"""The table of stages: what it says is what was measured, intervals hold, and a run without models says what to do."""

from __future__ import annotations

import json
import lzma
import shutil
from pathlib import Path
from typing import Any

import pytest

import senryu.models
from senryu.config import Settings
from senryu.errors import SenryuError
from senryu.evals import stages
from senryu.evals.__main__ import main

MINI = Path(senryu.models.__path__[0]) / "mini"


def test_wilsons_interval_is_the_published_one() -> None:
    """Newcombe 1998 (Statistics in Medicine 17, table I): 81 of 263, 15 of 148, 0 of 20, 1 of 29."""
    for part, whole, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        figure = stages.wilson(part, whole)
        assert figure["value"] == part / whole
        assert (figure["low"], figure["high"]) == pytest.approx((low, high), abs=1e-4)
    assert stages.wilson(0, 0)["value"] is None


def test_a_ratios_interval_holds_it_and_shrinks_with_more_pairs() -> None:
    few, many = ([(1.0 + i % 3, 2.0) for i in range(n)] for n in (12, 1200))
    wide, narrow = stages.ratio(few), stages.ratio(many)
    assert wide["value"] == narrow["value"] == 1.0
    assert wide["low"] < 1 < wide["high"]
    assert wide["high"] - wide["low"] > 5 * (narrow["high"] - narrow["low"])
    assert stages.ratio(few) == wide


def document() -> dict[str, object]:
    def stage(bits: float, exact: float) -> dict[str, object]:
        figures = {
            "bits_per_byte": {"value": bits, "low": bits - 0.1, "high": bits + 0.1, "n": 9},
            "tools_1": stages.wilson(exact * 50, 50),
        }
        return {"trained": {"tokens": 2_500_000, "step": 10, "seconds": 90.0, "start": "seed"}, "figures": figures}

    return {
        "date": "2026-11-28", "recipe": "mini", "parameters": 6_686_976, "rows": 50,
        "stages": {"pretrain": stage(1.5, 0.0), "sft": stage(1.6, 0.5)},
    }  # fmt: skip


def test_the_table_has_a_column_for_each_stage_and_a_row_for_each_figure() -> None:
    head, _, trained, bits, tools = stages.table(document()).splitlines()
    assert head == "| | base | SFT |"
    assert trained == "| tokens trained on, and time | 2.50 M in 1.5 min | 2.50 M in 1.5 min |"
    assert bits.endswith("| 1.500 (1.400-1.600) | 1.600 (1.500-1.700) |")
    assert tools.endswith("| 0 % (0-7) | 50 % (37-63) |")


def test_the_page_names_the_command_that_makes_it() -> None:
    page = stages.page(document(), "python -m senryu.evals stages RUN")
    assert "Made by `python -m senryu.evals stages RUN`" in page
    assert "6.69 M parameters" in page
    assert "started from" not in page


def test_the_page_says_which_stage_started_from_another_run() -> None:
    made: Any = document()
    made["stages"]["sft"]["trained"]["start"] = "the weights of May"
    assert "SFT started from the weights of May." in stages.page(made, "command")


def test_a_run_without_models_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SenryuError, match="senryu train all"):
        stages.measure(tmp_path, Settings(home=tmp_path), 1, 1)


def bundle(folder: Path) -> Path:
    """A data bundle with a few rows of each task in its form."""
    schema = {"type": "object", "properties": {"item": {"type": "string"}}}
    call = [{"type": "tool_use", "id": "toolu_01", "name": "add", "input": {"item": "tea"}}]

    def talk(asked: str, answer: Any) -> dict[str, Any]:
        return {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]}

    def labelled(task: str, label: str) -> list[dict[str, Any]]:
        return [{"task": task, "input": f"message {n}", "label": label} for n in range(20)]

    files = {
        "intents": labelled("intent_banking77", "pin") + labelled("intent_clinc150", "pin"),
        "moderation_davidson": labelled("moderation_davidson", "neither"),
        "receipts_sroie": [talk(f"Fields of receipt {n}", '{"total": "1"}') for n in range(5)],
        "taskmaster_tm4": [
            {"tools": [{"name": "add", "description": "Adds.", "input_schema": schema}], **talk(f"Tea, {n} times", call)}
            for n in range(5)
        ],
    }
    (folder / "eval").mkdir(parents=True)
    (folder / "eval" / "labels.json").write_text(json.dumps({"banking77": ["pin"], "clinc150": ["pin", "out_of_scope"]}))
    for name, rows in files.items():
        with lzma.open(folder / "eval" / f"{name}.jsonl.xz", "wt", encoding="utf8") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    return folder


def test_a_run_is_measured_through_the_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept_kernels: Path) -> None:
    run = tmp_path / "run"
    summary = {"recipe": "mini", "parameters": 6_686_976, "tokens": 8192, "step": 1, "seconds": 1.0, "start": "seed"}
    for name in ("pretrain", "sft"):
        shutil.copytree(MINI, run / name / "model")
        (run / name / "summary.json").write_text(json.dumps(summary))
    (run / "data").mkdir()
    monkeypatch.setattr(stages, "NEEDLE_CHARS", (500,))
    monkeypatch.setenv("SENRYU_HOME", str(tmp_path / "home"))
    out, figures = tmp_path / "page.md", tmp_path / "figures.json"
    data = bundle(tmp_path / "bundle")
    main(["stages", str(run), "--data", str(data), "--out", str(out), "--json", str(figures), "--rows", "3"])
    measured = json.loads(figures.read_text())["stages"]
    assert list(measured) == ["pretrain", "sft"]
    assert measured["pretrain"]["figures"] == measured["sft"]["figures"]  # one model, twice
    assert measured["sft"]["figures"]["extraction"]["n"] == 3
    assert measured["sft"]["figures"]["banking77"]["n"] == 15
    assert measured["sft"]["figures"]["taskmaster_tm4"]["n"] == 3
    assert "fields of receipts, F1" in out.read_text()
    assert "| | base | SFT |" in out.read_text()
