"""Whether the examples of a tool's input match the tool's schema."""

from __future__ import annotations

from collections.abc import Sequence

from jsonschema import Draft202012Validator

from senryu.errors import SenryuError
from senryu.service.validation import SchemaCheck, Uncheckable
from senryu.types import Json

SHOWN = 200  # characters of a reason


class Examples:
    """Compares all examples of one request; their work together is bounded."""

    def __init__(self) -> None:
        self._check = SchemaCheck(Draft202012Validator)

    def check(self, schema: Json, examples: Sequence[Json], path: str) -> None:
        """Raises SenryuError("bad_example") for the first of `examples` that does not match, or a schema that says nothing."""
        for index, example in enumerate(examples):
            if why := self._mismatch(schema, example):
                raise SenryuError("bad_example", path=f"{path}.{index}", why=why[:SHOWN])

    def _mismatch(self, schema: Json, example: Json) -> str:
        try:
            return self._check.mismatch(schema, example)
        except Uncheckable as error:
            return str(error)
