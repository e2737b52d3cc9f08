"""Fine-tuning of an open-weight checkpoint on conversations, with LoRA or whole, up to a folder that is served.

The network is transformers', the adapters are peft's; template, tokenizer and the form of conversations are those that serve
(`conversations.py`). A run's folder gets `sft/` (log.jsonl, last.pt, summary.json), with LoRA `adapter/`, and `model/`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from senryu.model.hub import ModelFiles, describe, resolve
from senryu.model.spec import load_spec
from senryu.model.template import load_template
from senryu.model.tokenizer import load_tokenizer
from senryu.service.memory import available_memory
from senryu.train.checkpoint import Progress
from senryu.train.conversations import Conversation, Encoder, Sample, read_conversations
from senryu.train.finetune import STAGE, FinetuneOptions, Tuning, TuningData
from senryu.train.loop import Report
from senryu.train.merge import with_deltas, with_values, write_model
from senryu.train.recipe import RecipeError


@dataclass(frozen=True)
class Finetuned:
    """What a run came to. Losses are of the held-out conversations, in nats per token of the answers; None without any.

    left_out: conversations over `longest`. exported: the folder to serve; None where the run stopped before its end.
    """

    progress: Progress
    conversations: int
    held_out: int
    left_out: int
    loss_before: float | None
    loss_after: float | None
    exported: Path | None


def finetune_checkpoint(options: FinetuneOptions, report: Callable[[Report], None] | None = None) -> Finetuned:
    """Fine-tune, measure, save the adapter, merge and export. `report` is called after every step.

    Raises ModelError for a model that cannot be found or served, RecipeError for data or options that cannot be used.
    """
    _require(options)
    files = resolve(options.model, options.home)
    facts = describe(files)
    folder = options.out / STAGE
    if (folder / "last.pt").exists() and not options.resume:
        raise RecipeError(f"{folder} holds a run already; go on with it (resume), or choose another folder")
    _check_memory(options, facts["parameters"])
    data = _read(options, files)
    folder.mkdir(parents=True, exist_ok=True)
    began = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    torch.manual_seed(options.seed)
    model = _load(files, options)
    adapters = _adapt(model, options, files) if options.lora else None
    tuning = Tuning(options, model.to(options.device.name), data, {"start": files.ref}, report)
    done = tuning.train()
    if done:
        _export(tuning, adapters, files, facts["licence"])
    summary = _summary(tuning, facts["parameters"]) | {"began": began}
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf8")
    numbers = (data.conversations, data.kept_back, data.left_out)
    return Finetuned(tuning.progress, *numbers, tuning.before, tuning.after, options.out / "model" if done else None)


def _require(options: FinetuneOptions) -> None:
    for package in ("transformers", "peft") if options.lora else ("transformers",):
        if importlib.util.find_spec(package) is None:
            raise RecipeError(f"fine-tuning a checkpoint needs {package}; type pip install 'senryu[train]'")


def _summary(tuning: Tuning, parameters: int) -> dict[str, Any]:
    """Like that of other stages: what was trained where, for how long, and what came out."""
    data, device = tuning.data, tuning.options.device
    return {
        **tuning.settings,
        "parameters": parameters,
        "trained": sum(p.numel() for p in tuning.weights.values()),
        "conversations": data.conversations,
        "held_out_conversations": data.kept_back,
        "left_out": data.left_out,
        "held_out_loss": [tuning.before, tuning.after],
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "device": device.name,
        "dtype": str(device.dtype).removeprefix("torch."),
        "processes": 1,
        **asdict(tuning.progress),
    }


def _read(options: FinetuneOptions, files: ModelFiles) -> TuningData:
    """Samples to train on and to measure by. A draw by content: equal conversations are on one side."""
    conversations = read_conversations(options.data)
    names = [hashlib.sha256(f"{options.seed}\n{row.turn!r}".encode()).hexdigest() for row in conversations]
    unique = sorted(set(names))
    count = max(round(options.held_out * len(unique)), 1) if options.held_out and len(unique) > 1 else 0
    kept_back = set(unique[:count])
    tokenizer = load_tokenizer(files.path)
    encoder = Encoder(files.name, load_template(files.path, tokenizer), tokenizer)
    longest = min(options.longest, load_spec(files.path).max_position)
    parts: tuple[list[list[Sample]], list[list[Sample]]] = ([], [])
    for name, conversation in zip(names, conversations, strict=True):
        parts[name in kept_back].append(_short(encoder, conversation, longest))
    training, held_out = ([sample for samples in part for sample in samples] for part in parts)
    used = [sum(map(bool, part)) for part in parts]
    if not training:
        raise RecipeError(f"no conversation of {options.data} fits {longest} tokens; raise longest, or shorten them")
    digest = hashlib.sha256(options.data.read_bytes()).hexdigest()
    return TuningData(training, held_out, used[0], used[1], len(conversations) - sum(used), digest)


def _short(encoder: Encoder, conversation: Conversation, longest: int) -> list[Sample]:
    samples = encoder.samples(conversation)
    return samples if all(len(sample.ids) <= longest for sample in samples) else []


def _check_memory(options: FinetuneOptions, parameters: int) -> None:
    """Weights, gradients and two moments in float32 for all; with LoRA, which adds little, the weights alone."""
    need = parameters * (torch.empty(0, dtype=options.device.dtype).element_size() if options.lora else 16)
    on_gpu = options.device.kind == "cuda"
    free = torch.cuda.mem_get_info(options.device.name)[0] if on_gpu else available_memory()
    if need > free:
        less = "choose a smaller checkpoint" if options.lora else "use LoRA, or a smaller checkpoint"
        raise RecipeError(f"{options.model} takes {need / 1e9:.1f} GB to train and {free / 1e9:.1f} GB are free; {less}")


def _load(files: ModelFiles, options: FinetuneOptions) -> Any:
    """The checkpoint in transformers. Weights that stay as they are take the format that they are multiplied in."""
    from transformers import AutoModelForCausalLM

    dtype = options.device.dtype if options.lora else torch.float32
    try:
        return AutoModelForCausalLM.from_pretrained(files.path, dtype=dtype, local_files_only=True)
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        raise RecipeError(f"transformers cannot load {files.ref} ({error}); choose another checkpoint") from error


def _adapt(model: Any, options: FinetuneOptions, files: ModelFiles) -> Any:
    """Put LoRA layers into `model`, in place; peft's handle on them."""
    from peft import LoraConfig, get_peft_model

    head = model.get_output_embeddings()
    known = {name.rpartition(".")[2] for name, m in model.named_modules() if isinstance(m, nn.Linear) and m is not head}
    if unknown := set(options.targets) - known:
        wrong, right = (", ".join(sorted(names)) for names in (unknown, known))
        raise RecipeError(f"{files.name} has no linear layer {wrong}; it has {right}")
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=options.rank,
        lora_alpha=options.alpha,
        lora_dropout=options.dropout,
        target_modules=list(options.targets) or "all-linear",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by an older name
        adapters = get_peft_model(model, config)
    if files.ref.startswith("hf:"):
        config.base_model_name_or_path, config.revision = files.ref.removeprefix("hf:").partition("@")[0], files.revision
    return adapters


def _export(tuning: Tuning, adapters: Any, files: ModelFiles, licence: str | None) -> None:
    """The run's adapter/ as peft saves it, and model/, which is served."""
    out = tuning.options.out
    if adapters is None:
        change = with_values(tuning.model.state_dict())
    else:
        shutil.rmtree(out / "adapter", ignore_errors=True)
        adapters.save_pretrained(out / "adapter", save_embedding_layers=False)
        layers = {name: module for name, module in tuning.model.named_modules() if hasattr(module, "get_delta_weight")}
        change = with_deltas({f"{name}.weight": partial(m.get_delta_weight, "default") for name, m in layers.items()})
    write_model(files.path, out / "model", change, _card(tuning, files, licence))


def _card(tuning: Tuning, files: ModelFiles, licence: str | None) -> str:
    """README.md of the exported folder."""
    options, data, progress = tuning.options, tuning.data, tuning.progress
    head = [f"license: {licence}", f"base_model: {files.ref}"] if licence else [f"base_model: {files.ref}"]
    how = f"LoRA of rank {options.rank}, merged" if options.lora else "all weights"
    loss = "Nothing was held out."
    if tuning.before is not None:
        loss = f"Loss of {data.kept_back} held-out ones, nats per token of the answers: {tuning.before:.3f} before, "
        loss += f"{tuning.after:.3f} after."
    return (
        "\n".join(["---", *head, "---", f"# {files.name}, fine-tuned", ""])
        + f"\n{files.ref}, fine-tuned ({how}) on {data.conversations} conversations of `{options.data.name}`, SHA-256 "
        + f"{data.digest}: {progress.tokens:,} tokens in {progress.step} steps, learning rate {options.peak:g}, "
        + f"seed {options.seed}. {loss}\n"
    )
