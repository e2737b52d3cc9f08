"""One server for all conformance tests that need no model of their own: it says what the last user message says, and ends."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from asking import Asked

from senryu.engine.interface import TokenRequest
from serving import END, SPECIALS, TOKENIZER, scripted_model, serving

USER_TURN, ASSISTANT_TURN = SPECIALS.index("<|user|>"), SPECIALS.index("<|assistant|>")


def repeat(request: TokenRequest) -> list[int]:
    """The last thing that the user said."""
    ids = [*request.ids]
    if USER_TURN not in ids:
        return [*TOKENIZER.encode("Hello"), END]
    start = len(ids) - ids[::-1].index(USER_TURN)
    return [*ids[start : ids.index(END, start)], END]


@pytest.fixture(scope="session")
def asked() -> Iterator[Asked]:
    with serving(scripted_model(repeat)) as url:
        yield Asked(url)
