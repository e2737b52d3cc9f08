"""Fine-tuning tiny random checkpoints: the loss falls, a killed run goes on to the same weights, what is exported is served."""

from __future__ import annotations

import asyncio
import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from tests.model import checkpoints, vocabularies
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from senryu.cli import app
from senryu.config import Settings
from senryu.errors import SenryuError
from senryu.model.hub import ModelFiles
from senryu.model.spec import ModelError, load_spec
from senryu.model.transformer import forward
from senryu.model.weights import check, load_weights
from senryu.service.registry import Registry, load_model
from senryu.service.turn import Service
from senryu.train import finetune
from senryu.train.adapters import Finetuned, finetune_checkpoint
from senryu.train.conversations import Sample
from senryu.train.finetune import FinetuneOptions
from senryu.train.history import read_run
from senryu.train.recipe import RecipeError
from senryu.types import BlockStopped, Message, Text, Turn

TEMPLATES = Path(__file__).parents[1] / "model" / "templates"
ENDS = {"chatml": "<|im_end|>", "headers": "<|eot_id|>"}
SHAPE = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "max_position_embeddings": 512}
# family -> its template, and the number format of its weights
FAMILIES = {"llama": ("headers", torch.float32), "qwen3": ("chatml", torch.bfloat16)}
ANSWERS = {"What is the harbour?": "hello world", "And the tool?": "a test of the thing", "Who?": "assistant", "Why?": "café"}


def write_checkpoint(path: Path, family: str, **how: Any) -> Path:
    """A random model with a tokenizer and a chat template."""
    template, dtype = FAMILIES[family]
    backend = vocabularies.backend("byte level")
    ids = {"vocab_size": backend.get_vocab_size(), "eos_token_id": backend.token_to_id(ENDS[template])}
    checkpoints.save(checkpoints.make(family, **SHAPE, **ids).to(dtype), path, **how)
    backend.save(str(path / "tokenizer.json"))
    names = {"bos_token": "<s>", "eos_token": ENDS[template], "tokenizer_class": "PreTrainedTokenizerFast"}
    (path / "tokenizer_config.json").write_text(json.dumps(names))
    (path / "chat_template.jinja").write_text((TEMPLATES / f"{template}.jinja").read_text())
    (path / "LICENSE").write_text("Free for all\n")
    return path


def write_rows(path: Path, answers: dict[str, str] = ANSWERS) -> Path:
    said = [[{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in answers.items()]
    path.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in said))
    return path


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {family: write_checkpoint(tmp_path_factory.mktemp(family), family) for family in FAMILIES}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("data") / "rows.jsonl")


@pytest.fixture
def options(bases: dict[str, Path], data: Path, tmp_path: Path) -> FinetuneOptions:
    """Few and quick steps."""
    return FinetuneOptions(
        f"path:{bases['qwen3']}", data, tmp_path / "run", tmp_path, lora=True, tokens=900, batch_tokens=120, held_out=0.25,
        learning_rate=1e-2, warmup_steps=2,
    )  # fmt: skip


@pytest.fixture(scope="module")
def learnt(bases: dict[str, Path], data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Finetuned]]:
    """Runs that know ANSWERS by heart: family -> (folder, result)."""
    torch.set_num_threads(1)
    runs = {}
    for family, base in bases.items():
        out = tmp_path_factory.mktemp("learnt")
        how: dict[str, Any] = {"lora": True, "rank": 16, "epochs": 50, "batch_tokens": 200, "learning_rate": 2e-2}
        runs[family] = (out, finetune_checkpoint(FinetuneOptions(f"path:{base}", data, out, out, held_out=0, **how)))
    return runs


def log(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "sft" / "log.jsonl").read_text().splitlines()]


def weights(out: Path) -> dict[str, torch.Tensor]:
    return torch.load(out / "sft" / "last.pt", weights_only=True)["weights"]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_falls_on_what_can_be_learnt_by_heart(learnt: Any, family: str) -> None:
    out, result = learnt[family]
    losses = [entry["loss"] for entry in log(out) if "loss" in entry]
    assert losses[0] > 3
    assert losses[-1] < losses[0] / 5  # a random head, which stays as it is, cannot be surer
    assert (result.conversations, result.held_out, result.left_out) == (4, 0, 0)
    assert all("lora_" in name for name in weights(out))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_merged_model_is_the_base_with_its_adapter(learnt: Any, bases: dict[str, Path], family: str) -> None:
    """Each tensor is the base's plus the adapter's product, rounded once; what the adapter leaves alone keeps its bits."""
    out, _ = learnt[family]
    base, merged = load_file(bases[family] / "model.safetensors"), load_file(out / "model" / "model.safetensors")
    parts = load_file(out / "adapter" / "adapter_model.safetensors")
    assert base.keys() == merged.keys()
    for name, tensor in base.items():
        down = parts.get(f"base_model.model.{name.removesuffix('weight')}lora_A.weight")
        if down is not None:
            tensor = (tensor.float() + 2 * parts[f"base_model.model.{name.removesuffix('weight')}lora_B.weight"] @ down).to(
                tensor.dtype
            )
        assert torch.equal(merged[name], tensor), name
    assert {tensor.dtype for tensor in merged.values()} == {FAMILIES[family][1]}


def test_logits_are_equal_with_the_adapter_merged_and_in_our_definition(learnt: Any, bases: dict[str, Path]) -> None:
    out, _ = learnt["llama"]
    ids = np.random.default_rng(7).integers(0, 400, 60)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by an older name
        adapted = PeftModel.from_pretrained(checkpoints.load(bases["llama"]), out / "adapter").eval()
    theirs = checkpoints.logits(adapted, ids)
    merged = checkpoints.logits(checkpoints.load(out / "model"), ids)
    spec, stored = load_spec(out / "model"), load_weights(out / "model")
    check(spec, stored)
    assert np.abs(merged - theirs).max() < 1e-4 * np.abs(theirs).max()
    assert np.abs(forward(spec, stored, ids) - merged).max() < 1e-4 * np.abs(theirs).max()


@pytest.mark.parametrize("family", FAMILIES)
def test_the_merged_model_answers_through_the_service(learnt: Any, tmp_path: Path, family: str) -> None:
    out, result = learnt[family]
    settings = Settings(home=tmp_path, kernels="fp32", kv_cache_gb=0.01, kv_spill_gb=0)
    model = load_model(settings, f"path:{result.exported}")

    async def ask() -> list[str]:
        service = Service(Registry([model]), settings)
        answers = []
        for question in ANSWERS:
            turn = Turn("model", (Message("user", (Text(question),)),), 32, temperature=0.0)
            answers.append("".join([e.block.text async for e in service.run(turn) if isinstance(e, BlockStopped)]))
        await model.engine.close()
        return answers

    assert asyncio.run(ask()) == list(ANSWERS.values())
    assert AutoTokenizer.from_pretrained(out / "model").eos_token == ENDS[FAMILIES[family][0]]


def test_the_folder_says_what_it_is(learnt: Any, data: Path) -> None:
    out, _ = learnt["qwen3"]
    card = (out / "model" / "README.md").read_text()
    assert card.startswith("---\nlicense: Free for all\nbase_model: path:")
    assert "on 4 conversations of `rows.jsonl`" in card
    assert (out / "model" / "LICENSE").read_text() == "Free for all\n"
    summary = json.loads((out / "sft" / "summary.json").read_text())
    assert summary["trained"] == sum(tensor.numel() for tensor in weights(out).values()) < summary["parameters"]


def test_a_run_that_was_cut_off_goes_on_to_the_same_weights(options: FinetuneOptions) -> None:
    options = replace(options, dropout=0.2)
    whole, cut = replace(options, out=options.out / "whole"), replace(options, out=options.out / "cut")
    done = finetune_checkpoint(whole)
    stopped = finetune_checkpoint(replace(cut, stop_after_steps=3))
    assert stopped.exported is None
    assert not (cut.out / "model").exists()
    last = cut.out / "sft" / "last.pt"
    kept = last.read_bytes()
    finetune_checkpoint(replace(cut, resume=True, stop_after_steps=2))
    last.write_bytes(kept)  # as if it had been killed: the log is ahead of the checkpoint
    resumed = finetune_checkpoint(replace(cut, resume=True))
    assert all(torch.equal(tensor, weights(cut.out)[name]) for name, tensor in weights(whole.out).items())
    assert (done.loss_before, done.loss_after) == (resumed.loss_before, resumed.loss_after)
    losses = [[(entry["step"], entry["loss"]) for entry in log(run.out) if "loss" in entry] for run in (whole, cut)]
    assert losses[0] == losses[1]
    assert [step for step, _ in losses[0]] == list(range(1, len(losses[0]) + 1))


def test_little_data_is_taken_in_small_steps(options: FinetuneOptions) -> None:
    result = finetune_checkpoint(replace(options, batch_tokens=None, tokens=None, held_out=0, stop_after_steps=1))
    assert result.progress.row == 1  # of 4: an epoch never has less than a step for each conversation, up to 16


def test_reports_and_the_held_out_part(options: FinetuneOptions) -> None:
    reports: list[Any] = []
    result = finetune_checkpoint(options, reports.append)
    assert [report.step for report in reports] == list(range(1, result.progress.step + 1))
    assert reports[-1].tokens == result.progress.tokens >= reports[-1].total_tokens == 900
    assert reports[-1].seconds_left == 0
    assert (result.conversations, result.held_out) == (3, 1)
    assert result.loss_before is not None
    assert result.loss_before != result.loss_after
    factors = [entry["lr_factor"] for entry in log(options.out) if "loss" in entry]
    assert factors[0] == 0.5
    assert factors[2:] == sorted(factors[2:], reverse=True)


def test_all_weights_are_trained_without_lora(options: FinetuneOptions, bases: dict[str, Path]) -> None:
    result = finetune_checkpoint(replace(options, lora=False, learning_rate=1e-3))
    base, tuned = (load_file(folder / "model.safetensors") for folder in (bases["qwen3"], options.out / "model"))
    assert not (options.out / "adapter").exists()
    changed = [name for name, tensor in base.items() if not torch.equal(tensor, tuned[name])]
    assert {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"} <= set(changed)
    assert tuned["model.norm.weight"].dtype == torch.bfloat16
    assert result.loss_after is not None


def test_a_download_in_shards_gives_the_same_shards_and_an_adapter_of_its_name(
    options: FinetuneOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = write_checkpoint(tmp_path / "base", "qwen3", max_shard_size="100KB")
    download = ModelFiles(base, "base", "hf:org/base@0123", "0123")
    monkeypatch.setattr("senryu.train.adapters.resolve", lambda ref, home: download)
    finetune_checkpoint(replace(options, tokens=100))
    adapter = json.loads((options.out / "adapter" / "adapter_config.json").read_text())
    assert (adapter["base_model_name_or_path"], adapter["revision"]) == ("org/base", "0123")
    names = sorted(file.name for file in base.glob("*.safetensors"))
    assert len(names) > 1
    assert sorted(file.name for file in (options.out / "model").glob("*.safetensors")) == names
    check(load_spec(options.out / "model"), load_weights(options.out / "model"))


def test_padding_changes_no_loss(bases: dict[str, Path], options: FinetuneOptions) -> None:
    """And the loss is that of transformers, over taught tokens alone."""
    draw = np.random.default_rng(3)
    samples = [Sample(draw.integers(3, 400, n), draw.random(n) < 0.5) for n in (9, 30, 17)]
    model = AutoModelForCausalLM.from_pretrained(bases["qwen3"], dtype=torch.float32)
    sums = []
    for micro in (1, 1000):  # one by one, and together
        tuning = finetune.Tuning(
            replace(options, lora=False, micro_tokens=micro), model, finetune.TuningData(samples, [], 3, 0, 0, ""), {}
        )
        batches = list(finetune._batches(samples, micro))
        assert len(batches) == (3 if micro == 1 else 1)
        sums.append(sum(tuning._nats(batch).item() for batch in batches))
    exact = 0.0
    for sample in samples:
        ids = torch.tensor(sample.ids)[None]
        labels = torch.where(torch.tensor(sample.taught)[None], ids, -100)
        taught = int(sample.taught[1:].sum())
        exact += model(input_ids=ids, labels=labels).loss.item() * taught
    assert sums == pytest.approx([exact, exact], rel=1e-5)


def test_the_command_trains_and_names_the_folder(bases: dict[str, Path], data: Path, tmp_path: Path) -> None:
    def senryu(*words: object) -> Any:
        command = [str(word) for word in ("train", "sft", "--data", data, "--out", tmp_path / "run", *words)]
        return CliRunner().invoke(app, command, env={"SENRYU_HOME": str(tmp_path)})

    model = ("--model", f"path:{bases['llama']}", "--device", "cpu")
    said = senryu(*model, "--lora", "--tokens", 100, "--targets", "q_proj,v_proj", "--held-out", 0.3)
    assert said.exit_code == 0, said.exception
    assert "3 conversations, 1 more held out, 0 too long" in said.stderr
    assert f"senryu serve --model path:{tmp_path / 'run' / 'model'}" in said.stderr
    assert json.loads(said.stdout.splitlines()[-1])["done"]
    assert [stage["start"] for stage in read_run(tmp_path / "run")] == [model[1]]
    assert {name.split(".")[-4] for name in weights(tmp_path / "run")} == {"q_proj", "v_proj"}
    for words, why in (
        (model, "holds a run already"),
        (("--rank", 3), "rank is for an open-weight checkpoint"),
        ((), "is no folder"),
        ((*model, "recipes/toy.toml"), "--model goes without a recipe"),
    ):
        refused = senryu(*words)
        assert isinstance(refused.exception, SenryuError)
        assert why in str(refused.exception)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"targets": ("q_proj", "w_proj")}, "has no linear layer w_proj; it has down_proj, gate_proj, k_proj"),
        ({"longest": 3}, "no conversation of .* fits 3 tokens"),
        ({"data": Path("nowhere.jsonl")}, r"nowhere\.jsonl cannot be read"),
    ],
)
def test_what_cannot_be_trained_is_refused(options: FinetuneOptions, change: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        finetune_checkpoint(replace(options, **change))


@pytest.mark.parametrize("model", ["minii", "path:/nowhere", "hf:nobody"])
def test_an_unknown_model_is_refused_as_by_the_server(options: FinetuneOptions, model: str) -> None:
    with pytest.raises(ModelError, match=model):
        finetune_checkpoint(replace(options, model=model))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rank": 0}, "rank = 0 must be above 0"),
        ({"epochs": -1.0}, "epochs = -1.0 must be above 0"),
        ({"held_out": 1.0}, "held_out = 1.0 must be 0 or more, and below 1"),
        ({"lora": False, "targets": ("q_proj",)}, "targets are those of LoRA"),
    ],
)
def test_options_that_cannot_be_are_refused(options: FinetuneOptions, change: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        replace(options, **change)


def test_a_run_goes_on_with_what_it_began_with(options: FinetuneOptions, tmp_path: Path) -> None:
    finetune_checkpoint(replace(options, stop_after_steps=1))
    with pytest.raises(RecipeError, match="holds a run already"):
        finetune_checkpoint(options)
    with pytest.raises(RecipeError, match="rank was 16, now it is 8, for the run"):
        finetune_checkpoint(replace(options, rank=8, resume=True))
    other = write_rows(tmp_path / "other.jsonl", {"a": "b", "c": "d"})
    with pytest.raises(RecipeError, match="data is another file than"):
        finetune_checkpoint(replace(options, data=other, resume=True))


def test_what_needs_more_memory_than_there_is_is_refused(options: FinetuneOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("senryu.train.adapters.available_memory", lambda: 1000)
    with pytest.raises(RecipeError, match="GB are free; choose a smaller checkpoint"):
        finetune_checkpoint(options)
    with pytest.raises(RecipeError, match="GB are free; use LoRA"):
        finetune_checkpoint(replace(options, lora=False))


def test_a_missing_library_is_named(options: FinetuneOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "peft" else object())
    with pytest.raises(RecipeError, match=r"needs peft; type pip install 'senryu\[train\]'"):
        finetune_checkpoint(options)
