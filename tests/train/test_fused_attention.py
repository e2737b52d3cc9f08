"""What the fused kernel's mask lets through is what attention in blocks lets through, and both give the same numbers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_mask, flex_attention

from senryu.train.attention import QUERY_BLOCK, attend, mask_of, sees, sight_of
from senryu.train.net import Net, NetConfig

LENGTH = 2 * QUERY_BLOCK + 37
WINDOWS = [None, 1, 24, 200, 1000]


@pytest.fixture
def document() -> Tensor:
    """Three rows of documents of all lengths, one of them a single document."""
    generator = torch.Generator().manual_seed(4)
    starts = torch.rand(3, LENGTH, generator=generator) < torch.tensor([[0.02], [0.2], [0.0]])
    return starts.cumsum(1)


def slowly(document: Tensor, window: int | None) -> Tensor:
    """Every pair by itself, in words of the definition."""
    position = torch.arange(LENGTH)
    distance = position[:, None] - position[None]
    allowed = (distance >= 0) & (document[:, :, None] == document[:, None])
    return allowed & (distance < (LENGTH if window is None else window))


@pytest.mark.parametrize("window", WINDOWS)
def test_the_fused_mask_is_the_definition(document: Tensor, window: int | None) -> None:
    block = mask_of(document, window)
    dense = create_mask(block.mask_mod, 3, 1, LENGTH, LENGTH, device="cpu")[:, 0]
    position = torch.arange(LENGTH)
    ours = sees(position[:, None], position, document[:, :, None], document[:, None], window)
    assert torch.equal(dense, slowly(document, window))
    assert torch.equal(ours, dense)
    blocks = (
        torch.nn.functional.pad(dense, (0, -LENGTH % 128, 0, -LENGTH % 128)).unflatten(1, (-1, 128)).unflatten(3, (-1, 128))
    )
    assert torch.equal(block.to_dense()[:, 0].bool(), blocks.any(4).any(2))  # no block that matters is skipped


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("window", WINDOWS)
def test_fused_attention_gives_what_blocks_give(document: Tensor, window: int | None) -> None:
    generator = torch.Generator().manual_seed(5)
    q, k, v = (torch.randn(3, heads, LENGTH, 16, generator=generator) for heads in (4, 2, 2))
    ours = attend(q, k, v, sight_of(document, window), window)
    fused = flex_attention(q, k, v, block_mask=mask_of(document, window), enable_gqa=True)
    torch.testing.assert_close(ours, fused, rtol=1e-4, atol=1e-5)


def test_a_compiled_trunk_takes_block_masks(document: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph that CUDA compiles, traced here without its code generator, and run by torch's own operations."""
    config = NetConfig(64, 32, 48, 4, 2, 1, 16, sliding_window=24)
    net = Net(config)
    net.initialise(3)
    for layer in net.model.layers:
        torch.nn.init.normal_(layer.self_attn.o_proj.weight, std=0.2)
    tokens = torch.randint(0, 64, document.shape, generator=torch.Generator().manual_seed(6))
    with torch.no_grad():
        expected = net(tokens, document)
        monkeypatch.setattr("senryu.train.net.sight_of", mask_of)
        net.compile(backend="aot_eager", fullgraph=True, dynamic=False)
        got = net(tokens, document)
        again = net(tokens, document.clamp(max=5))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    assert not torch.equal(got, again)  # a new batch's mask is a new mask, not the one that was traced
