"""The servers that clients are run against, each a process of its own on a free port of loopback, all with the same key.

url: mini. tls: mini over HTTPS. stage: a scripted model, whose engine can fail midway. limited: the same with few requests a
minute.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.clients.checks import ACCESS_KEY

from senryu.api.devcerts import write_dev_certificates

KEY = "a-key-for-these-checks"
REQUESTS_PER_MINUTE = 30
SERVE = ("-c", "from senryu.cli import main; main()", "serve")
STAGE = ("-m", "tests.clients.stage")
READY = "ANTHROPIC_BASE_URL="
ROOT = Path(__file__).parents[2]


@contextmanager
def all_servers(folder: Path) -> Iterator[dict[str, str]]:
    """What scripts are given of servers: their base URLs by name, and `ca`. In the end each must leave with exit code 0."""
    made = write_dev_certificates(folder / "certs")
    encrypted = ("--tls-cert", str(made.cert), "--tls-key", str(made.key))
    with ExitStack() as stack:

        def run(name: str, home: str, command: Sequence[str], config: str = "") -> str:
            return stack.enter_context(server(name, folder / home, command, config))

        yield {
            "url": run("mini", "mini", SERVE),
            "tls": run("mini over TLS", "mini", (*SERVE, *encrypted)),
            "stage": run("stage", "stage", STAGE),
            "limited": run("limited", "limited", STAGE, f"requests_per_minute = {REQUESTS_PER_MINUTE}\n"),
            "ca": str(made.ca),
        }


@contextmanager
def server(name: str, home: Path, command: Sequence[str], config: str) -> Iterator[str]:
    """A server with a home of its own, and its base URL. What it prints once it is ready is in a log beside the home."""
    home.mkdir(parents=True, exist_ok=True)
    keys = f'port = 0\napi_key = "{KEY}"\n{config}[aws_keys]\n{ACCESS_KEY} = "{KEY}"\n'
    (home / "config.toml").write_text(keys)
    environ = {**os.environ, "SENRYU_HOME": str(home), "SENRYU_API_KEY": ""}
    process = subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, env=environ
    )
    assert process.stderr is not None
    print(f"Starting {name} ...", flush=True)
    for line in process.stderr:
        print("  " + line, end="", flush=True)
        if READY in line:
            url = line.split(READY)[1].split()[0]
            break
    else:
        raise SystemExit(f"the server {name} did not start: exit code {process.wait()}")
    errors, log = process.stderr, home.parent / f"{name.replace(' ', '-')}.log"
    reader = threading.Thread(target=lambda: log.write_text(errors.read()), daemon=True)  # a full pipe would stop the server
    reader.start()
    try:
        yield url
    finally:
        process.terminate()
        code = process.wait(timeout=30)
        reader.join()
    if code:
        raise SystemExit(f"the server {name} left with exit code {code}; see {log}")
