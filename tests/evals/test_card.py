"""The card says what the files of a run say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from senryu.evals import card

SUMMARY = {
    "recipe": "small",
    "parameters": 6_686_976,
    "threads": 2,
    "torch": "2.13.0",
    "seed": 7,
    "step": 1200,
    "tokens": 9_830_400,
    "seconds": 5000.0,
    "device": "cpu",
    "dtype": "float32",
    "start": "pretrain",
}
CONFIG = {
    "num_hidden_layers": 8,
    "hidden_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "intermediate_size": 704,
    "vocab_size": 4096,
    "sliding_window": 512,
    "max_position_embeddings": 204800,
}
CREDITS = "# Attribution\n\n- **a/b** — MIT. Used in pretrain/x.jsonl.xz.\n- **c/d** — MIT. Used in sft/other.jsonl.xz.\n"


@pytest.fixture
def measured() -> dict[str, Any]:
    return {
        "date": "2026-11-22",
        "engine": "the numpy path",
        "sequence": 1024,
        "held_out_bytes": 600_000,
        "ngram_tokens": 9_830_400,
        "ngram_order": 4,
        "prepared": {"pretrain/x.jsonl.xz:text": 20_000_000},
        "bits_per_byte": {
            "model": {"pretrain/x.jsonl.xz": 1.5, "all": 1.25},
            "ngram": {"pretrain/x.jsonl.xz": 2.0, "all": 1.75},
        },
        "labels": {
            "banking77": {"rows": 3080, "labels": 77, "accuracy": 0.8125, "commonest": 0.0125, "valid": 0.99},
            "clinc150": {
                "rows": 5500,
                "labels": 151,
                "accuracy": 0.5,
                "commonest": 0.2,
                "valid": 0.9,
                "accuracy_in_scope": 0.6,
            },
        },
        "tasks": {
            "receipts_sroie": {"rows": 226, "fields": 904, "f1": 0.625},
            "taskmaster_tm4": {"dialogues": 343, "calls": 1395, "name": 0.75, "exact": 0.5, "texts": 400, "text_kept": 0.25},
        },
        "dialogues": [[{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi!\nThere"}]],
    }


def test_card_and_credits_are_written_from_the_files(tmp_path: Path, measured: dict[str, Any]) -> None:
    run, data, folder = tmp_path / "run", tmp_path / "data", tmp_path / "model"
    files = {
        "pretrain/summary.json": SUMMARY | {"start": "seed"},
        "sft/summary.json": SUMMARY,
        "long/summary.json": SUMMARY | {"start": "the model before it"},
        "model/config.json": CONFIG,
        "data/pretrain.json": measured["prepared"],
        "data/sft.json": {"generated:smalltalk": 500_000},
    }
    for name, content in files.items():
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text(json.dumps(content))
    (run / "recipe.toml").write_text("held_out = 0.005")
    (run / "made.md").write_text("Then the mean of two.\n")
    data.mkdir()
    (data / "ATTRIBUTION.md").write_text(CREDITS)
    folder.mkdir()
    card.write(run, data, measured, folder)
    text = (folder / "MODEL_CARD.md").read_text()
    assert text.count("minutes on 2 CPU threads (float32, torch 2.13.0), seed 7") == 3
    assert text.count("; started from") == 1
    assert "seed 7; started from the model before it" in text
    for part in (
        "# Senryu small\n",
        "6.7 million parameters, trained from scratch on 2 CPU threads.",
        "(a seeded 0.5 % of each file;",
        "senryu train all recipes/small.toml --data",
        "Kneser-Ney 4-gram over",
        "| held-out text | this model | 4-gram |",
        "| all | 1.250 | 1.750 |",
        "| banking77 | 3,080 | 77 | 81.2 % | 1.2 % | 99.0 % |",
        "50.0 % (60.0 % in scope)",
        "> **assistant**: Hi!\n> There",
        "- Pretraining: 9.8 M tokens in 1,200 steps, 83 minutes",
        "- Long rows, padding and prompts included: 9.8 M tokens",
        "rows of at most 1,024 tokens",
        "so no length is advertised",
        "a random 49 % of them",
        "from the model before it\n\nThen the mean of two.\n",
        "204,800 tokens",
    ):
        assert part in text
    credits = (folder / "ATTRIBUTION.md").read_text()
    assert "a/b" in credits
    assert "c/d" not in credits


def test_a_set_where_the_commonest_label_does_as_well_is_named(measured: dict[str, Any]) -> None:
    assert card.beaten(measured) == ""
    measured["labels"]["clinc150"]["commonest"] = 0.49
    assert "little about `clinc150`:" in card.beaten(measured)


def test_generated_tasks_stand_on_the_card_once_they_were_measured(measured: dict[str, Any]) -> None:
    assert card.generated_text(measured) == ""
    text = card.generated_text(measured | {"generated": {"needle_4000": {"rows": 50, "exact": 0.5}}})
    assert text.startswith("\n\nGenerated tasks")
    assert text.endswith("\n\n- A needle in 4,000 characters: 50.0 % of 50 found.")


def test_a_run_that_saw_its_rows_again_says_how_often(measured: dict[str, Any]) -> None:
    assert card.seen(300, 200) == "all of them 1.5 times"
    assert card.device(SUMMARY | {"device": "cuda"}) == "one GPU"


def test_a_short_stage_says_its_seconds() -> None:
    assert "1,200 steps, 42 seconds on" in card.stage_line("Pairs", SUMMARY | {"seconds": 42.4})
