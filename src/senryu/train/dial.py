"""The dial: a size or a wall-clock budget in, a whole recipe out, by formulas; the data mix is that of a recipe to start from.

Sources: (a) nanochat's scaling log (karpathy/nanochat, dev/LOG.md): 10.5 tokens for each parameter of matrices and head are
compute-optimal at these sizes, and rates of AdamW go with 1 / sqrt(width); (b) the batch grows as tokens^0.38 from 524,288 at
2.3e9 tokens (same log); (c) training takes 6 FLOPs a parameter and token (Kaplan et al. 2020, arXiv 2001.08361, section 2.1)
and 12 x width for each key that a query sees, backward pass included; (d) rates of pretraining at the width of 7m, as nano was
tuned (LAB.md); what else a stage has, its share of warm-up and decay too, is that of the recipe to start from.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from senryu.train.device import Device
from senryu.train.net import Net, NetConfig
from senryu.train.optim import Optimisers
from senryu.train.recipe import Recipe, RecipeError, StageRecipe, with_minutes

TOKENS_PER_PARAMETER = 10.5  # (a)
BATCH, BATCH_TOKENS, BATCH_POWER = 524_288, 2.3e9, 0.38  # (b)
STEPS, SMALLEST_BATCH = 3_000, 8_192  # a schedule needs steps more than it needs a wide batch; what two cores take at once
LR_MATRIX, LR_VECTOR, WIDTH = 0.02, 0.003, 256  # (d)
PREPARED = 1.05  # tokens prepared for each that is planned: how many the clock leaves time for is known afterwards
PROBE_ROWS, PROBE_LENGTH, PROBE_SECONDS = {"cpu": 4, "cuda": 64}, 512, 4.0  # a GPU needs more rows to be busy
COMPILED = 1.3  # torch.compile on two CPU cores: 3,880 against 2,900 tokens a second (8 x 256, bf16)

SHAPES: dict[str, NetConfig] = {  # layers x width, heads/kv, feed-forward, vocabulary: deep and thin, tied, windows 3:1
    "7m": NetConfig(4096, 256, 704, 8, 4, 1, sliding_window=512),
    "14m": NetConfig(8192, 320, 896, 10, 5, 1, sliding_window=512),
    "29m": NetConfig(8192, 448, 1216, 12, 7, 1, sliding_window=1024),
    "61m": NetConfig(8192, 576, 1536, 16, 9, 3, sliding_window=1024),
}


def parameters(net: NetConfig) -> int:
    """Stored parameters: the tied embedding, per layer four attention matrices, three of SwiGLU and a norm, the last norm."""
    width, query, kv = net.hidden_size, net.num_attention_heads * net.head_dim, net.num_key_value_heads * net.head_dim
    layer = width * (2 * query + 2 * kv + 3 * net.intermediate_size + 1)
    return net.vocab_size * width + net.num_hidden_layers * layer + width


def flops_per_token(net: NetConfig, length: int) -> float:
    """Of training, forward and backward, in rows of `length`: 6 a parameter (the tied head works, the lookup does not), and
    12 x width for each key seen: the mean over a causal row, in a window or over all of it."""
    keys = 0.0
    for kind in net.layer_types:
        window = min(net.sliding_window, length) if kind == "sliding_attention" else length
        keys += window - window * (window - 1) / (2 * length)  # the first `window` queries see 1, 2, ... keys
    return 6 * parameters(net) + 12 * net.num_attention_heads * net.head_dim * keys


@dataclass(frozen=True)
class Speed:
    """Measured: seconds a token of forward and backward, seconds a step of the optimisers."""

    token: float
    step: float

    def tokens_per_second(self, batch_tokens: int) -> float:
        """At batches of `batch_tokens`."""
        return batch_tokens / (batch_tokens * self.token + self.step)


def measure(net: NetConfig, stage: StageRecipe, device: Device) -> Speed:
    """A few seconds of real training steps on random tokens: medians of whole steps and of the optimisers' part.

    It runs uncompiled, since compiling takes longer than the probe; where the device will compile, its gain is counted in.
    """
    model, length = Net(net).to(device.name), PROBE_LENGTH
    model.initialise(0)
    optimisers = Optimisers(model, stage, device.dtype)
    tokens = torch.randint(64, net.vocab_size, (PROBE_ROWS[device.kind], length), generator=torch.Generator().manual_seed(0))
    [tokens] = device.put([tokens])
    document = torch.zeros_like(tokens)
    passes: list[float] = []
    steps: list[float] = []
    began = time.perf_counter()
    while len(passes) < 3 or time.perf_counter() - began < PROBE_SECONDS:
        start = time.perf_counter()
        with device.autocast():
            loss, _ = model.loss(tokens, document, tokens, stage.z_loss)
        loss.backward()
        device.synchronise()
        middle = time.perf_counter()
        optimisers.step(1.0)  # its norm of the gradients is a number here: a GPU is waited for
        passes.append(middle - start)
        steps.append(time.perf_counter() - middle)
    # the first pass warms caches up; the least disturbed of the others is what the machine can do
    return Speed(min(passes[1:]) / tokens.numel() / (COMPILED if device.compile else 1), min(steps[1:]))


def best_size(flops_per_second: float, seconds: float) -> str:
    """The shape whose parameters come nearest, by ratio, to what is compute-optimal: with C FLOPs, C = 6 N D and D = 10.5 N
    give N = sqrt(C / 63)."""
    optimal = math.sqrt(flops_per_second * seconds / (6 * TOKENS_PER_PARAMETER))
    return min(SHAPES, key=lambda name: abs(math.log(parameters(SHAPES[name]) / optimal)))


def batch_tokens(tokens: float) -> int:
    """Tokens of a batch, a power of two: (b), yet so many steps at least that the schedule has a shape."""
    wanted = min(BATCH * (tokens / BATCH_TOKENS) ** BATCH_POWER, tokens / STEPS)
    return max(SMALLEST_BATCH, 2 ** math.floor(math.log2(max(wanted, 1))))


@dataclass(frozen=True)
class Setting:
    """Where the dial stands: a name of SHAPES, or "auto" for the size that is best for `minutes`; minutes of all stages."""

    size: str
    minutes: float | None = None


Probe = Callable[[NetConfig], Speed]


def turn(base: Recipe, setting: Setting, probe: Probe) -> tuple[Recipe, Speed | None]:
    """The recipe for a setting, in the mix, the stages and the shares of schedule and clock of `base`; and the measured speed.

    `probe` measures a shape on this machine; without minutes nothing needs measuring. Raises RecipeError for a setting that
    cannot be.
    """
    if setting.size not in (*SHAPES, "auto"):
        raise RecipeError(f"there is no size `{setting.size}`; use {', '.join(SHAPES)} or auto")
    if setting.minutes is None:
        if setting.size == "auto":
            raise RecipeError("a size of its own needs a budget; add --minutes N, or name a size: " + ", ".join(SHAPES))
        net = SHAPES[setting.size]
        return _scaled(base, net, TOKENS_PER_PARAMETER * parameters(net), {}), None
    base = with_minutes(base, setting.minutes)
    seconds = 60 * setting.minutes
    size, speed = _sized(base, setting, seconds * base.share("pretrain"), probe)
    budgets = {name: seconds * base.share(name) * speed.tokens_per_second(SMALLEST_BATCH) for name in base.stages}
    return _scaled(base, SHAPES[size], budgets["pretrain"], budgets), speed


def _sized(base: Recipe, setting: Setting, seconds: float, probe: Probe) -> tuple[str, Speed]:
    """The size for `seconds` of pretraining, its speed; "auto" climbs from the smallest: larger ones use a machine better."""
    if setting.size != "auto":
        return setting.size, probe(SHAPES[setting.size])
    names = list(SHAPES)
    name = names[0]
    while True:
        speed = probe(SHAPES[name])
        flops = flops_per_token(SHAPES[name], base.pretrain.sequence) * speed.tokens_per_second(SMALLEST_BATCH)
        best = best_size(flops, seconds)
        if names.index(best) <= names.index(name):
            return name, speed
        name = best


def _scaled(base: Recipe, net: NetConfig, tokens: float, budgets: dict[str, float]) -> Recipe:
    """The recipe of `tokens` tokens of pretraining, fine-tuning in proportion or as its time allows; what the later stages
    learn from is limited by their data, not by the size, so they keep their tokens."""
    narrower = math.sqrt(base.net.hidden_size / net.hidden_size)
    fresh = replace(base.pretrain, lr_matrix=LR_MATRIX, lr_vector=LR_VECTOR)
    pretrain = _stage(fresh, tokens, batch_tokens(tokens), math.sqrt(WIDTH / net.hidden_size))
    sft_tokens = budgets.get("sft", base.sft.tokens * tokens / base.pretrain.tokens)
    sft = _stage(base.sft, sft_tokens, batch_tokens(sft_tokens), narrower)
    later: dict[str, Any] = {
        name: replace(stage, lr_vector=_rate(stage.lr_vector * narrower))
        for name, stage in base.stages.items()
        if name not in ("pretrain", "sft")
    }
    tokenizer = replace(base.tokenizer, vocab_size=net.vocab_size)
    return replace(base, net=net, tokenizer=tokenizer, pretrain=pretrain, sft=sft, **later)


def _stage(base: StageRecipe, tokens: float, batch: int, narrower: float) -> StageRecipe:
    """In whole batches; warm-up and decay keep their shares, Muon its rate, AdamW's goes with 1 / sqrt(width)."""
    batch = max(batch, base.decay_sequence)

    def whole(part: float) -> int:
        return max(1, round(part / batch)) * batch

    total = whole(tokens)
    share = total / base.tokens
    return replace(
        base,
        tokens=total,
        prepare_tokens=math.ceil(total * max(PREPARED, base.prepare_tokens / base.tokens)),
        decay_tokens=whole(base.decay_tokens * share),
        warmup_tokens=round(base.warmup_tokens * share),
        batch_tokens=batch,
        lr_vector=_rate(base.lr_vector * narrower),
    )


def _rate(exact: float) -> float:
    """Three digits: a recipe is read by people."""
    return float(f"{exact:.3g}")


def table(recipe: Recipe, speed: Speed | None = None) -> list[tuple[str, str]]:
    """What will be trained, a line each: for people, before training starts."""
    net, count = recipe.net, parameters(recipe.net)
    heads = f"{net.num_attention_heads} heads of {net.head_dim} over {net.num_key_value_heads} of keys and values"
    lines = [
        ("recipe", f"{recipe.name}, seed {recipe.seed}"),
        ("shape", f"{net.num_hidden_layers} layers x {net.hidden_size}, {heads}, feed-forward {net.intermediate_size}"),
        ("windows", f"{net.sliding_window} tokens, every {net.full_every}. layer sees all"),
        ("vocabulary", f"{net.vocab_size:,} tokens, learnt from {recipe.tokenizer.sample_mb:g} MB"),
        ("parameters", f"{count / 1e6:.2f} M, {2 * count / 1e6:.0f} MB in bf16"),
    ]
    for name in recipe.stages:
        lines.append((name, _stage_line(recipe, name, count)))
    if speed is not None:
        batch = recipe.pretrain.batch_tokens
        lines.append(("speed", f"{speed.tokens_per_second(batch):,.0f} tokens/s measured, in batches of {batch:,}"))
    return lines


def _stage_line(recipe: Recipe, name: str, count: int) -> str:
    stage = recipe.stages[name]
    minutes = "" if recipe.minutes is None else f"{recipe.minutes * recipe.share(name):.1f} minutes, at most "
    return (
        f"{minutes}{stage.tokens / 1e6:.2f} M tokens ({stage.tokens / count:.1f} a parameter) in "
        f"{math.ceil(stage.tokens / stage.batch_tokens):,} steps of {stage.batch_tokens:,}; rows of {stage.sequence}, "
        f"{stage.decay_sequence} in the last {stage.decay_tokens / stage.tokens:.0%}; "
        f"rates {stage.lr_matrix:g} (Muon) and {stage.lr_vector:g} (AdamW)"
    )
