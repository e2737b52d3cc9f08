"""A PostgreSQL server of the tests' own, in a temporary folder, reached through a socket there."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest

_numbers = count()
# ends with whoever holds its input: a run of tests that is killed leaves no server behind
SERVE = '"$0" -D data -c listen_addresses= -k "$PWD" -c fsync=off >log 2>&1 & cat >/dev/null; kill -QUIT $!; wait'


def _programs() -> Path:
    found = shutil.which("initdb")
    places = [Path(found).parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not places:
        pytest.skip("no PostgreSQL is installed here")
    return places[-1]


def _owner(folder: Path) -> dict[str, Any]:
    """How to run as somebody else than root, whom the server refuses."""
    if os.geteuid() != 0:
        return {}
    try:
        shutil.chown(folder, "postgres", "postgres")
    except LookupError:
        pytest.skip("PostgreSQL does not run as root, and there is no user postgres")
    return {"user": "postgres", "group": "postgres", "extra_groups": []}


@contextlib.contextmanager
def postgres_server() -> Iterator[Path]:
    """A running server; the folder of its socket. Skips the test where PostgreSQL is not installed."""
    programs = _programs()
    folder = Path(tempfile.mkdtemp(prefix="senryu-pg-"))  # short: a socket's path is at most 107 bytes
    try:
        how: dict[str, Any] = {"cwd": folder, **_owner(folder)}
        options = ["--auth=trust", "--username=senryu", "--encoding=UTF8", "--locale=C", "--no-sync"]
        made = subprocess.run([programs / "initdb", "-D", "data", *options], capture_output=True, text=True, **how)
        assert made.returncode == 0, made.stderr
        command = ["sh", "-c", SERVE, programs / "postgres"]
        server = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True, **how)
        assert server.stdin is not None
        try:
            _await(folder, server)
            yield folder
        finally:
            server.stdin.close()
            server.wait()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _await(folder: Path, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            psycopg.connect(f"host={folder} user=senryu dbname=postgres").close()
            return
        except psycopg.OperationalError:
            assert server.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.05)


def new_database(folder: Path) -> str:
    """The URL of a new, empty database of the server whose socket is in `folder`."""
    name = f"test{next(_numbers)}"
    with psycopg.connect(f"host={folder} user=senryu dbname=postgres", autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return f"postgresql://senryu@/{name}?host={folder}"
