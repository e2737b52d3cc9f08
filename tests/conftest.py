"""Its being here puts this directory on the import path: `serving` is shared by the tests of service/ and api/."""

from __future__ import annotations

from pathlib import Path

import pytest

from senryu.config import Settings


@pytest.fixture
def kept_kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Kernels are not compiled anew for a home of the test's own, but kept between runs in pytest's own cache."""
    kept = request.config.cache.mkdir("kernels")
    monkeypatch.setattr(Settings, "kernel_cache", kept)
    return kept
