"""Generated sources of a recipe: fresh rows of the training split, from the run's seed, as many as the mix asks for."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from senryu.train import chat, data
from senryu.train.generators import GENERATORS
from senryu.train.mix import Mix
from senryu.train.recipe import Recipe, RecipeError, Source
from senryu.train.sources import Places

MINI = Path(chat.TEMPLATE).parent


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(MINI / "tokenizer.json"))


def prepared(recipe: Recipe, tokenizer: Tokenizer, folder: Path, *mix: Source, sequence: int = 2048) -> data.Prepared:
    stage = replace(recipe.sft, mix=mix, prepare_tokens=20_000, decay_sequence=sequence)
    with Mix(mix, recipe, Places(folder)) as opened:
        return data.pack(opened, stage, recipe, tokenizer, "whole")


def test_a_mix_of_generators_fills_its_shares_with_training_rows(recipe: Recipe, tokenizer: Tokenizer, tmp_path: Path) -> None:
    mix = [Source("generated", 0.2, name=name) for name in GENERATORS if name != "retrieval"]
    result = prepared(recipe, tokenizer, tmp_path, *mix)
    assert set(result.tokens) == {f"generated:{source.name}" for source in mix}
    assert all(4000 <= count < 8000 for count in result.tokens.values())
    text = "".join(tokenizer.decode(row.tolist()) for row in result.rows)
    for row in islice(GENERATORS["support"](recipe.seed, "train"), 3):
        assert row["messages"][0]["content"] in text
    for row in islice(GENERATORS["support"](recipe.seed, "test"), 20):
        assert row["messages"][0]["content"] not in text


def test_rows_follow_from_the_seed(recipe: Recipe, tokenizer: Tokenizer, tmp_path: Path) -> None:
    source = Source("generated", 1.0, name="arithmetic")
    first, again, other = (
        prepared(replace(recipe, seed=seed), tokenizer, tmp_path, source).rows.tobytes() for seed in (1, 1, 2)
    )
    assert first == again != other


def test_two_lengths_of_retrieval_are_counted_together(recipe: Recipe, tokenizer: Tokenizer, tmp_path: Path) -> None:
    sources = [Source("generated", 0.5, name="retrieval", chars=chars) for chars in (500, 3000)]
    result = prepared(recipe, tokenizer, tmp_path, *sources)
    assert list(result.tokens) == ["generated:retrieval"]
    assert result.tokens["generated:retrieval"] >= 20_000


def test_rows_that_never_fit_are_an_error_and_no_endless_search(recipe: Recipe, tokenizer: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="source generated:support has no document that fits"):
        prepared(recipe, tokenizer, tmp_path, Source("generated", 1.0, name="support"), sequence=64)
