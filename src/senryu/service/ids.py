"""Ids of requests, answers, calls and batches: unguessable, and readable as what they name."""

from __future__ import annotations

import secrets

_ALPHABET = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


def new_id(prefix: str) -> str:
    """`prefix` and 24 characters that nobody guesses."""
    return prefix + "01" + "".join(secrets.choice(_ALPHABET) for _ in range(22))
