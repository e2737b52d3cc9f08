"""Which device a stage gets: names that cannot be are refused with what can, and products run in the device's format."""

from __future__ import annotations

import pytest
import torch

from senryu.train.device import Device, choose_device
from senryu.train.net import Net
from senryu.train.optim import orthogonalise
from senryu.train.recipe import Recipe, RecipeError


def test_without_a_gpu_auto_is_the_cpu_in_a_format_that_is_fast_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for dtype, seconds in ((torch.bfloat16, 0.5), (torch.float32, 2.0)):
        monkeypatch.setattr("senryu.train.device._seconds", lambda d, fast=dtype, s=seconds: s if d is fast else 1.0)
        other = torch.float32 if dtype is torch.bfloat16 else torch.bfloat16
        assert choose_device("auto") == Device("cpu", dtype if seconds < 1 else other, compile=True)
    with pytest.raises(RecipeError, match="finds no CUDA device; use cpu"):
        choose_device("cuda")


@pytest.mark.parametrize("name", ["gpu", "mps", "CPU"])
def test_an_unknown_device_says_which_there_are(name: str) -> None:
    with pytest.raises(RecipeError, match=f"device `{name}` is unknown; use auto, cpu, cuda or cuda:N"):
        choose_device(name)


def test_a_gpu_is_preferred_and_one_too_many_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    assert choose_device("auto", compile=False) == Device("cuda", torch.bfloat16)
    assert choose_device("cuda:1").name == "cuda:1"
    with pytest.raises(RecipeError, match="2 CUDA devices; use cuda:0 to cuda:1"):
        choose_device("cuda:2")


def test_products_run_in_the_device_s_format_and_weights_stay_as_they_are(recipe: Recipe) -> None:
    net, tokens = Net(recipe.net), torch.arange(64)[None]
    net.initialise(1)
    seen = []
    net.model.layers[0].mlp.up_proj.register_forward_hook(lambda module, given, out: seen.append(out.dtype))
    for dtype in (torch.float32, torch.bfloat16):
        with Device(dtype=dtype).autocast():
            net.loss(tokens, torch.zeros_like(tokens), tokens, 0.0)[0].backward()
        assert {p.grad.dtype for p in net.parameters() if p.grad is not None} == {torch.float32}
    assert seen == [torch.float32, torch.bfloat16]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(3, 40, 40), (2, 16, 64), (2, 64, 16)])
def test_orthogonalised_matrices_have_singular_values_near_one(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    update = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    made = orthogonalise(update, dtype)
    values = torch.linalg.svdvals(made)
    assert made.dtype == torch.float32
    assert values.min() > 0.3
    assert values.max() < 1.4
    u, _, v = torch.linalg.svd(update, full_matrices=False)
    assert torch.nn.functional.cosine_similarity(made.flatten(), (u @ v).flatten(), dim=0) > 0.95  # the same directions
