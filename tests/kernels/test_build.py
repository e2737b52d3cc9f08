"""Where compiled kernels are kept, and who may write there."""

from __future__ import annotations

from pathlib import Path

import pytest

from senryu import kernels
from senryu.kernels import build


def test_the_directory_is_named_by_what_was_compiled(tmp_path: Path) -> None:
    directory = kernels.cache_directory(tmp_path)
    assert directory.parent == tmp_path
    assert directory == kernels.cache_directory(tmp_path)
    assert not directory.exists()


def test_a_cache_that_others_may_write_is_refused(tmp_path: Path) -> None:
    directory = tmp_path / "kernels"
    build._secure(directory)
    assert directory.stat().st_mode & 0o777 == 0o700
    directory.chmod(0o777)
    with pytest.raises(PermissionError, match="SENRYU_HOME"):
        build._secure(directory)


def test_paths_are_listed_best_first() -> None:
    paths = kernels.available()
    assert paths[-2:] == ["numpy", "fp32"]
    assert set(kernels.features()) <= set(build.OF_INTEREST)
    if "avx512" in paths:
        assert set(build.NEEDED) <= set(kernels.features())


def test_loaded_kernels_are_the_same_for_everyone(compiled_kernels: kernels.Kernels, tmp_path: Path) -> None:
    assert kernels.load(tmp_path) is compiled_kernels
    assert set(compiled_kernels.entries) == {"step", "close"}
    assert all(compiled_kernels.addresses.values())
