"""Optimisers and the learning-rate schedule: Muon for hidden matrices, AdamW for embeddings and norms, WSD by tokens."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from senryu.train.net import Net
from senryu.train.recipe import StageRecipe


@dataclass(frozen=True)
class Schedule:
    """Warm-up, stable, decay (WSD), counted in tokens: the stable part does not depend on where it will end."""

    tokens: int
    decay_tokens: int
    warmup_tokens: int

    @property
    def decay_start(self) -> int:
        return self.tokens - self.decay_tokens

    def factor(self, seen: int) -> float:
        """Learning rate over its peak when `seen` tokens lie behind: linear up, 1, linear down to 0."""
        up = min(1.0, (seen + 1) / max(self.warmup_tokens, 1))
        down = (self.tokens - seen) / max(self.decay_tokens, 1)
        return max(0.0, min(up, down))


def orthogonalise(update: Tensor, dtype: torch.dtype) -> Tensor:
    """Matrices [n, rows, columns] with their singular values moved near 1, by five Newton-Schulz steps computed in `dtype`.

    Coefficients and method: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks".
    """
    tall = update.shape[1] > update.shape[2]
    x = (update.mT if tall else update).to(dtype)
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return (x.mT if tall else x).to(update.dtype)


class Muon(torch.optim.Optimizer):
    """Momentum 0.95 with Nesterov, orthogonalised; decoupled weight decay.

    Equal shapes are updated together: 56 small matrices one by one (torch.optim.Muon) cost a third of a step on a CPU.
    """

    def __init__(
        self, parameters: list[nn.Parameter], lr: float, weight_decay: float, dtype: torch.dtype, momentum: float = 0.95
    ) -> None:
        """dtype: of the products; float32, or bfloat16, whose rounding the steps take no harm from."""
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        self.dtype = dtype

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            shapes: dict[torch.Size, list[nn.Parameter]] = {}
            for parameter in group["params"]:
                shapes.setdefault(parameter.shape, []).append(parameter)
            for shape, members in shapes.items():
                self._update(shape, members, group)

    def _update(self, shape: torch.Size, members: list[nn.Parameter], group: dict[str, Any]) -> None:
        for p in members:
            self.state[p].setdefault("momentum", torch.zeros_like(p))
        weights: list[Tensor] = list(members)
        gradients = [p.grad for p in members if p.grad is not None]
        buffers = [self.state[p]["momentum"] for p in members]
        torch._foreach_lerp_(buffers, gradients, 1 - group["momentum"])
        ahead = torch._foreach_lerp(gradients, buffers, group["momentum"])
        scale = max(1.0, shape[0] / shape[1]) ** 0.5  # so that tall matrices change their outputs as much as square ones
        torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(weights, list(orthogonalise(torch.stack(ahead), self.dtype).unbind()), alpha=-group["lr"] * scale)


class Optimisers:
    """Muon and AdamW behind one step, over the parameters that want gradients."""

    def __init__(self, net: Net, stage: StageRecipe, dtype: torch.dtype = torch.float32) -> None:
        """dtype: of matrix products, as the device has it."""
        trained = [(n, p) for n, p in net.named_parameters() if p.requires_grad]
        matrices = [p for n, p in trained if p.ndim == 2 and "embed" not in n]
        vectors = [p for n, p in trained if p.ndim != 2 or "embed" in n]
        self.parameters = matrices + vectors
        members = (
            ("muon", matrices, stage.lr_matrix, partial(Muon, weight_decay=stage.weight_decay, dtype=dtype)),
            ("adamw", vectors, stage.lr_vector, partial(torch.optim.AdamW, betas=(0.9, 0.95), weight_decay=0.0, eps=1e-10)),
        )
        self._members = {name: (make(own, lr=peak), peak) for name, own, peak, make in members if own}

    def step(self, factor: float) -> float:
        """One update at `factor` times the peak rates; gradients are clipped to norm 1, whose norm before is returned."""
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        for optimiser, peak in self._members.values():
            for group in optimiser.param_groups:
                group["lr"] = peak * factor
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        return float(norm)

    def state_dict(self) -> dict[str, Any]:
        return {name: optimiser.state_dict() for name, (optimiser, _) in self._members.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, (optimiser, _) in self._members.items():
            optimiser.load_state_dict(state[name])
