"""`make clients`: real clients, each version in an environment of its own, against a served nano on loopback.

python -m tests.clients                       all of versions.toml
python -m tests.clients anthropic-2_12 litellm    some of them
python -m tests.clients --write docs/clients.md   and the table into a file
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tomllib
import venv
from datetime import date
from pathlib import Path
from typing import Any

from tests.clients.checks import ACCESS_KEY

HERE = Path(__file__).parent
ENVIRONMENTS = Path(sys.prefix) / "clients"
VERSIONS: dict[str, dict[str, Any]] = tomllib.loads((HERE / "versions.toml").read_text())
KEY = "a-key-for-these-checks"
SERVE = "from senryu.cli import main; main()"
Results = list[dict[str, Any]]


def environment(name: str) -> list[str]:
    """The command that runs a script under the client `name`; its packages are installed on first use."""
    client = VERSIONS[name]
    home = ENVIRONMENTS / name
    installed = home / "installed.json"
    if not installed.exists() or json.loads(installed.read_text()) != client["packages"]:
        print(f"Installing {', '.join(client['packages'])} ...", flush=True)
        shutil.rmtree(home, ignore_errors=True)
        if client["kind"] == "node":
            home.mkdir(parents=True)
            subprocess.run(["npm", "install", "--silent", "--prefix", str(home), *client["packages"]], check=True)
        else:
            venv.create(home, with_pip=True)
            pip = [str(home / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            subprocess.run([*pip, *client["packages"]], check=True)
        installed.write_text(json.dumps(client["packages"]))
    if client["kind"] == "python":
        return [str(home / "bin" / "python"), "-W", "ignore", str(HERE / client["script"])]
    script = home / client["script"]  # beside its node_modules, where imports are looked for
    shutil.copyfile(HERE / client["script"], script)
    return ["node", str(script)]


def start_server() -> tuple[subprocess.Popen[str], str]:
    """`senryu serve` with a key on a free port and a home of its own, and its base URL."""
    home = ENVIRONMENTS / "home"
    home.mkdir(parents=True, exist_ok=True)
    (home / "config.toml").write_text(f'[aws_keys]\n{ACCESS_KEY} = "{KEY}"\n')
    command = [sys.executable, "-c", SERVE, "serve", "--port", "0", "--api-key", KEY]
    environ = {**os.environ, "SENRYU_HOME": str(home)}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environ)
    assert process.stderr is not None
    for line in process.stderr:
        print("  " + line, end="", flush=True)
        if "ANTHROPIC_BASE_URL=" in line:
            return process, line.split("ANTHROPIC_BASE_URL=")[1].split()[0]
    raise SystemExit(f"the server did not start: exit code {process.wait()}")


def run_client(name: str, command: list[str], url: str) -> Results:
    """What the checks of one client gave; a script that dies is a failed check of its own."""
    print(name, flush=True)
    process = subprocess.Popen([*command, url, KEY], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    results: Results = []
    for line in process.stdout:
        if not line.startswith("{"):
            print("    " + line, end="", flush=True)
            continue
        result = json.loads(line)
        results.append(result)
        mark = "ok  " if result["ok"] else "FAIL"
        print(f"  {mark} {result['check']:32} {result['detail']}", flush=True)
    if process.wait():
        results.append({"column": "create", "check": "script", "ok": False, "detail": f"exit code {process.returncode}"})
    return results


def table(results: dict[str, Results]) -> str:
    """Client by feature: ok, FAIL, or a dash where the client has no such thing."""
    columns = list(dict.fromkeys(result["column"] for client in results.values() for result in client))
    lines = ["| client | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, client in results.items():
        cells = []
        for column in columns:
            marks = [result["ok"] for result in client if result["column"] == column]
            cells.append("-" if not marks else "ok" if all(marks) else "FAIL")
        lines.append(f"| {', '.join(VERSIONS[name]['packages'])} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> int:
    """Exit code 0 when every check passes, and the server then leaves in peace."""
    options = argparse.ArgumentParser(prog="python -m tests.clients")
    options.add_argument("clients", nargs="*", default=list(VERSIONS))
    options.add_argument("--write", type=Path, help="write the table into this file")
    chosen = options.parse_args()
    unknown = [name for name in chosen.clients if name not in VERSIONS]
    if unknown:
        options.error(f"no client {', '.join(unknown)} in versions.toml; there are {', '.join(VERSIONS)}")
    commands = {name: environment(name) for name in chosen.clients}
    server, url = start_server()
    try:
        results = {name: run_client(name, command, url) for name, command in commands.items()}
    finally:
        server.terminate()
        code = server.wait(timeout=30)
    text = table(results)
    print(text)
    if chosen.write:
        head = f"Clients against a served Senryu nano, by `python -m tests.clients --write {chosen.write}`, {date.today()}."
        chosen.write.write_text(
            f"# Clients\n\n{head} A dash: the client has no such feature, or it is not checked.\n\n{text}\n"
        )
    failed = [result["check"] for client in results.values() for result in client if not result["ok"]]
    print(f"server left with exit code {code}; " + (f"FAILED: {', '.join(failed)}" if failed else "all checks pass"))
    return 1 if failed or code else 0


if __name__ == "__main__":
    sys.exit(main())
