"""What a net under training thinks of the beginning of an answer: the log-probabilities that the judge `self` compares."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from tokenizers import Tokenizer

from senryu.train import chat
from senryu.train.constitution.judge import Message
from senryu.train.constitution.own import Score
from senryu.train.net import Net
from senryu.train.vocabulary import PAD


def scorer(net: Net, tokenizer: Tokenizer, *, at_once: int = 32) -> Score:
    """Conversations with the beginnings of their answers -> the beginnings' log-probabilities in nats, `at_once` in a batch."""

    def encode(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    def score(asked: Sequence[tuple[list[Message], str]]) -> list[float]:
        rows = [(encode(chat.render(messages, answer=True)), encode(beginning)) for messages, beginning in asked]
        return [value for i in range(0, len(rows), at_once) for value in _log_probs(net, rows[i : i + at_once])]

    return score


@torch.no_grad()
def _log_probs(net: Net, rows: Sequence[tuple[list[int], list[int]]]) -> list[float]:
    """Of each (prompt, beginning); rows are padded behind, which nothing before can see."""
    device, longest = net.model.norm.weight.device, max(len(prompt) + len(said) for prompt, said in rows)
    ids = [prompt + said + [PAD] * (longest - len(prompt) - len(said)) for prompt, said in rows]
    tokens = torch.tensor(ids, device=device)
    log_probs = torch.log_softmax(net(tokens).float(), dim=-1)
    sums = []
    for row, (prompt, said) in enumerate(rows):
        at = torch.arange(len(prompt), len(prompt) + len(said), device=device)
        sums.append(float(log_probs[row, at - 1, tokens[row, at]].sum()))
    return sums
