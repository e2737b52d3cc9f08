"""`senryu doctor` and `senryu version`: what this machine gives us, and what would stop us."""

from __future__ import annotations

import datetime
import platform
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from senryu.cli.output import Weights, print_json, print_table, say

if TYPE_CHECKING:
    from senryu.config import Settings


def cpu_name() -> str:
    """The processor's own name, where the system tells it."""
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def machine(settings: Settings) -> dict[str, Any]:
    """The facts that every published figure carries."""
    from importlib.metadata import version as installed

    from senryu import __version__, kernels

    return {
        "date": datetime.date.today().isoformat(),
        "cpu": cpu_name(),
        "threads": settings.threads,
        "kernels": kernels.available()[0],
        "senryu": __version__,
        "python": platform.python_version(),
        "numba": installed("numba"),
    }


def port_state(host: str, port: int) -> str:
    """Whether `senryu serve` could listen there now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return f"taken ({error.strerror}); `senryu serve --port 0` takes a free one"
    return "free"


def tls_state(settings: Settings) -> str:
    """What `senryu serve` would speak."""
    from senryu.api.tls import tls_context
    from senryu.errors import SenryuError

    try:
        return f"HTTPS with {settings.tls_cert}" if tls_context(settings) else "plain HTTP"
    except SenryuError as error:
        return str(error)


def weight_cache_state(root: Path, verify: bool) -> str:
    """How many packed models are kept there; with `verify` every byte is checked and damaged files are removed."""
    from senryu.model.packed import check_files, kept_files

    if not verify:
        sizes = [file.stat().st_size for file in kept_files(root)]
        return f"{root} ({len(sizes)} packed, {sum(sizes) / 1e9:.2f} GB)"
    found = list(check_files(root))
    bad = [(file, why) for file, _, why in found if why]
    for file, why in bad:
        say(f"{file} is damaged and was removed, the next start makes it again: {why}")
    return f"{root} ({len(found)} verified, {len(bad)} damaged)"


def cache_disk(settings: Settings) -> str:
    """How much disk each cache takes."""
    from senryu.caches import disk_bytes

    roots = {"kernels": settings.kernel_cache, "weights": settings.weight_cache, "kv": settings.kv_spill}
    return ", ".join(f"{name} {disk_bytes(root) / 1e9:.3f} GB" for name, root in roots.items())


def doctor(
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="Read and check every packed weight that is kept.")] = False,
    weights: Weights = None,
) -> None:
    """Check this machine: CPU features, kernels, memory, caches, port."""
    from senryu import kernels
    from senryu.config import load_settings
    from senryu.service.registry import available_memory

    settings = load_settings(weights=weights)
    cache = kernels.cache_directory(settings.kernel_cache)
    compiled = cache.is_dir() and any(cache.rglob("*.nbc"))
    facts = {
        **machine(settings),
        "cpu_features": " ".join(kernels.features()) or "none that we use",
        "kernel_paths": ", ".join(kernels.available()),
        "kernel_cache": f"{cache} ({'compiled' if compiled else 'empty: the first start compiles, about a minute'})",
        "weights": settings.weights,
        "weight_cache": weight_cache_state(settings.weight_cache, verify),
        "cache_disk": cache_disk(settings),
        "memory_free_gb": round(available_memory() / 1e9, 1),
        "home": str(settings.home),
        f"port_{settings.port}": port_state(settings.host, settings.port),
        "tls": tls_state(settings),
        "api_key": "required" if settings.api_key else "not required (loopback only)",
    }
    if json:
        print_json(facts)
    else:
        print_table(("", ""), [[key.replace("_", " "), value] for key, value in facts.items()])


def version(json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Print the version."""
    from senryu import __version__

    if json:
        print_json({"senryu": __version__, "python": platform.python_version()})
    else:
        print(f"senryu {__version__}")
