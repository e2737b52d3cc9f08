"""The training net is the Cohere2 model of transformers, and documents in one row do not see each other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import Cohere2ForCausalLM

from senryu.train.export import export
from senryu.train.net import Net, NetConfig

CONFIG = NetConfig(
    vocab_size=160,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=1,
    head_dim=16,
    sliding_window=24,
    full_every=4,
)


def random_net(config: NetConfig = CONFIG) -> Net:
    """Every parameter random, norms included: parity must not rest on zeros and ones."""
    net = Net(config)
    generator = torch.Generator().manual_seed(1)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, mean=float(parameter.ndim == 1), std=0.2, generator=generator)
    return net.eval()


@pytest.fixture
def tokenizer_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_text("{}", encoding="utf8")
    return folder


@pytest.mark.parametrize("length", [1, 23, 24, 25, 80, 300])  # around and far beyond the window, and over a query block
@pytest.mark.parametrize("kv_heads", [1, 2])
def test_logits_are_those_of_transformers(tmp_path: Path, tokenizer_folder: Path, length: int, kv_heads: int) -> None:
    config = NetConfig(**{**CONFIG.__dict__, "num_key_value_heads": kv_heads, "logit_scale": 0.25})
    net = random_net(config)
    export(net, tokenizer_folder, tmp_path / "model", torch.float32)
    theirs = Cohere2ForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32).eval()
    ids = torch.randint(0, config.vocab_size, (2, length), generator=torch.Generator().manual_seed(length))
    with torch.no_grad():
        difference = (net(ids) - theirs(ids).logits).abs().max()
    assert difference < 1e-4


def test_documents_of_a_row_do_not_see_each_other() -> None:
    net = random_net()
    generator = torch.Generator().manual_seed(5)
    first, second = (torch.randint(0, CONFIG.vocab_size, (1, n), generator=generator) for n in (37, 41))
    other = torch.randint(0, CONFIG.vocab_size, (1, 37), generator=generator)
    document = torch.cat([torch.zeros(1, 37), torch.ones(1, 41)], dim=1).long()
    with torch.no_grad():
        packed = net(torch.cat([first, second], dim=1), document)
        swapped = net(torch.cat([other, second], dim=1), document)
        alone = net(second)
    assert torch.equal(packed[:, 37:], swapped[:, 37:])  # bit for bit: the other document is not there at all
    assert (packed[:, 37:] - alone).abs().max() < 1e-4  # RoPE is relative, so running positions change nothing
    assert not torch.equal(packed[:, :37], swapped[:, :37])


def test_loss_counts_wanted_targets_only() -> None:
    net = random_net()
    ids = torch.randint(0, CONFIG.vocab_size, (1, 8), generator=torch.Generator().manual_seed(2))
    targets = torch.tensor([[-1, 3, -1, -1, 7, -1, -1, -1]])
    with torch.no_grad():
        _, entropy = net.loss(ids, torch.zeros_like(ids), targets, 0.0)
        log_p = net(ids).log_softmax(-1)
    assert entropy.item() == pytest.approx(-(log_p[0, 1, 3] + log_p[0, 4, 7]).item() / 2, rel=1e-5)
