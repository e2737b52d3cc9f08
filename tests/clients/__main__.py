"""`make clients`: real clients, each version in an environment of its own, against served models on loopback.

python -m tests.clients                           all of versions.toml
python -m tests.clients anthropic-2_12 litellm    some of them
python -m tests.clients --write docs/clients.md   and the tables into a file
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

from tests.clients.checks import Given
from tests.clients.environments import ENVIRONMENTS, VERSIONS, InstallError, environment, packages
from tests.clients.servers import KEY, REQUESTS_PER_MINUTE, all_servers
from tests.clients.table import document, failures

Results = list[dict[str, Any]]
HEAD = """\
# Clients

Clients against a served Senryu mini, by `python -m tests.clients --write {file}`, {day}. Every client has an environment of its
own; `through` is the address that it called.

ok: all checks of this column pass. lacks: the client itself has no such thing. not here: the server has no such thing in this
client's shape. The notes below the table say why. Refused and broken answers come from servers with a scripted model: one
answers {limit} requests a minute, the engine of the other fails after a few tokens.
"""


def run_client(name: str, servers: Mapping[str, str]) -> Results:
    """What the checks of one client gave; a script that dies is a failed check of its own."""
    print(name, flush=True)
    try:
        command = environment(name)
    except InstallError as error:
        print(f"  FAIL install\n{error}", flush=True)
        return [{"column": "create", "check": "install", "ok": False, "detail": str(error)}]
    given = Given(key=KEY, variant=VERSIONS[name].get("variant", ""), **servers)
    environ = {**os.environ, "NODE_EXTRA_CA_CERTS": servers["ca"]}
    process = subprocess.Popen([*command, *given], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, env=environ)
    assert process.stdout is not None
    results: Results = []
    for line in process.stdout:
        if not line.startswith('{"column"'):
            print("    " + line, end="", flush=True)
            continue
        result = json.loads(line)
        results.append(result)
        mark = "FAIL " if not result["ok"] else "lacks" if "lacks" in result else "ok   "
        print(f"  {mark} {result['check']:32} {result['detail']}", flush=True)
    if process.wait():
        results.append({"column": "create", "check": "script", "ok": False, "detail": f"exit code {process.returncode}"})
    return results


def label(name: str) -> str:
    """A client's row: the package that it is, and which part of it."""
    variant = VERSIONS[name].get("variant")
    return packages(name)[0] + (f" ({variant})" if variant else "")


def main() -> int:
    """Exit code 0 when every check passes, every column is reported, and the servers then leave in peace."""
    options = argparse.ArgumentParser(prog="python -m tests.clients")
    options.add_argument("clients", nargs="*", default=list(VERSIONS))
    options.add_argument("--write", type=Path, help="write the tables into this file")
    chosen = options.parse_args()
    unknown = [name for name in chosen.clients if name not in VERSIONS]
    if unknown:
        options.error(f"no client {', '.join(unknown)} in versions.toml; there are {', '.join(VERSIONS)}")
    with all_servers(ENVIRONMENTS / "home") as servers:
        results = {name: run_client(name, servers) for name in chosen.clients}
    text = document({label(name): (VERSIONS[name]["door"], client) for name, client in results.items()})
    print(text)
    if chosen.write:
        head = HEAD.format(file=chosen.write, day=date.today(), limit=REQUESTS_PER_MINUTE)
        chosen.write.write_text(f"{head}\n{text}\n")
    failed = [one for name, client in results.items() for one in failures(name, client)]
    print("FAILED: " + ", ".join(failed) if failed else "all checks pass")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
