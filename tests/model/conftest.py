"""Programs for the tests, their compiled kernels kept between runs in pytest's own cache."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from programs import MakeProgram

from senryu import kernels
from senryu.model.program import Program
from senryu.model.spec import ModelSpec
from senryu.model.transformer import Float32Weights


@pytest.fixture
def make_program(request: pytest.FixtureRequest) -> Iterator[MakeProgram]:
    """Program(...) with small defaults, closed afterwards; skips what this CPU cannot run."""
    made: list[Program] = []

    def make(spec: ModelSpec, weights: Float32Weights, **options: Any) -> Program:
        best = kernels.available()[0]
        if best == "numpy" and "kernels" not in options:
            pytest.skip("no compiled kernels run on this CPU")
        defaults: dict[str, Any] = {"pages": 12, "max_sequences": 256, "threads": 1, "kernels": best}
        program = Program(spec, weights, cache_dir=request.config.cache.mkdir("kernels"), **(defaults | options))
        made.append(program)
        return program

    yield make
    for program in made:
        program.close()
