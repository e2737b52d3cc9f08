"""Where compiled kernels are kept, and who may write there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from senryu import kernels
from senryu.kernels import build, target


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
    for name in paths[:-2]:
        assert set(target.ISAS[name].needs) <= set(kernels.features())


def test_code_with_tiles_is_kept_apart_from_code_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU is the same where the system refuses them, and code with tiles would end the process."""
    import numba

    monkeypatch.setattr(numba.config, "CPU_FEATURES", ",".join(f"+{name}" for name in target.ISAS["amx"].needs))
    found = set()
    for permitted in (True, False):
        monkeypatch.setattr(target, "tiles_permitted", lambda permitted=permitted: permitted)
        found.add(build._fingerprint.__wrapped__())
    assert len(found) == 2


def test_loaded_kernels_are_the_same_for_everyone(compiled_kernels: kernels.Kernels, tmp_path: Path) -> None:
    assert kernels.load(tmp_path) is compiled_kernels
    assert set(compiled_kernels.entries) == {"step", "close"}
    assert all(compiled_kernels.addresses.values())


WARM = """
import sys
from pathlib import Path
from senryu import kernels
loaded = kernels.load(Path(sys.argv[1]))
print(loaded.compiled, len(loaded.addresses), "numba.cpython.unicode" in sys.modules)
"""


def test_what_is_cached_is_loaded_and_no_more(compiled_kernels: kernels.Kernels) -> None:
    """A process of its own compiles nothing, and leaves alone what Numba needs to compile."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", WARM, str(compiled_kernels.directory.parent)]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert said.split() == ["0", str(len(compiled_kernels.addresses)), "False"]
