"""Compiled kernels for the tests, kept between runs in pytest's own cache."""

from __future__ import annotations

import pytest

from senryu import kernels


@pytest.fixture(scope="session")
def compiled_kernels(request: pytest.FixtureRequest) -> kernels.Kernels:
    if "avx512" not in kernels.available():
        pytest.skip("this CPU has no AVX-512 VNNI")
    return kernels.load(request.config.cache.mkdir("kernels"))
