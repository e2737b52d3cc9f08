"""Bodies of JSON that differ from a right one in one place."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Place = tuple[Any, ...]
OTHER_VALUES = (None, True, -1, "zzz", " ", [], ["zzz"], {}, {"zzz": 1})


def changes(value: Any, at: Place = ()) -> Iterator[tuple[Place, Any]]:
    """(place, what is put there in place of what is there) of every change that a body may have."""
    for other in OTHER_VALUES:
        yield at, other
    if isinstance(value, dict):
        yield at, {**value, "zzz": 1}
        for name in value:
            yield at, {other: inner for other, inner in value.items() if other != name}
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from changes(inner, (*at, key))


def put(value: Any, at: Place, new: Any) -> Any:
    if not at:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[at[0]] = put(value[at[0]], at[1:], new)
    return copy
