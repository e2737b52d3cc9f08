"""What exact answers are compared by, in evaluation and in rewards: JSON by its paths, a text by its last number."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any


def flat(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """The values of a JSON document, each with its path; an empty object or array is a value."""
    if isinstance(value, dict | list) and value:
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from flat(inner, (*path, str(key)))
    else:
        yield path, value


def last_number(text: str) -> str:
    """The last number as it is written, or an empty string."""
    return next(reversed(re.findall(r"-?\d+(?:\.\d+)?", text)), "")
