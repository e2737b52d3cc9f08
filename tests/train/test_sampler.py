"""Sampled answers follow `Net.forward`: greedy tokens, log-probabilities, frequencies; neighbours change nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from senryu.train.net import Net, NetConfig
from senryu.train.sampler import PREFILL, choose, draw, sample

CONFIG = NetConfig(
    vocab_size=90,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    sliding_window=8,
    full_every=4,
    logit_scale=0.5,
)
LENGTHS = (1, 5, 8, 9, 30, PREFILL + 3)  # around the window, over a pass of prompts


@pytest.fixture(scope="module")
def net() -> Net:
    net = Net(CONFIG)
    generator = torch.Generator().manual_seed(4)
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, mean=float(parameter.ndim == 1), std=0.2, generator=generator)
    return net


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randint(1, CONFIG.vocab_size, (n,), generator=generator).tolist() for n in LENGTHS]


def logits_behind(net: Net, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return net(torch.tensor([ids]))[0]


def test_greedy_answers_of_ragged_prompts_are_the_likeliest_tokens_one_by_one(net: Net, prompts: list[list[int]]) -> None:
    answers = sample(net, prompts, max_tokens=12, temperature=0.0, seed=0, stop_ids=())
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = list(prompt)
        for token in answer:
            assert token == int(logits_behind(net, ids)[-1].argmax())
            ids.append(token)
        assert len(answer) == 12


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probabilities_are_those_of_forward(net: Net, prompts: list[list[int]], temperature: float) -> None:
    for prompt, answer in zip(prompts, draw(net, prompts, max_tokens=12, temperature=temperature, seed=1, stop_ids=())):
        logits = logits_behind(net, prompt + answer.ids)[len(prompt) - 1 : -1] / temperature
        exact = logits.log_softmax(-1).gather(1, torch.tensor(answer.ids)[:, None])[:, 0]
        torch.testing.assert_close(torch.tensor(answer.log_probs), exact, rtol=1e-4, atol=1e-4)


def test_an_answer_depends_on_its_number_and_the_seed_alone(net: Net, prompts: list[list[int]]) -> None:
    def answers(some: list[list[int]], **options: Any) -> list[list[int]]:
        settings = {"seed": 3, **options}
        return [a.ids for a in draw(net, some, max_tokens=10, temperature=1.0, stop_ids=(), **settings)]

    together = answers(prompts)
    assert together == [answers([prompt], numbers=[i])[0] for i, prompt in enumerate(prompts)]
    assert together == answers(prompts, at_once=2)
    assert together != answers(prompts, seed=4)
    assert len({tuple(a) for a in answers([prompts[0]] * 6)}) > 1  # one prompt six times


def test_answers_end_with_a_stop_id_while_others_go_on(net: Net, prompts: list[list[int]]) -> None:
    free = sample(net, prompts, max_tokens=20, temperature=1.0, seed=3, stop_ids=())
    stops = {free[0][2], free[1][7]}
    for whole, answer in zip(free, sample(net, prompts, max_tokens=20, temperature=1.0, seed=3, stop_ids=stops), strict=True):
        ends = [i for i, token in enumerate(whole) if token in stops]
        assert answer == (whole[: ends[0] + 1] if ends else whole)


def test_tokens_come_as_often_as_their_probability_says() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0, -9.0]])
    luck = (torch.arange(4000) + 0.5).double() / 4000
    for temperature, top_p, kept in ((1.0, 1.0, 4), (0.5, 1.0, 4), (1.0, 0.9, 2)):
        tokens, log_probs = choose(logits.repeat(4000, 1), luck, temperature, top_p)
        shares = (logits[0] / temperature).softmax(-1)
        wanted = torch.where(torch.arange(4) < kept, shares, 0.0)
        counts = torch.bincount(tokens, minlength=4) / 4000
        torch.testing.assert_close(counts, wanted / wanted.sum(), rtol=0, atol=1e-3)
        torch.testing.assert_close(log_probs, shares.log()[tokens])


@pytest.mark.parametrize("options", [{"max_tokens": 0}, {"temperature": -1.0}, {"top_p": 0.0}, {"prompts": [[]]}])
def test_numbers_out_of_range_are_refused(net: Net, options: dict[str, object]) -> None:
    settings = {"prompts": [[1]], "max_tokens": 1, "temperature": 1.0, "seed": 0, "stop_ids": (), **options}
    with pytest.raises(ValueError, match=r"use at least|is empty"):
        sample(net, **settings)  # type: ignore[arg-type]
