"""The network that training runs: Cohere2 layout in torch, with the parameter names of the Hugging Face checkpoint.

Export is therefore a plain save of the state dict. Layout: token embedding (tied head); per layer one bias-free
LayerNorm feeding attention and SwiGLU in parallel; interleaved RoPE on sliding layers, no positions on full ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from senryu.train.attention import Sight, attend, sight_of

KEPT = 4096  # tokens: of longer rows a CPU keeps what goes into each layer alone; the backward pass computes the rest again
LOSS_ROWS = 1024  # rows of logits at a time on a CPU: 16 MB in float32 at a vocabulary of 4,096; a GPU wants 16 times more
Turns = tuple[Tensor, Tensor, Tensor]  # cos, sin, pair swap
Sights = dict[int | None, Sight]  # by a layer's window: what its queries may look at


@dataclass(frozen=True)
class NetConfig:
    """The shape of a network; field names are those of a Hugging Face `config.json`."""

    vocab_size: int = 4096
    hidden_size: int = 256
    intermediate_size: int = 704
    num_hidden_layers: int = 8
    num_attention_heads: int = 4
    num_key_value_heads: int = 1
    head_dim: int = 64
    sliding_window: int = 512
    full_every: int = 4  # every n-th layer is full attention without positions
    rope_theta: float = 10000.0
    layer_norm_eps: float = 1e-5
    logit_scale: float = 1.0
    max_position_embeddings: int = 204800

    @property
    def layer_types(self) -> list[str]:
        """`sliding_attention` or `full_attention` for each layer."""
        full = self.full_every
        return ["full_attention" if (i + 1) % full == 0 else "sliding_attention" for i in range(self.num_hidden_layers)]

    @property
    def windows(self) -> list[int | None]:
        """Each layer's window: how many tokens its queries look back at, their own included, or None for all."""
        return [self.sliding_window if kind == "sliding_attention" else None for kind in self.layer_types]


class LayerNorm(nn.Module):
    """Mean-centred LayerNorm without bias, computed in fp32 (transformers `Cohere2LayerNorm`)."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.float(), self.weight.shape, self.weight, None, self.eps)


def rotary(length: int, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """cos and sin [length, head_dim], each frequency twice in a row (interleaved form)."""
    inverse = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    angle = torch.outer(torch.arange(length, dtype=torch.float32), inverse).repeat_interleave(2, dim=-1)
    return angle.cos(), angle.sin()


def pair_swap(head_dim: int) -> Tensor:
    """[head_dim, head_dim]: x @ it turns each pair (x0, x1) into (-x1, x0), exactly.

    A product runs at full speed where reading every second number does not.
    """
    return torch.block_diag(*[torch.tensor([[0.0, 1.0], [-1.0, 0.0]])] * (head_dim // 2))


def rotate(x: Tensor, cos: Tensor, sin: Tensor, swap: Tensor) -> Tensor:
    """Interleaved RoPE: pairs (x0, x1) turn by their angle. x [batch, length, heads, head_dim]; cos, sin [length, head_dim]."""
    swapped = x @ swap.to(x.dtype)
    return (x.float() * cos[:, None] + swapped.float() * sin[:, None]).to(x.dtype)


class Attention(nn.Module):
    """Grouped-query attention without biases; RoPE and a window on sliding layers only."""

    def __init__(self, config: NetConfig, window: int | None) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.window = window
        width, kv = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, width, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, kv, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, kv, bias=False)
        self.o_proj = nn.Linear(width, config.hidden_size, bias=False)

    def forward(self, x: Tensor, sights: Sights, turns: Turns) -> Tensor:
        batch, length, _ = x.shape
        q, k, v = (p(x).view(batch, length, -1, self.head_dim) for p in (self.q_proj, self.k_proj, self.v_proj))
        if self.window is not None:
            q, k = rotate(q, *turns), rotate(k, *turns)
        out = attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), sights[self.window], self.window)
        return self.o_proj(out.transpose(1, 2).reshape(batch, length, -1))


class MLP(nn.Module):
    """SwiGLU."""

    def __init__(self, config: NetConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    """Parallel block: x + dropout(attention(norm(x)) + mlp(norm(x))); dropout is 0 unless a stage sets it."""

    def __init__(self, config: NetConfig, window: int | None) -> None:
        super().__init__()
        self.input_layernorm = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.self_attn = Attention(config, window)
        self.mlp = MLP(config)
        self.dropout = nn.Dropout(0.0)

    def forward(self, x: Tensor, sights: Sights, turns: Turns) -> Tensor:
        normed = self.input_layernorm(x)
        return x + self.dropout(self.self_attn(normed, sights, turns) + self.mlp(normed))


class Trunk(nn.Module):
    """Embedding, layers, final norm: the `model.` part of the state dict."""

    def __init__(self, config: NetConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, window) for window in config.windows)
        self.norm = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.recompute = False  # as for rows over KEPT, but for all, on a GPU too: seven times less memory, a third more time

    def forward(self, tokens: Tensor, sights: Sights, turns: Turns) -> Tensor:
        x = self.embed_tokens(tokens)
        again = torch.is_grad_enabled() and (self.recompute or (tokens.shape[1] > KEPT and not tokens.is_cuda))
        for layer in self.layers:
            x = checkpoint(layer, x, sights, turns, use_reentrant=False) if again else layer(x, sights, turns)
        return self.norm(x)


class HeadLoss(torch.autograd.Function):
    """Cross-entropy and z-loss of a linear head in one pass: so many rows at a time, gradients together with the losses.

    Logits of a whole batch (8,192 x 4,096 in float32: 134 MB, several times over) cost more than the products.
    """

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, head: Tensor, targets: Tensor, z_weight: float, scale: float
    ) -> tuple[Tensor, Tensor]:
        """states [n, hidden], head [vocab, hidden], targets int64 [n] (below 0: left out) -> means in nats: total, entropy."""
        device = states.device.type
        narrow = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else states.dtype
        weight = head.to(narrow)
        count = (targets >= 0).sum().clamp(min=1)
        sums, state_parts, head_gradient = torch.zeros(2, device=states.device), [], torch.zeros_like(head)
        at_once = LOSS_ROWS if device == "cpu" else 16 * LOSS_ROWS
        for rows, wanted in zip(states.split(at_once), targets.split(at_once), strict=True):
            rows = rows.to(narrow)
            losses, slope = _head_slope(rows @ weight.T, wanted, z_weight, scale)
            slope = slope.to(narrow)
            sums += losses
            state_parts.append(slope @ weight)
            head_gradient += slope.T @ rows
        ctx.save_for_backward(torch.cat(state_parts), head_gradient, count)
        entropy = sums[0] / count
        ctx.mark_non_differentiable(entropy)
        return (sums[0] + z_weight * sums[1]) / count, entropy

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        states, head, count = ctx.saved_tensors
        share = gradients[0] / count
        return states * share, head * share, None, None, None


def _head_slope(logits: Tensor, targets: Tensor, z_weight: float, scale: float) -> tuple[Tensor, Tensor]:
    """([sum of entropies, sum of log Z squared], derivative of entropy + z_weight log Z^2 by the unscaled logits)."""
    logits = logits.float() * scale
    keep = (targets >= 0).float()
    log_z = torch.logsumexp(logits, dim=-1)
    picked = logits.gather(1, targets.clamp(min=0)[:, None])[:, 0]
    slope = torch.exp(logits - log_z[:, None]) * (1 + 2 * z_weight * log_z)[:, None]
    hit = torch.arange(logits.shape[1], device=logits.device) == targets[:, None]
    slope = (slope - hit.float()) * (keep * scale)[:, None]
    return torch.stack((((log_z - picked) * keep).sum(), (log_z.square() * keep).sum())), slope


class Head(nn.Module):
    """The loss of the tied head, as a module of its own so that it can be compiled; it has no weights."""

    def forward(self, states: Tensor, head: Tensor, targets: Tensor, z_weight: float, scale: float) -> tuple[Tensor, Tensor]:
        return HeadLoss.apply(states, head, targets, z_weight, scale)


class Net(nn.Module):
    """Causal language model. `forward` gives logits, `loss` the training loss."""

    def __init__(self, config: NetConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Trunk(config)
        self.head = Head()

    def drop(self, share: float) -> None:
        """While it trains, leave this share of what layers add to the residual stream out, at random."""
        for module in self.modules():
            if isinstance(module, nn.Dropout):
                module.p = share

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile in place what all callers share, each layer and the head's loss; arguments are torch.compile's.

        Layers of one kind share what is compiled, so that depth costs no compiling.
        """
        for layer in self.model.layers:
            layer.compile(*args, **kwargs)
        self.head.compile(*args, **kwargs)

    def initialise(self, seed: int) -> None:
        """Normal weights; projections back into the residual stream start at zero, so each block starts as identity."""
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            if parameter.ndim != 2:
                continue
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                nn.init.zeros_(parameter)
            else:
                std = 0.02 if "embed" in name else parameter.shape[1] ** -0.5
                nn.init.normal_(parameter, std=std, generator=generator)

    def hidden(self, tokens: Tensor, document: Tensor) -> Tensor:
        """Final normed states [batch, length, hidden]. tokens, document: int64 [batch, length]."""
        # Turns and masks are made here, outside the compiled layers, each of which would make them again.
        cos, sin = rotary(tokens.shape[1], self.config.head_dim, self.config.rope_theta)
        turns = tuple(t.to(tokens.device) for t in (cos, sin, pair_swap(self.config.head_dim)))
        return self.model(tokens, {window: sight_of(document, window) for window in set(self.config.windows)}, turns)

    def forward(self, tokens: Tensor, document: Tensor | None = None) -> Tensor:
        """Logits [batch, length, vocab]; without `document` each row is one document."""
        states = self.hidden(tokens, torch.zeros_like(tokens) if document is None else document)
        return F.linear(states, self.model.embed_tokens.weight) * self.config.logit_scale

    def loss(self, tokens: Tensor, document: Tensor, targets: Tensor, z_weight: float) -> tuple[Tensor, Tensor]:
        """(cross-entropy + z-loss, cross-entropy), means over targets >= 0, in nats per token.

        z-loss: z_weight * logsumexp(logits)^2 (PaLM, arXiv 2204.02311, section 5) keeps the softmax from drifting.
        """
        states = self.hidden(tokens, document).flatten(0, 1)
        head, scale = self.model.embed_tokens.weight, self.config.logit_scale
        return self.head(states, head, targets.flatten(), z_weight, scale)
