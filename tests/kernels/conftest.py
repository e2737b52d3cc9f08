"""Compiled kernels for the tests, kept between runs in pytest's own cache."""

from __future__ import annotations

import pytest

from senryu import kernels


@pytest.fixture(scope="session")
def compiled_kernels(request: pytest.FixtureRequest) -> kernels.Kernels:
    if kernels.available()[0] == "numpy":
        pytest.skip("no compiled kernels run on this CPU")
    return kernels.load(request.config.cache.mkdir("kernels"))
