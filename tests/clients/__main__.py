"""`make clients`: official SDKs, each version in an environment of its own, against a served model on loopback.

python -m tests.clients                 every version, against `senryu serve` of the bundled model
python -m tests.clients 2.12.0          one version
"""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).parent
ENVIRONMENTS = Path(sys.prefix) / "clients"
ANTHROPIC = ("0.125.0", "1.17.0", "2.12.0")
KEY = "a-key-for-these-checks"
SERVE = "from senryu.cli import main; main()"


def environment(version: str) -> Path:
    """The Python of an environment that has this version of the SDK; made on first use."""
    home = ENVIRONMENTS / f"anthropic-{version}"
    python = home / "bin" / "python"
    if not (home / "ready").exists():
        print(f"Installing anthropic {version} ...", flush=True)
        venv.create(home, with_pip=True, clear=True)
        install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", f"anthropic=={version}"]
        subprocess.run(install, check=True)
        (home / "ready").touch()
    return python


def start_server() -> tuple[subprocess.Popen[str], str]:
    """`senryu serve` with a key on a free port, and its base URL."""
    command = [sys.executable, "-c", SERVE, "serve", "--port", "0", "--api-key", KEY]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        print("  " + line, end="", flush=True)
        if "ANTHROPIC_BASE_URL=" in line:
            return process, line.split("ANTHROPIC_BASE_URL=")[1].split()[0]
    raise SystemExit(f"the server did not start: exit code {process.wait()}")


def main() -> int:
    """Exit code 0 when every version passes, and the server then leaves in peace."""
    versions = sys.argv[1:] or list(ANTHROPIC)
    pythons = {version: environment(version) for version in versions}
    failed = []
    server, url = start_server()
    try:
        for version, python in pythons.items():
            print(f"anthropic {version}", flush=True)
            if subprocess.run([str(python), "-W", "ignore", str(HERE / "anthropic_sdk.py"), url, KEY]).returncode:
                failed.append(version)
    finally:
        server.terminate()
        code = server.wait(timeout=30)
    print(f"server left with exit code {code}; " + (f"FAILED: {', '.join(failed)}" if failed else "all versions pass"))
    return 1 if failed or code else 0


if __name__ == "__main__":
    sys.exit(main())
