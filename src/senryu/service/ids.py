"""Ids of requests, answers, calls and batches: unguessable, and readable as what they name."""

from __future__ import annotations

import secrets

_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_LETTERS = 22
_ALL = len(_ALPHABET) ** _LETTERS


def new_id(prefix: str) -> str:
    """`prefix` and 24 characters that nobody guesses."""
    number, letters = secrets.randbelow(_ALL), []  # one draw of random bytes: a draw for each letter takes longer than the rest
    for _ in range(_LETTERS):
        number, letter = divmod(number, len(_ALPHABET))
        letters.append(_ALPHABET[letter])
    return prefix + "01" + "".join(letters)
