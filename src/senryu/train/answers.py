"""Prompts with their answers, packed into rows, and what a net makes of each answer: log-probabilities and last states.

What belongs together (the two answers of a pair) stands in one row, so that processes can share rows out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from senryu.train.net import LOSS_ROWS, Net
from senryu.train.pack import IGNORED
from senryu.train.vocabulary import PAD

Ids = Sequence[int]
Asked = tuple[Ids, Ids]  # a prompt and an answer to it
OPEN_ROWS = 32  # that still take a short group


@dataclass(frozen=True)
class AnswerRows:
    """Rows [n, length] of whole prompts with their answers.

    tokens: uint16. owner: int32, the number of the answer that a token belongs to, IGNORED for padding. targets: int32, the
    next token where it is an answer's, else IGNORED.
    """

    tokens: np.ndarray
    owner: np.ndarray
    targets: np.ndarray

    def tensors(self, rows: np.ndarray | slice) -> list[Tensor]:
        """Tokens, document numbers, owners and targets of some rows, int64."""
        tokens, owner, targets = (a[rows].astype(np.int64) for a in (self.tokens, self.owner, self.targets))
        document = np.zeros_like(owner)
        document[:, 1:] = np.cumsum(owner[:, 1:] != owner[:, :-1], axis=1)
        return [torch.from_numpy(a) for a in (tokens, document, owner, targets)]


def pack_answers(groups: Sequence[Sequence[Asked]], length: int, *, least: int = 1) -> AnswerRows:
    """Rows of whole groups, each in one row, in their order as far as they fit; answers are numbered group by group.

    least: rows to come to, with padding. Raises ValueError for a group longer than a row.
    """
    rows: list[tuple[list[Asked], list[int]]] = []
    open_rows: list[int] = []
    room: list[int] = []
    number = 0
    for group in groups:
        size = sum(len(prompt) + len(answer) for prompt, answer in group)
        if size > length:
            raise ValueError(f"answers of {size} tokens do not fit a row of {length}; leave them out")
        place = next((row for row in open_rows if room[row] >= size), len(rows))
        if place == len(rows):
            rows.append(([], []))
            room.append(length)
            open_rows = [*open_rows, place][-OPEN_ROWS:]
        rows[place][0].extend(group)
        rows[place][1].extend(range(number, number + len(group)))
        room[place] -= size
        number += len(group)
    count = max(len(rows), least)
    packed = AnswerRows(
        np.full((count, length), PAD, np.uint16),
        np.full((count, length), IGNORED, np.int32),
        np.full((count, length), IGNORED, np.int32),
    )
    for row, (members, numbers) in enumerate(rows):
        at = 0
        for (prompt, answer), owner in zip(members, numbers):
            begin, end = at + len(prompt), at + len(prompt) + len(answer)
            packed.tokens[row, at:begin], packed.tokens[row, begin:end] = prompt, answer
            packed.owner[row, at:end] = owner
            packed.targets[row, begin - 1 : end - 1] = answer
            at = end
    return packed


def local(owner: Tensor) -> tuple[Tensor, Tensor]:
    """(numbers of the answers in some rows, rising; for each token the place of its owner there, 0 for padding)."""
    numbers = owner[owner >= 0].unique()
    return numbers, torch.searchsorted(numbers, owner.clamp(min=0)).clamp(max=max(len(numbers) - 1, 0))


def log_probs(net: Net, batch: Sequence[Tensor], temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """Log-probability [n] of every answer token in a batch (tokens, document, owner, targets), and its owner's place [n]."""
    tokens, document, owner, targets = batch
    wanted = targets >= 0
    states, weight = net.hidden(tokens, document)[wanted], net.model.embed_tokens.weight
    scale = net.config.logit_scale / temperature
    parts = [
        checkpoint(_picked, rows, weight, picked, scale, use_reentrant=False)  # whole logits would be kept for backward
        for rows, picked in zip(states.split(LOSS_ROWS), targets[wanted].split(LOSS_ROWS), strict=True)
    ]
    return torch.cat([*parts, states.new_zeros(0)]), local(owner)[1][wanted]


def _picked(states: Tensor, weight: Tensor, targets: Tensor, scale: float) -> Tensor:
    return -F.cross_entropy(F.linear(states, weight).float() * scale, targets, reduction="none")


def sums(values: Tensor, places: Tensor, count: int) -> Tensor:
    """[count]: the sum of the values at each place."""
    return values.new_zeros(count).index_add(0, places, values)


def last_states(net: Net, batch: Sequence[Tensor]) -> Tensor:
    """[answers, hidden]: the final state at the last token of each answer, in the order of their numbers."""
    tokens, document, owner, _ = batch
    behind = torch.full_like(owner[:, :1], IGNORED)
    last = (owner != torch.cat([owner[:, 1:], behind], dim=1)) & (owner >= 0)
    return net.hidden(tokens, document)[last][owner[last].argsort()]


@torch.no_grad()
def of_all(net: Net, rows: AnswerRows, at_once: int, what: Any) -> np.ndarray:
    """`what(net, batch)` [answers of the batch] over all rows, `at_once` of them at a time; float32 by answer number."""
    device = net.model.norm.weight.device
    out = np.zeros(int(rows.owner.max(initial=IGNORED)) + 1, np.float32)
    for start in range(0, len(rows.tokens), at_once):
        batch = [t.to(device) for t in rows.tensors(slice(start, start + at_once))]
        out[local(batch[2])[0].cpu().numpy()] = what(net, batch).float().cpu().numpy()
    return out


def answer_log_probs(net: Net, batch: Sequence[Tensor]) -> Tensor:
    """[answers]: the log-probability of each whole answer of a batch."""
    values, places = log_probs(net, batch)
    return sums(values, places, len(local(batch[2])[0]))
