"""The dial: sizes are those of the table, more time never trains less, and what it wrote is read back as it was."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from senryu.train import dial
from senryu.train.device import Device
from senryu.train.dial import SHAPES, Setting, Speed
from senryu.train.net import Net, NetConfig
from senryu.train.recipe import Recipe, RecipeError, load_recipe, recipe_text

NANO = Path(__file__).parents[2] / "recipes" / "nano.toml"
MINUTES = (1, 5, 30, 180, 1_000, 10_000)


@pytest.fixture(scope="module")
def nano() -> Recipe:
    return load_recipe(NANO)


def machine(flops: float):
    """A machine of so many FLOPs a second at every shape."""
    return lambda net: Speed(dial.flops_per_token(net, 512) / flops, 0.0)


@pytest.mark.parametrize(("size", "millions"), [("7m", 6.7), ("14m", 13.7), ("29m", 28.8), ("61m", 61.3)])
def test_shapes_have_the_parameters_that_their_names_promise(size: str, millions: float) -> None:
    net = SHAPES[size]
    assert dial.parameters(net) == sum(p.numel() for p in Net(net).parameters())
    assert dial.parameters(net) / 1e6 == pytest.approx(millions, abs=0.06)
    assert (net.head_dim, net.num_attention_heads * 64) == (64, net.hidden_size)


def test_nano_is_the_smallest_shape(nano: Recipe) -> None:
    assert nano.net == SHAPES["7m"]


def test_a_query_sees_half_a_row_or_its_window() -> None:
    whole = replace(SHAPES["7m"], full_every=1)
    windowed = replace(SHAPES["7m"], full_every=100)
    parameters = 6 * dial.parameters(whole)
    width = 12 * 256 * 8
    assert dial.flops_per_token(whole, 1000) == pytest.approx(parameters + width * 500.5)
    assert dial.flops_per_token(windowed, 512) == pytest.approx(parameters + width * 256.5)
    assert dial.flops_per_token(windowed, 10**7) == pytest.approx(parameters + width * 512, rel=1e-4)


def test_the_best_size_is_the_compute_optimal_one() -> None:
    """2e15 FLOPs, three hours of two cores, are 5.6 M parameters; 2.4e17, twenty minutes of a large GPU, are 62 M."""
    assert dial.best_size(2e11, 3 * 3600) == "7m"
    assert dial.best_size(2e14, 20 * 60) == "61m"
    sizes = [list(SHAPES).index(dial.best_size(1e12, 60 * m)) for m in (1, 20, 200, 2_000, 20_000)]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) > 2


@pytest.mark.parametrize("size", [*SHAPES, "auto"])
def test_more_minutes_train_on_no_fewer_tokens_and_no_smaller_model(nano: Recipe, size: str) -> None:
    made = [dial.turn(nano, Setting(size, minutes), machine(5e12))[0] for minutes in MINUTES]
    flops = [r.pretrain.tokens * dial.flops_per_token(r.net, 512) for r in made]
    for (less, cheaper), (more, dearer) in pairwise(zip(made, flops)):
        assert dial.parameters(less.net) <= dial.parameters(more.net)
        assert cheaper < dearer
        if less.net == more.net:
            assert less.pretrain.tokens < more.pretrain.tokens
            assert less.pretrain.batch_tokens <= more.pretrain.batch_tokens
            assert less.sft.tokens <= more.sft.tokens
    assert (len({r.net for r in made}) > 1) == (size == "auto")


def test_a_faster_machine_trains_on_more_tokens_in_the_same_time(nano: Recipe) -> None:
    made = [dial.turn(nano, Setting("29m", 60), machine(flops))[0] for flops in (1e11, 1e12, 1e14)]
    assert [r.pretrain.tokens for r in made] == sorted({r.pretrain.tokens for r in made})


def test_without_minutes_tokens_follow_from_parameters_and_nothing_is_measured(nano: Recipe) -> None:
    def never(net: NetConfig) -> Speed:
        raise AssertionError

    made = {size: dial.turn(nano, Setting(size), never)[0] for size in SHAPES}
    for size, recipe in made.items():
        assert recipe.minutes is None
        assert recipe.net == SHAPES[size]
        assert recipe.pretrain.tokens / dial.parameters(recipe.net) == pytest.approx(10.5, rel=0.01)
        assert recipe.pretrain.lr_matrix == nano.pretrain.lr_matrix
        assert recipe.pretrain.lr_vector == pytest.approx(0.003 * (256 / recipe.net.hidden_size) ** 0.5, rel=0.01)
    rates = [recipe.pretrain.lr_vector for recipe in made.values()]
    assert rates == sorted(rates, reverse=True)


@pytest.mark.parametrize("size", SHAPES)
@pytest.mark.parametrize("minutes", [None, 2, 120])
def test_what_was_derived_is_a_recipe_that_reads_back(nano: Recipe, size: str, minutes: float | None, tmp_path: Path) -> None:
    recipe, speed = dial.turn(nano, Setting(size, minutes), machine(2e11))
    assert (speed is None) == (minutes is None)
    path = tmp_path / "recipe.toml"
    path.write_text(recipe_text(recipe))
    assert load_recipe(path) == recipe
    share = nano.pretrain.decay_tokens / nano.pretrain.tokens
    assert recipe.pretrain.decay_tokens == pytest.approx(share * recipe.pretrain.tokens, abs=recipe.pretrain.batch_tokens)


@pytest.mark.parametrize("path", sorted(NANO.parent.glob("*.toml")), ids=lambda p: p.stem)
def test_every_recipe_reads_back_from_its_own_text(path: Path, tmp_path: Path) -> None:
    recipe = load_recipe(path)
    copy = tmp_path / "copy.toml"
    copy.write_text(recipe_text(recipe))
    assert load_recipe(copy) == recipe


def test_the_batch_grows_with_the_tokens_and_leaves_steps() -> None:
    batches = [dial.batch_tokens(10**n) for n in range(5, 12)]
    assert batches == sorted(batches)
    assert dial.batch_tokens(40e6) == 8_192
    assert dial.batch_tokens(6.5e8) == 131_072
    assert dial.batch_tokens(2.3e9) == 524_288


def test_a_probe_measures_this_machine(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dial, "PROBE_SECONDS", 0.0)
    speed = dial.measure(recipe.net, recipe.pretrain, Device())
    assert speed.token > 0
    assert speed.step > 0
    assert speed.tokens_per_second(100) < speed.tokens_per_second(1_000_000) < 1 / speed.token


def test_the_table_says_what_will_be_trained(nano: Recipe) -> None:
    recipe, speed = dial.turn(nano, Setting("29m", 30), machine(1e14))
    lines = dict(dial.table(recipe, speed))
    assert lines["parameters"] == "28.79 M, 58 MB in bf16"
    assert lines["shape"].startswith("12 layers x 448, 7 heads of 64 over 1")
    assert "minutes" in lines["pretrain"]
    assert "steps" in lines["sft"]
    assert "tokens/s measured" in lines["speed"]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (Setting("30m"), "use 7m, 14m, 29m, 61m or auto"),
        (Setting("auto"), "add --minutes N"),
    ],
)
def test_a_setting_that_cannot_be_says_what_to_do(nano: Recipe, setting: Setting, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        dial.turn(nano, setting, machine(1e12))


def test_time_cannot_be_shared_without_shares(nano: Recipe) -> None:
    untimed = replace(nano, pretrain=replace(nano.pretrain, clock=0.0))
    with pytest.raises(RecipeError, match="make all positive"):
        dial.turn(untimed, Setting("7m", 60), machine(1e12))


def test_a_recipe_may_extend_another(tmp_path: Path, nano: Recipe) -> None:
    (tmp_path / "base.toml").write_text(recipe_text(nano))
    (tmp_path / "child.toml").write_text('extends = "base.toml"\nname = "child"\n[pretrain]\nweight_decay = 0.5\n')
    child = load_recipe(tmp_path / "child.toml")
    assert child == replace(nano, name="child", pretrain=replace(nano.pretrain, weight_decay=0.5))
    (tmp_path / "base.toml").write_text('extends = "child.toml"\n')
    with pytest.raises(RecipeError, match="extends itself"):
        load_recipe(tmp_path / "child.toml")


@pytest.mark.parametrize(("name", "size"), [("nano", "7m"), ("mini", "29m"), ("small", "61m")])
def test_recipes_have_the_shapes_of_the_dial(name: str, size: str) -> None:
    recipe = load_recipe(NANO.parent / f"{name}.toml")
    assert recipe.net == SHAPES[size]
    assert set(recipe.stages) == {"pretrain", "sft", "long", "constitutional", "reward", "dpo", "rl"}


def test_mini_takes_at_most_25_minutes() -> None:
    mini = load_recipe(NANO.parent / "mini.toml")
    assert mini.minutes is not None
    assert mini.minutes <= 25
    assert sum(mini.share(name) for name in mini.stages) == pytest.approx(1)
