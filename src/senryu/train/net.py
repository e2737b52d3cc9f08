"""The network that training runs: Cohere2 layout in torch, with the parameter names of the Hugging Face checkpoint.

Export is therefore a plain save of the state dict. Layout: token embedding (tied head); per layer one bias-free
LayerNorm feeding attention and SwiGLU in parallel; interleaved RoPE on sliding layers, no positions on full ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

QUERY_BLOCK = 256  # queries per attention call: keys outside their window are never touched


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


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Interleaved RoPE: pairs (x0, x1) turn by their angle. x [batch, heads, length, head_dim]."""
    swapped = torch.stack((-x[..., 1::2], x[..., 0::2]), dim=-1).flatten(-2)
    return (x.float() * cos + swapped.float() * sin).to(x.dtype)


def attend(q: Tensor, k: Tensor, v: Tensor, document: Tensor, window: int | None) -> Tensor:
    """Causal attention inside documents. q [batch, heads, length, dim]; k, v [batch, kv heads, length, dim].

    `document` [batch, length] numbers the documents of a row; a query sees keys of its own document only, and with a
    window only keys at distance < window.
    """
    batch, heads, length, _ = q.shape
    k, v = (
        t.expand(batch, heads, length, -1) if t.shape[1] == 1 else t.repeat_interleave(heads // t.shape[1], 1) for t in (k, v)
    )
    index = torch.arange(length, device=q.device)
    out = []
    for start in range(0, length, QUERY_BLOCK):
        stop = min(start + QUERY_BLOCK, length)
        first = 0 if window is None else max(0, start - window + 1) // 64 * 64
        distance = index[start:stop, None] - index[None, first:stop]
        allowed = (distance >= 0) if window is None else (distance >= 0) & (distance < window)
        mask = allowed & (document[:, start:stop, None] == document[:, None, first:stop])
        out.append(
            F.scaled_dot_product_attention(
                q[:, :, start:stop], k[:, :, first:stop], v[:, :, first:stop], attn_mask=mask[:, None]
            )
        )
    return torch.cat(out, dim=2)


class Attention(nn.Module):
    """Grouped-query attention without biases; RoPE and a window on sliding layers only."""

    def __init__(self, config: NetConfig, kind: str) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        self.window = config.sliding_window if kind == "sliding_attention" else None
        width, kv = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, width, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, kv, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, kv, bias=False)
        self.o_proj = nn.Linear(width, config.hidden_size, bias=False)

    def forward(self, x: Tensor, document: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, length, _ = x.shape
        q, k, v = (p(x).view(batch, length, -1, self.head_dim).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj))
        if self.window is not None:
            q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        out = attend(q, k, v, document, self.window)
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
    """Parallel block: x + attention(norm(x)) + mlp(norm(x))."""

    def __init__(self, config: NetConfig, kind: str) -> None:
        super().__init__()
        self.input_layernorm = LayerNorm(config.hidden_size, config.layer_norm_eps)
        self.self_attn = Attention(config, kind)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, document: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        normed = self.input_layernorm(x)
        return x + self.self_attn(normed, document, cos, sin) + self.mlp(normed)


class Trunk(nn.Module):
    """Embedding, layers, final norm: the `model.` part of the state dict."""

    def __init__(self, config: NetConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config, kind) for kind in config.layer_types)
        self.norm = LayerNorm(config.hidden_size, config.layer_norm_eps)


class Net(nn.Module):
    """Causal language model. `forward` gives logits, `loss` the training loss."""

    def __init__(self, config: NetConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Trunk(config)

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
        cos, sin = rotary(tokens.shape[1], self.config.head_dim, self.config.rope_theta)
        x = self.model.embed_tokens(tokens)
        for layer in self.model.layers:
            x = layer(x, document, cos, sin)
        return self.model.norm(x)

    def forward(self, tokens: Tensor, document: Tensor | None = None) -> Tensor:
        """Logits [batch, length, vocab]; without `document` each row is one document."""
        states = self.hidden(tokens, torch.zeros_like(tokens) if document is None else document)
        return F.linear(states, self.model.embed_tokens.weight) * self.config.logit_scale

    def loss(self, tokens: Tensor, document: Tensor, targets: Tensor, z_weight: float) -> tuple[Tensor, Tensor]:
        """(cross-entropy + z-loss, cross-entropy), means over targets >= 0, in nats per token.

        z-loss: z_weight * logsumexp(logits)^2 (PaLM, arXiv 2204.02311, section 5) keeps the softmax from drifting.
        """
        logits = self(tokens, document).float().flatten(0, 1)
        flat = targets.flatten()
        log_z = torch.logsumexp(logits, dim=-1)
        picked = logits.gather(1, flat.clamp(min=0)[:, None])[:, 0]
        keep = (flat >= 0).float()
        count = keep.sum().clamp(min=1)
        entropy = ((log_z - picked) * keep).sum() / count
        return entropy + z_weight * (log_z.square() * keep).sum() / count, entropy
