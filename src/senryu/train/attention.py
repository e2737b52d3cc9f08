"""Attention for training: who may look at whom, and the two ways to compute it - in blocks of queries, or fused on CUDA."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

QUERY_BLOCK = 256  # queries per attention call: keys outside their window are never touched
PAIRS = 2**30  # of a query and a key, a byte each for a moment
Sight = Tensor | BlockMask  # what attention is told about documents: their numbers [batch, length], or a mask made of them


def sees(query: Tensor, key: Tensor, query_document: Tensor, key_document: Tensor, window: int | None) -> Tensor:
    """Where queries at positions `query` may look at keys at `key`: backwards, inside a document, at distance < window."""
    allowed = (query >= key) & (query_document == key_document)
    return allowed if window is None else allowed & (query - key < window)


def sight_of(document: Tensor, window: int | None) -> Sight:
    """What `attend` needs to know of a batch, the same for all layers of one window. document: int64 [batch, length]."""
    return mask_of(document, window) if document.is_cuda else document


def mask_of(document: Tensor, window: int | None) -> BlockMask:
    """`sees` for the fused kernel: blocks of 128 x 128 that are empty are skipped, those that are full need no mask."""
    batch, length = document.shape
    # uncompiled it writes out every pair, which takes less time than compiling where they are few
    make: Any = _compiled(create_block_mask) if document.is_cuda and batch * length**2 > PAIRS else create_block_mask

    def mask(b: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return sees(query, key, document[b, query], document[b, key], window)

    return make(mask, batch, None, length, length, device=document.device)


def attend(q: Tensor, k: Tensor, v: Tensor, sight: Sight, window: int | None) -> Tensor:
    """Causal attention inside documents. q [batch, heads, length, dim]; k, v [batch, kv heads, length, dim].

    `sight` is what `sight_of` gave for this window; a query sees keys of its own document only, and with a window only keys
    at distance < window.
    """
    if not isinstance(sight, BlockMask):
        return in_blocks(q, k, v, sight, window)
    # outside a compiled layer it is compiled by itself: without the compiler it writes out every score
    fused: Any = flex_attention if torch.compiler.is_compiling() else _compiled(flex_attention)
    return fused(q, k, v, block_mask=sight, enable_gqa=True)


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function)


def in_blocks(q: Tensor, k: Tensor, v: Tensor, document: Tensor, window: int | None) -> Tensor:
    """`attend` for a CPU: QUERY_BLOCK queries at a time, against the keys that any of them may see."""
    batch, heads, length, dim = q.shape
    shared = heads // k.shape[1]  # query heads of one K/V head are rows of one product: a third faster than copies of K and V
    q = q.view(batch, k.shape[1], shared, length, dim)
    index = torch.arange(length, device=q.device)
    out = []
    for start in range(0, length, QUERY_BLOCK):
        stop = min(start + QUERY_BLOCK, length)
        first = 0 if window is None else max(0, start - window + 1) // 64 * 64
        at, documents = index[start:stop, None], document[:, start:stop, None]
        mask = sees(at, index[first:stop], documents, document[:, None, first:stop], window)
        rows = F.scaled_dot_product_attention(
            q[:, :, :, start:stop].flatten(2, 3),
            k[:, :, first:stop],
            v[:, :, first:stop],
            attn_mask=mask.repeat(1, shared, 1)[:, None],
        )
        out.append(rows.view(batch, heads, stop - start, dim))
    return torch.cat(out, dim=2)
