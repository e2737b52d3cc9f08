"""Its being here puts this directory on the import path: `serving` is shared by the tests of service/ and api/."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from postgres import new_database, postgres_server
from senryu.config import Settings


@pytest.fixture
def kept_kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Kernels are not compiled anew for a home of the test's own, but kept between runs in pytest's own cache."""
    kept = request.config.cache.mkdir("kernels")
    monkeypatch.setattr(Settings, "kernel_cache", kept)
    return kept


@pytest.fixture(scope="session")
def postgres() -> Iterator[Path]:
    """A PostgreSQL server for the whole run; the folder of its socket."""
    with postgres_server() as folder:
        yield folder


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger_settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """Settings of an empty database: the test runs on both kinds."""
    url = "" if request.param == "sqlite" else new_database(request.getfixturevalue("postgres"))
    return Settings(home=tmp_path, port=0, database=url)
