"""Answers in packed rows have the log-probabilities and last states that they have alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny import CONFIG, tiny_net

from senryu.train.answers import answer_log_probs, last_states, of_all, pack_answers

LENGTHS = [((9, 4), (9, 7)), ((3, 1), (3, 2)), ((14, 5), (14, 3)), ((1, 6), (1, 1))]  # prompt and answer, twice a pair


@pytest.fixture(scope="module")
def pairs() -> list[list[tuple[list[int], list[int]]]]:
    generator = torch.Generator().manual_seed(2)

    def some(count: int) -> list[int]:
        return torch.randint(1, CONFIG.vocab_size, (count,), generator=generator).tolist()

    return [[(some(p), some(a)) for p, a in pair] for pair in LENGTHS]


@pytest.mark.parametrize("at_once", [1, 4])
def test_packed_answers_are_what_they_are_alone(pairs: list[list[tuple[list[int], list[int]]]], at_once: int) -> None:
    net = tiny_net(random=True)
    rows = pack_answers(pairs, 40)
    assert len(rows.tokens) < len(pairs)
    packed = of_all(net, rows, at_once, answer_log_probs)
    states = torch.cat([last_states(net, rows.tensors(slice(i, i + 1))) for i in range(len(rows.tokens))])
    order = np.concatenate([np.unique(owner[owner >= 0]) for owner in rows.owner])
    for number, (prompt, answer) in enumerate(each for pair in pairs for each in pair):
        whole = torch.tensor([prompt + answer])
        with torch.no_grad():
            exact = net(whole)[0, len(prompt) - 1 : -1].log_softmax(-1).gather(1, torch.tensor(answer)[:, None]).sum()
            state = net.hidden(whole, torch.zeros_like(whole))[0, -1]
        assert packed[number] == pytest.approx(exact.item(), rel=1e-4)
        torch.testing.assert_close(states[list(order).index(number)], state, rtol=1e-4, atol=1e-4)


def test_a_pair_is_never_parted(pairs: list[list[tuple[list[int], list[int]]]]) -> None:
    rows = pack_answers(pairs, 40, least=6)
    assert rows.tokens.shape == (6, 40)
    for number in range(len(pairs)):
        first, second = ({*np.flatnonzero((rows.owner == 2 * number + side).any(1))} for side in (0, 1))
        assert first == second
        assert len(first) == 1


def test_a_group_longer_than_a_row_is_refused(pairs: list[list[tuple[list[int], list[int]]]]) -> None:
    with pytest.raises(ValueError, match="do not fit a row of 20"):
        pack_answers(pairs, 20)
