"""Answers of a net under training: token ids in, token ids out, many prompts at once over a K/V cache in torch.

The distribution is that of `Net.forward`. An answer depends on its prompt, its number and the seed: its neighbours in the batch
change nothing but the rounding of sums.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from senryu.train.net import Attention, Layer, Net, pair_swap, rotary, rotate
from senryu.train.vocabulary import PAD

PREFILL = 256  # columns of prompts in one pass


@dataclass
class Sampled:
    """An answer: its ids, the stop id included where one was drawn, and the log-probability of each.

    These are of the distribution at the answer's temperature (at 1 for greedy answers), before top_p cut it.
    """

    ids: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)


def sample(
    net: Net,
    prompts: Sequence[Sequence[int]],
    *,
    max_tokens: int,
    temperature: float,
    seed: int,
    stop_ids: Collection[int],
    top_p: float = 1.0,
    at_once: int = 64,
) -> list[list[int]]:
    """The ids of `draw`'s answers; one that ended has its stop id as the last."""
    limits: dict[str, Any] = {"max_tokens": max_tokens, "temperature": temperature, "top_p": top_p, "at_once": at_once}
    return [answer.ids for answer in draw(net, prompts, seed=seed, stop_ids=stop_ids, **limits)]


@torch.no_grad()
def draw(
    net: Net,
    prompts: Sequence[Sequence[int]],
    *,
    max_tokens: int,
    temperature: float,
    seed: int,
    stop_ids: Collection[int],
    top_p: float = 1.0,
    numbers: Sequence[int] | None = None,
    at_once: int = 64,
) -> list[Sampled]:
    """One answer for each prompt, in their order; autocast around the call counts.

    temperature: 0 takes the likeliest token each time. top_p: the likeliest tokens that together reach it may be drawn.
    numbers: of the prompts, 0, 1, 2 and so on by default; an answer is drawn from (seed, number). at_once: rows in a batch.
    Raises ValueError for an empty prompt or numbers out of range.
    """
    if max_tokens < 1 or temperature < 0 or not 0 < top_p <= 1:
        raise ValueError(
            f"max_tokens = {max_tokens}, temperature = {temperature}, top_p = {top_p}: use at least 1, at least 0, in (0, 1]"
        )
    if not all(prompts):
        raise ValueError("a prompt is empty; give each at least one token")
    numbered = range(len(prompts)) if numbers is None else numbers
    answers = [Sampled() for _ in prompts]
    by_length = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))  # little padding in each batch
    for start in range(0, len(prompts), at_once):
        members = by_length[start : start + at_once]
        luck = np.stack([np.random.default_rng((seed, numbered[i])).random(max_tokens) for i in members])
        rows = _Rows(net, [prompts[i] for i in members], max_tokens)
        _decode(rows, [answers[i] for i in members], luck, temperature, top_p, frozenset(stop_ids))
    return answers


def _decode(
    rows: _Rows, answers: list[Sampled], luck: np.ndarray, temperature: float, top_p: float, stop_ids: frozenset[int]
) -> None:
    """Draw tokens into `answers` until each has stopped or used up its luck, one number of `luck` [rows, tokens] for each."""
    live = np.arange(len(answers))
    logits = rows.prefill()
    for step in range(luck.shape[1]):
        tokens, log_probs = choose(logits, torch.from_numpy(luck[live, step]).to(logits.device), temperature, top_p)
        stopped = []
        for row, token, log_prob in zip(live, tokens.tolist(), log_probs.tolist()):
            answers[row].ids.append(token)
            answers[row].log_probs.append(log_prob)
            stopped.append(token in stop_ids)
        going = ~np.array(stopped)
        if step + 1 == luck.shape[1] or not going.any():
            return
        if not going.all():
            kept = torch.from_numpy(np.flatnonzero(going)).to(tokens.device)
            rows.keep(kept)
            live, tokens = live[going], tokens[kept]
        logits = rows.forward(tokens[:, None])


def choose(logits: Tensor, luck: Tensor, temperature: float, top_p: float) -> tuple[Tensor, Tensor]:
    """The tokens that numbers `luck` [rows] in [0, 1) pick from logits [rows, vocab], and their log-probabilities."""
    log_probs = torch.log_softmax(logits.float() / (temperature or 1.0), dim=-1)
    if temperature == 0:
        tokens = log_probs.argmax(dim=-1)
    else:
        shares = log_probs.double().exp()
        if top_p < 1:
            falling, order = shares.sort(dim=-1, descending=True)
            falling = falling.masked_fill(falling.cumsum(-1) - falling >= top_p, 0.0)
            shares = torch.zeros_like(shares).scatter(-1, order, falling)
        bounds = shares.cumsum(-1)
        tokens = torch.searchsorted(bounds, luck[:, None] * bounds[:, -1:], right=True)[:, 0]
    return tokens, log_probs.gather(-1, tokens[:, None])[:, 0]


class _Rows:
    """Prompts of different lengths that end in the same column, and the K/V of all columns before.

    Column j of a row holds position j - start: rows are turned by their own positions, so that padding changes no angle.
    """

    def __init__(self, net: Net, prompts: list[Sequence[int]], more: int) -> None:
        self._net = net
        device, dim = net.model.norm.weight.device, net.config.head_dim
        longest = max(map(len, prompts))
        padded = [[PAD] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
        self._prompts = torch.tensor(padded, device=device)
        self._start = torch.tensor([longest - len(prompt) for prompt in prompts], device=device)
        self._room = longest + more
        self._cos, self._sin = (table.to(device) for table in rotary(self._room, dim, net.config.rope_theta))
        self._swap = pair_swap(dim).to(device)
        self._used = 0
        self._keys: list[Tensor] = []  # of each layer [rows, kv heads, room, head_dim]
        self._values: list[Tensor] = []

    def keep(self, rows: Tensor) -> None:
        """Only these rows go on."""
        self._start = self._start[rows]
        self._keys = [keys[rows] for keys in self._keys]
        self._values = [values[rows] for values in self._values]

    def prefill(self) -> Tensor:
        """The prompts; logits [rows, vocab] behind each."""
        for part in self._prompts.split(PREFILL, dim=1):
            logits = self.forward(part)
        return logits

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits [rows, vocab] behind the next columns, tokens [rows, n]."""
        columns = torch.arange(self._used, self._used + tokens.shape[1], device=tokens.device)
        position = (columns - self._start[:, None]).clamp(min=0)
        turns = self._cos[position], self._sin[position], self._swap
        x = self._net.model.embed_tokens(tokens)
        for number, layer in enumerate(self._net.model.layers):
            assert isinstance(layer, Layer)
            normed = layer.input_layernorm(x)
            x = x + self._attend(number, layer.self_attn, normed, turns, columns) + layer.mlp(normed)
        self._used += tokens.shape[1]
        states = self._net.model.norm(x[:, -1])
        return F.linear(states, self._net.model.embed_tokens.weight) * self._net.config.logit_scale

    def _attend(self, number: int, part: Attention, x: Tensor, turns: tuple[Tensor, Tensor, Tensor], columns: Tensor) -> Tensor:
        """A layer's attention over all columns up to its own, new ones [rows, n, hidden] included."""
        rows, length, _ = x.shape
        projections = (part.q_proj, part.k_proj, part.v_proj)
        q, k, v = (p(x).view(rows, length, -1, part.head_dim).transpose(1, 2) for p in projections)
        if part.window is not None:
            q, k = rotate(q, *turns), rotate(k, *turns)
        if number == len(self._keys):
            shape = (rows, k.shape[1], self._room, part.head_dim)
            self._keys.append(k.new_empty(shape))
            self._values.append(v.new_empty(shape))
        end = self._used + length
        self._keys[number][:, :, self._used : end] = k
        self._values[number][:, :, self._used : end] = v
        begin = 0 if part.window is None else max(0, self._used - part.window + 1)
        seen = torch.arange(begin, end, device=x.device)
        distance = columns[:, None] - seen
        allowed = distance >= 0 if part.window is None else (distance >= 0) & (distance < part.window)
        real = seen >= self._start[:, None]
        mask = (allowed & real[:, None]) | (distance == 0)  # a padding column sees itself: it must see something
        shared = q.shape[1] // k.shape[1]  # query heads of one K/V head are rows of one product
        out = F.scaled_dot_product_attention(
            q.reshape(rows, k.shape[1], shared * length, part.head_dim),
            self._keys[number][:, :, begin:end],
            self._values[number][:, :, begin:end],
            attn_mask=mask.repeat(1, shared, 1)[:, None],
        )
        return part.o_proj(out.view(rows, -1, length, part.head_dim).transpose(1, 2).reshape(rows, length, -1))
