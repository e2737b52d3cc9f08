"""Whether the examples of a tool's input match the tool's schema."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from senryu.errors import SenryuError
from senryu.types import Json

if TYPE_CHECKING:
    from senryu.service.validation import SchemaCheck

SHOWN = 200  # characters of a reason


class Examples:
    """Compares all examples of one request; their work together is bounded."""

    def __init__(self) -> None:
        self._check: SchemaCheck | None = None

    def check(self, schema: Json, examples: Sequence[Json], path: str) -> None:
        """Raises SenryuError("bad_example") for the first of `examples` that does not match, or a schema that says nothing."""
        for index, example in enumerate(examples):
            if why := self._mismatch(schema, example):
                raise SenryuError("bad_example", path=f"{path}.{index}", why=why[:SHOWN])

    def _mismatch(self, schema: Json, example: Json) -> str:
        from jsonschema import Draft202012Validator  # here, for a start need not import it

        from senryu.service.validation import SchemaCheck, Uncheckable

        self._check = self._check or SchemaCheck(Draft202012Validator)
        try:
            return self._check.mismatch(schema, example)
        except Uncheckable as error:
            return str(error)
