"""The training net is the Cohere2 model of transformers, and documents in one row do not see each other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import Cohere2ForCausalLM

from senryu.model.spec import load_spec
from senryu.model.weights import check, load_weights
from senryu.train import net as network
from senryu.train.export import export
from senryu.train.net import LOSS_ROWS, HeadLoss, Net, NetConfig, pair_swap, rotary, rotate

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


@pytest.mark.parametrize("rows", [5, LOSS_ROWS, 2 * LOSS_ROWS + 7])
def test_loss_and_gradients_of_the_head_are_those_of_whole_logits(rows: int) -> None:
    generator = torch.Generator().manual_seed(rows)
    targets = torch.randint(-1, 30, (rows,), generator=generator)
    states = torch.randn(rows, 8, generator=generator)
    head = torch.randn(30, 8, generator=generator)
    results = []
    for whole in (True, False):
        a, b = states.clone().requires_grad_(), head.clone().requires_grad_()
        if whole:
            logits = (a @ b.T) * 0.5
            log_z, wanted = torch.logsumexp(logits, -1), targets >= 0
            entropy = torch.nn.functional.cross_entropy(logits[wanted], targets[wanted])
            total = entropy + 0.01 * log_z[wanted].square().mean()
        else:
            total, entropy = HeadLoss.apply(a, b, targets, 0.01, 0.5)
        (3 * total).backward()
        results.append((total.detach(), entropy.detach(), a.grad, b.grad))
    for exact, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours, exact, rtol=1e-4, atol=1e-6)


def test_rotation_turns_pairs_by_their_angles() -> None:
    x = torch.randn(1, 5, 2, 8, generator=torch.Generator().manual_seed(3))
    cos, sin = rotary(5, 8, 100.0)
    turned = rotate(x, cos, sin, pair_swap(8))
    as_complex = torch.view_as_complex(x.reshape(1, 5, 2, 4, 2))
    angle = torch.arange(5)[:, None] * 100.0 ** (-torch.arange(0, 8, 2) / 8)
    exact = torch.view_as_real(as_complex * torch.polar(torch.ones_like(angle), angle)[:, None]).flatten(-2)
    torch.testing.assert_close(turned, exact, rtol=1e-5, atol=1e-5)


def test_computing_layers_again_gives_the_same_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long rows keep only what goes into each layer."""
    net = random_net().train()
    net.drop(0.2)  # what is left out is left out again
    ids = torch.randint(0, CONFIG.vocab_size, (2, 80), generator=torch.Generator().manual_seed(4))
    document, computed, gradients = (torch.arange(80) // 50).expand(2, -1), [0, 0], []
    for again, kept in enumerate((80, 79)):
        monkeypatch.setattr(network, "KEPT", kept)

        def count(*_: object, again: int = again) -> None:
            computed[again] += 1

        hooks = [layer.mlp.register_forward_pre_hook(count) for layer in net.model.layers]
        net.zero_grad()
        torch.manual_seed(6)
        net.loss(ids, document, ids.roll(-1, 1), 1e-4)[0].backward()
        gradients.append([p.grad.clone() for p in net.parameters() if p.grad is not None])
        for hook in hooks:
            hook.remove()
    assert computed == [4, 8]
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))
    with torch.no_grad():
        net(ids)  # nothing to keep, nothing to compute again


def test_a_large_export_is_in_shards_that_everybody_reads(tmp_path: Path, tokenizer_folder: Path) -> None:
    net, folder, limit = random_net(), tmp_path / "model", 60_000
    export(net, tokenizer_folder, folder, torch.float32)
    assert [path.name for path in folder.glob("*.safetensors*")] == ["model.safetensors"]
    whole = load_weights(folder)
    export(net, tokenizer_folder, folder, torch.float32, shard_bytes=limit)
    files = sorted(path.name for path in folder.glob("*.safetensors"))
    assert files == [f"model-{i:05}-of-{len(files):05}.safetensors" for i in range(1, len(files) + 1)]
    assert len(files) > 3
    assert all((folder / name).stat().st_size < limit + 4096 for name in files)
    ids = torch.randint(0, CONFIG.vocab_size, (2, 30), generator=torch.Generator().manual_seed(1))
    theirs = Cohere2ForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        assert (net(ids) - theirs(ids).logits).abs().max() < 1e-4
    shards = load_weights(folder)
    check(load_spec(folder), shards)
    assert shards.fingerprint == whole.fingerprint
    export(net, tokenizer_folder, folder, torch.float32)  # no shard of before is left beside it
    assert [path.name for path in folder.glob("*.safetensors*")] == ["model.safetensors"]


def test_the_shipped_shape_is_one_file_of_less_than_16_mib(tmp_path: Path, tokenizer_folder: Path) -> None:
    for config, count in ((NetConfig(), 1), (NetConfig(8192, 320, 896, 10, 5, 1), 2)):
        export(Net(config), tokenizer_folder, tmp_path)
        files = list(tmp_path.glob("*.safetensors"))
        assert len(files) == count
        assert all(path.stat().st_size < 16 << 20 for path in files)
