"""A server of ours in a fresh process: how long until it answers, and the memory that a loaded model takes."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from senryu.config import Settings
from senryu.errors import SenryuError
from senryu.evals.speed import EngineSubject, Figure
from senryu.model.program import Program
from senryu.model.spec import ModelSpec

ANNOUNCEMENT = "ANTHROPIC_BASE_URL="  # what `senryu serve` prints before its address


@dataclass(frozen=True, slots=True)
class Server:
    """A running `senryu serve`."""

    url: str
    pid: int
    ready_s: float
    """Seconds from the start of the process until GET /health was answered."""


@contextlib.contextmanager
def served(ref: str, settings: Settings) -> Iterator[Server]:
    """`senryu serve` of a model on a free port of loopback, stopped afterwards. Raises SenryuError("server_failed")."""
    options = ["--model", ref, "--host", "127.0.0.1", "--port", "0", "--threads", str(settings.threads)]
    options += ["--weights", settings.weights, "--kv", settings.kv, "--drafts" if settings.drafts else "--no-drafts"]
    command = [sys.executable, "-c", "from senryu.cli import main; main()", "serve", *options]
    start = time.perf_counter()
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            said = []
            for line in process.stderr:
                said.append(line)
                if ANNOUNCEMENT in line:
                    break
            else:
                raise SenryuError("server_failed", why="".join(said[-3:]).strip() or f"exit code {process.wait()}")
            url = said[-1].partition(ANNOUNCEMENT)[2].split()[0]
            _wait_for_health(url)
            yield Server(url, process.pid, time.perf_counter() - start)
        finally:
            process.terminate()


def _wait_for_health(url: str) -> None:
    for attempt in range(100):
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=10) as answer:
                if answer.status == 200:
                    return
        except urllib.error.URLError:
            if attempt == 99:
                raise
        time.sleep(0.01)


def start_time(name: str, ref: str, settings: Settings, rounds: int) -> Figure:
    """Seconds from a fresh process until /health answers, kernels compiled before: the first, unmeasured start does that."""
    seconds = []
    for _ in range(rounds + 1):
        with served(ref, settings) as server:
            seconds.append(server.ready_s)
    return Figure("start", None, name, "s", tuple(seconds[1:]))


def memory(subject: EngineSubject, spec: ModelSpec, kv: str) -> list[Figure]:
    """MB of this process, model loaded; of the pool of K/V pages when all are used; and of the K/V of 1,024 tokens."""
    page = Program.page_bytes(spec, kv)
    values = {
        "memory_resident": resident_bytes(),
        "memory_kv_pool": subject.engine.stats().pages_total * page,
        "memory_kv_1024_tokens": page * 1024 // Program.page_size,
    }
    return [Figure(name, None, subject.name, "MB", (value / 1e6,)) for name, value in values.items()]


def resident_bytes(status: Path = Path("/proc/self/status")) -> int:
    """Bytes of memory that this process holds now; where the system does not tell, its peak."""
    try:
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) * 1024
    except (OSError, StopIteration):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
