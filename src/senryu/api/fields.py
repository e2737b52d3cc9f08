"""Reading fields out of decoded JSON: each check returns the value or refuses it in the Messages API's own words.

A path names where a value stands, as in `messages.0.content.1.text.text`.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from senryu.errors import SenryuError

T = TypeVar("T")
Check = Callable[[Any, str], T]
MISSING: Any = object()
SHOWN = 128  # characters of a caller's own words that an error repeats
DEEPEST = 128  # levels of a JSON value that a caller makes up: schemas and inputs of tools are walked by recursion later on


class Fields:
    """An object of the body. Every field is taken once; `finish` refuses what is left over."""

    def __init__(self, value: Any, path: str = "") -> None:
        if not isinstance(value, dict):
            raise SenryuError("not_object", path=path or "body")
        self._left = dict(value)
        self.where = path

    def path(self, name: str) -> str:
        """Where the field `name` stands in the body."""
        return f"{self.where}.{name[:SHOWN]}" if self.where else name[:SHOWN]

    def take(self, name: str, check: Check[T]) -> T:
        """A required field, checked."""
        value = self._left.pop(name, MISSING)
        if value is MISSING:
            raise SenryuError("required", path=self.path(name))
        return check(value, self.path(name))

    def take_or(self, name: str, check: Check[T], default: T) -> T:
        """An optional field, checked where it is present."""
        value = self._left.pop(name, MISSING)
        return default if value is MISSING else check(value, self.path(name))

    def rest(self) -> dict[str, Any]:
        """What was not taken."""
        return self._left

    def finish(self) -> None:
        """Raises SenryuError("extra") when a field was not taken."""
        for name in self._left:
            raise SenryuError("extra", path=self.path(name))


def tagged(value: Any, path: str) -> tuple[str, dict[str, Any]]:
    """(the `type` of an object, its other fields): kinds of object are told apart by type."""
    fields = Fields(value, path)
    return fields.take("type", string), fields.rest()


def wrong_tag(path: str, tag: str, tags: Sequence[str]) -> SenryuError:
    """The refusal of an object whose `type` is none of `tags`."""
    return SenryuError("not_tag", path=path, tag=tag[:SHOWN], tags=", ".join(f"'{known}'" for known in tags))


def string(value: Any, path: str, low: int = 0, high: int | None = None) -> str:
    """A string of `low` to `high` characters."""
    if not isinstance(value, str):
        raise SenryuError("not_string", path=path)
    if len(value) < low:
        raise SenryuError("too_short", path=path, low=low, s="" if low == 1 else "s")
    if high is not None and len(value) > high:
        raise SenryuError("too_long", path=path, high=high)
    return value


def matching(value: Any, path: str, pattern: str) -> str:
    """A string that `pattern` matches as a whole."""
    if not re.fullmatch(pattern, string(value, path)):
        raise SenryuError("not_matching", path=path, pattern=f"^{pattern}$")
    return str(value)


def base64_bytes(value: Any, path: str) -> bytes:
    """Bytes in base64."""
    try:
        return base64.b64decode(string(value, path), validate=True)
    except (binascii.Error, ValueError):
        raise SenryuError("not_base64", path=path) from None


def free(value: Any, path: str) -> dict[str, Any]:
    """An object with whatever the caller likes in it, of bounded depth."""
    if not isinstance(value, dict):
        raise SenryuError("not_object", path=path)
    level: list[Any] = [value]
    for _ in range(DEEPEST):
        level = [inner for outer in level for inner in (outer.values() if isinstance(outer, dict) else outer)]
        level = [inner for inner in level if isinstance(inner, dict | list)]
        if not level:
            return value
    raise SenryuError("too_deep", path=path, deepest=DEEPEST)


def integer(value: Any, path: str) -> int:
    """A whole number; 3.0 is one."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise SenryuError("not_integer", path=path)
    if isinstance(value, float) and not value.is_integer():
        raise SenryuError("not_whole", path=path)
    return int(value)


def natural(value: Any, path: str) -> int:
    """A whole number that is not negative."""
    result = integer(value, path)
    if result < 0:
        raise SenryuError("below", path=path, low=0)
    return result


def number(value: Any, path: str) -> float:
    """A number that a float can hold."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise SenryuError("not_number", path=path)
    try:
        return float(value)
    except OverflowError:
        raise SenryuError("not_number", path=path) from None


def boolean(value: Any, path: str) -> bool:
    """true or false, nothing that merely looks like it."""
    if not isinstance(value, bool):
        raise SenryuError("not_boolean", path=path)
    return value


def array(value: Any, path: str, high: int | None = None) -> list[Any]:
    """A list of at most `high` items, unchecked."""
    if not isinstance(value, list):
        raise SenryuError("not_list", path=path)
    if high is not None and len(value) > high:
        raise SenryuError("too_many", path=path, high=high, count=len(value))
    return value


def choice(value: Any, path: str, options: Sequence[str]) -> str:
    """One of `options`."""
    if not isinstance(value, str) or value not in options:
        quoted = [f"'{option}'" for option in options]
        choices = " or ".join(part for part in (", ".join(quoted[:-1]), quoted[-1]) if part)
        raise SenryuError("not_choice", path=path, choices=choices)
    return value


def unit_range(value: Any, path: str) -> float:
    """A number from 0 to 1."""
    result = number(value, path)
    if not 0 <= result <= 1:
        raise SenryuError("range", path=path, low=0, high=1)
    return result


def optional(check: Check[T]) -> Check[T | None]:
    """`check`, and null."""

    def checked(value: Any, path: str) -> T | None:
        return None if value is None else check(value, path)

    return checked
