"""The clients' environments: a venv or a folder of npm each, beside our own, made on first use."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tomllib
import venv
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ENVIRONMENTS = Path(sys.prefix) / "clients"
VERSIONS: dict[str, dict[str, Any]] = tomllib.loads((HERE / "versions.toml").read_text())


class InstallError(RuntimeError):
    """pip or npm would not; the message is theirs."""


def packages(name: str) -> list[str]:
    """What is installed for a client."""
    client = VERSIONS[name]
    found: list[str] = VERSIONS[client.get("environment", name)]["packages"]
    return found


def environment(name: str) -> list[str]:
    """The command that runs a client's script; its packages are installed on first use. Raises InstallError."""
    client = VERSIONS[name]
    home = ENVIRONMENTS / client.get("environment", name)
    wanted, installed = packages(name), home / "installed.json"
    if not installed.exists() or json.loads(installed.read_text()) != wanted:
        print(f"Installing {', '.join(wanted)} ...", flush=True)
        shutil.rmtree(home, ignore_errors=True)
        install(home, client["kind"], wanted)
        installed.write_text(json.dumps(wanted))
    if client["kind"] == "python":
        return [str(home / "bin" / "python"), "-W", "ignore", str(HERE / client["script"])]
    for file in HERE.glob("*.mjs"):  # beside node_modules, where imports are looked for
        shutil.copy(file, home)
    return ["node", str(home / client["script"])]


def install(home: Path, kind: str, wanted: list[str]) -> None:
    """Raises InstallError."""
    if kind == "node":
        home.mkdir(parents=True)
        command = ["npm", "install", "--silent", "--prefix", str(home), *wanted]
    else:
        venv.create(home, with_pip=True)
        command = [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *wanted]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise InstallError(done.stderr.strip() or f"exit code {done.returncode}")
