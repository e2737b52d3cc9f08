"""Guesses beside a grammar: through what it forces, up to where it says something else."""

from __future__ import annotations

import json

import numpy as np
from stepping import request

from senryu.engine.grammar import GrammarCompiler, Matcher
from senryu.engine.guess import CERTAIN, VALUE, Guess
from senryu.engine.interface import Grammar
from senryu.engine.sequence import Sequence
from serving import END, TOKENIZER

VOCAB = END + 300  # of the byte tokenizer, and some ids that stand for nothing
COLORS = {"type": "array", "items": {"enum": ["red", "green", "blue"]}, "minItems": 9}


def ids(text: str) -> list[int]:
    return TOKENIZER.encode(text)


def matcher(stop: frozenset[int], answer: str = "") -> Matcher:
    state = GrammarCompiler(TOKENIZER, VOCAB).compile(Grammar("json_schema", json.dumps(COLORS)), stop)
    state.consume(ids(answer))
    return state


def mask(state: Matcher) -> np.ndarray:
    made = np.zeros((1, -(-VOCAB // 32)), np.uint32)
    state.fill(made, [], [0])
    return made


def look(prompt: str, answer: str, most: int, least: float = 0.0, stop: frozenset[int] = frozenset()) -> tuple[str, list[int]]:
    """What is guessed behind `answer`, as text, and its kinds."""
    state = matcher(stop)
    sequence = Sequence(request(ids(prompt), 100), 64, state)
    guess = Guess(sequence)
    for token in ids(answer):
        guess.look(sequence, None, 1)
        sequence.append(token)
        state.consume([token])
        if guess.tokens:
            guess.learn(sequence.length, [token])
    for _ in range(2):  # looking changes nothing
        guess.look(sequence, None, most, least=least)
        assert (mask(state) == mask(matcher(stop, answer))).all()
    return TOKENIZER.decode(guess.tokens), guess.kinds


def test_a_guess_goes_on_through_what_a_grammar_forces() -> None:
    text, kinds = look('"blue","red","green","', '["blue","', 13)
    assert text == 'red","green",'
    assert kinds == [VALUE, *[CERTAIN] * 5, VALUE, *[CERTAIN] * 6]
    assert look('"blue","red","green","', '["blue', 8)[0] == '","red",'
    assert look('"blue","red","green","', '["blue', 2) == ('",', [CERTAIN] * 2)


def test_a_guess_ends_where_a_grammar_says_something_else() -> None:
    """What is forced there is still certain when the guess before it is right."""
    assert look('"blue","rotten"', '["blue","', 15) == ('red","', [VALUE, *[CERTAIN] * 5])
    assert look('"blue","yellow"', '["blue","', 15) == ("", [])


def test_a_guess_ends_where_its_chance_is_not_worth_a_row() -> None:
    """The first token of that kind is learned from all the same."""
    assert look('"blue","red","green","', '["blue","', 15, least=1.0) == ("r", [VALUE])


def test_a_guess_ends_before_a_stop_id() -> None:
    assert look('"blue","red","', '["blue","', 15, stop=frozenset(ids("r"))) == ("", [])
