"""The stage of long rows: neighbours whole in one row, questions over long texts, and a run that goes on with it."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from senryu.train import chat, data
from senryu.train.loop import RunOptions
from senryu.train.mix import Mix
from senryu.train.pack import document_numbers, targets
from senryu.train.recipe import Recipe, Source, load_recipe, recipe_text
from senryu.train.sources import Places
from senryu.train.stages import Run, train
from senryu.train.vocabulary import BEGIN, IDS

MINI = Path(chat.TEMPLATE).parent
LENGTH = 1024
BOOKS, CHAPTERS = 6, 9


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(MINI / "tokenizer.json"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Chapters of six books in any order, of some 90 to 400 tokens; one that is longer than a row; a folder of files."""
    draw = random.Random(5)
    chapters = [
        {"text": f"Book {name} by A\nCHAPTER {n}\n\n" + "On they went. " * draw.randint(20, 90), "source": "ours"}
        for name in "PQRSTU"
        for n in range(1, CHAPTERS + 1)
    ]
    chapters[4]["text"] += " ".join(f"Day {day}." for day in range(900))
    draw.shuffle(chapters)
    (tmp_path / "books.jsonl").write_text("".join(json.dumps(chapter) + "\n" for chapter in chapters))
    (tmp_path / "package").mkdir()
    for name in ("b.py", "a.py", "c.py"):
        (tmp_path / "package" / name).write_text(f"# this is {name}\n" + "x = 1\n" * 10)
    return tmp_path


def packed(recipe: Recipe, tokenizer: Tokenizer, folder: Path, *mix: Source) -> tuple[np.ndarray, dict[str, int]]:
    stage = replace(recipe.sft, mix=mix, prepare_tokens=20_000, decay_sequence=LENGTH)
    with Mix(mix, replace(recipe, held_out=0.0), Places(folder)) as opened:
        prepared = data.pack(opened, stage, recipe, tokenizer, "joined")
    return prepared.rows, prepared.tokens


def documents(rows: np.ndarray, tokenizer: Tokenizer) -> list[str]:
    found = []
    for row in rows:
        starts = [*np.flatnonzero(row == BEGIN), len(row)]
        found += [tokenizer.decode(row[a:b].tolist()) for a, b in pairwise(starts)]
    return found


def test_chapters_of_a_book_stand_together_and_whole(recipe: Recipe, tokenizer: Tokenizer, folder: Path) -> None:
    rows, _ = packed(recipe, tokenizer, folder, Source("text", 1.0, path="books.jsonl", epochs=1))
    texts = documents(rows, tokenizer)
    heads = [[line for line in text.splitlines() if line.startswith(("Book", "CHAPTER"))] for text in texts]
    assert sum(len(head) for head in heads) == 2 * BOOKS * CHAPTERS  # each title once: nothing twice, nothing lost
    together = apart = 0
    for head in heads:
        chapters = [(book, int(chapter.split()[1])) for book, chapter in zip(head[::2], head[1::2], strict=True)]
        for (book, chapter), (next_book, next_chapter) in pairwise(chapters):
            following = (next_book, next_chapter) == (book, chapter + 1)
            together, apart = together + following, apart + (not following and chapter != CHAPTERS)
    assert together > 20
    assert apart <= 4  # where one run of neighbours ends and another begins
    assert document_numbers(rows).max() < 12
    (cut,) = [text for text in texts if "Day 0." in text]  # alone longer than a row
    assert "Day 899." not in cut
    assert any("Day 899." in text for text in texts)
    for text in texts:
        if "Day" not in text:
            assert text.startswith("Book")
            assert text.endswith("On they went. ")


def test_files_of_a_folder_stand_in_the_order_of_their_paths(recipe: Recipe, tokenizer: Tokenizer, folder: Path) -> None:
    rows, _ = packed(recipe, tokenizer, folder, Source("folder", 1.0, path="package", clean=False, dedupe="none", epochs=1))
    (text,) = documents(rows, tokenizer)
    assert [line for line in text.splitlines() if line.startswith("#")] == [f"# this is {name}.py" for name in "abc"]


def test_answers_and_texts_are_learnt_and_questions_are_not(recipe: Recipe, tokenizer: Tokenizer, folder: Path) -> None:
    retrieval = Source("generated", 0.5, name="retrieval", chars=2_000)
    rows, tokens = packed(recipe, tokenizer, folder, Source("text", 0.5, path="books.jsonl"), retrieval)
    assert {name: count >= 10_000 for name, count in tokens.items()} == {"books.jsonl:text": True, "generated:retrieval": True}
    learnt = targets(rows, assistant_only=True) >= 0
    user, said = (learnt[rows == IDS[f"<|{role}|>"]] for role in ("user", "assistant"))
    assert len(user) >= 15
    assert not user.any()
    assert said.mean() > 0.99  # but where a row ends
    assert (rows == 0).mean() < 0.2  # padding


def test_the_stage_goes_on_from_fine_tuning_and_exports(tmp_path: Path, bundle: Path, recipe: Recipe) -> None:
    mix = (Source("text", 0.7, path="pretrain/prose.jsonl.xz"), Source("generated", 0.3, name="retrieval", chars=600))
    stage = replace(recipe.sft, mix=mix, sequence=512, decay_sequence=512, clock=0.0)
    longer = replace(recipe, long=stage, pretrain=replace(recipe.pretrain, clock=0.0), sft=replace(recipe.sft, clock=0.0))
    (tmp_path / "recipe.toml").write_text(recipe_text(longer))
    assert load_recipe(tmp_path / "recipe.toml") == longer
    run = Run(longer, bundle, RunOptions(tmp_path / "run"))
    train(run, "pretrain")
    before = (tmp_path / "run" / "model" / "model.safetensors").read_bytes()
    progress = train(run, "long")
    summary = json.loads((tmp_path / "run" / "long" / "summary.json").read_text())
    assert summary["start"] == "pretrain"
    assert progress.tokens == summary["tokens"] == stage.tokens
    assert np.load(tmp_path / "run" / "data" / "long.npy").shape[1] == 512
    assert (tmp_path / "run" / "model" / "model.safetensors").read_bytes() != before
