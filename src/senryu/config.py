"""Settings: the only place that reads the environment or a configuration file.

Precedence: what the caller passes (flags) > environment > SENRYU_HOME/config.toml > defaults.
Environment: SENRYU_HOME (where all state lives, default ~/.senryu) and SENRYU_API_KEY, nothing else.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from senryu.errors import SenryuError


def usable_threads() -> int:
    """CPU threads that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class Settings:
    """All that can be set. Every field but `home` is a key of config.toml."""

    home: Path
    host: str = "127.0.0.1"
    port: int = 8484
    api_key: str | None = None
    """Callers must send it when set; without one only loopback callers are served."""
    tls_cert: str = ""
    """A certificate in PEM, and those between it and its authority: with it and its key the server speaks HTTPS alone."""
    tls_key: str = ""
    """The certificate's private key in PEM, without a password."""
    aws_keys: Mapping[str, str] | None = None
    """AWS access key ids and their secrets: addresses of Bedrock then want such a signature, or `api_key` as a bearer token."""
    profile: str = "faithful"
    """faithful refuses what Claude 3.5 Haiku refuses; lenient passes over what agents send to any model, and says so."""
    threads: int = 0
    """Threads of the engine; 0 is every usable core."""
    kernels: str = "auto"
    """auto, amx, avx512, avxvnni, avx2, neon, numpy or fp32."""
    kv: str = "int8"
    """Format of K/V pages: int8 (a scale per token and head) or float32. kernels = "fp32" always keeps float32."""
    weights: str = "int8"
    """Number format of the weights: int8, int4 or bf16. Has no meaning with kernels = "fp32", which reads them as they are."""
    kv_cache_gb: float = 0.0
    """Memory for K/V pages; 0 takes room for two full windows, at most half of the free memory."""
    kv_spill_gb: float = 4.0
    """Disk space, for each model, for K/V that no longer fits into memory; it outlives restarts. 0 keeps none."""
    max_sequences: int = 64
    """Requests that generate together; more wait in the queue."""
    drafts: bool = True
    """Guess tokens ahead and verify them together where that pays; answers are the same without."""
    max_requests: int = 1024
    """Requests in flight, waiting ones included; more are answered 529."""
    requests_per_minute: int = 0
    """For each key, beside batches; more are answered 429, with the seconds to wait. 0 is no limit, here and below."""
    input_tokens_per_minute: int = 0
    """For each key: tokens of prompts that are not read from the cache. A prompt that is longer is always refused."""
    output_tokens_per_minute: int = 0
    """For each key: tokens of answers, as they are written. An answer that has begun is not cut."""
    stall_timeout_s: float = 60.0
    """A caller that neither sends nor takes anything for so long is dropped, so that its pages are freed."""
    drain_timeout_s: float = 600.0
    """How long a stop waits for answers that are still being written."""
    database: str = ""
    """Where usage, batches and files are kept: postgresql://USER:PASSWORD@HOST/NAME, or "" for SQLite under SENRYU_HOME."""
    batch_concurrency: int = 16
    """Requests of batches that run together; they take what interactive requests leave."""

    @property
    def files(self) -> Path:
        """Where uploaded files lie."""
        return self.home / "files"

    @property
    def kernel_cache(self) -> Path:
        """Where compiled kernels are kept."""
        return self.home / "cache" / "kernels"

    @property
    def weight_cache(self) -> Path:
        """Where packed weights are kept."""
        return self.home / "cache" / "weights"

    @property
    def downloads(self) -> Path:
        """Where training data that was fetched from public addresses is kept."""
        return self.home / "cache" / "downloads"

    @property
    def kv_spill(self) -> Path:
        """Where K/V lies on disk, in a directory for each model."""
        return self.home / "cache" / "kv"


_WANTED: dict[str, tuple[type | tuple[type, ...], str]] = {
    "host": (str, "a string"),
    "port": (int, "a whole number"),
    "api_key": (str, "a string"),
    "tls_cert": (str, "a string"),
    "tls_key": (str, "a string"),
    "aws_keys": (dict, "a table of access key ids and their secrets"),
    "profile": (str, "a string"),
    "threads": (int, "a whole number"),
    "kernels": (str, "a string"),
    "kv": (str, "a string"),
    "weights": (str, "a string"),
    "kv_cache_gb": ((int, float), "a number"),
    "kv_spill_gb": ((int, float), "a number"),
    "max_sequences": (int, "a whole number"),
    "drafts": (bool, "true or false"),
    "max_requests": (int, "a whole number"),
    "requests_per_minute": (int, "a whole number"),
    "input_tokens_per_minute": (int, "a whole number"),
    "output_tokens_per_minute": (int, "a whole number"),
    "stall_timeout_s": ((int, float), "a number"),
    "drain_timeout_s": ((int, float), "a number"),
    "database": (str, "a string"),
    "batch_concurrency": (int, "a whole number"),
}
_CHOICES = {
    "profile": ("faithful", "lenient"),
    "kernels": ("auto", "amx", "avx512", "avxvnni", "avx2", "neon", "numpy", "fp32"),
    "kv": ("int8", "float32"),
    "weights": ("int8", "int4", "bf16"),
}
_LEAST = {"max_sequences": 1, "max_requests": 1, "batch_concurrency": 1, "stall_timeout_s": 0.1}


def load_settings(environ: Mapping[str, str] | None = None, **flags: Any) -> Settings:
    """The settings in force. `flags` that are None were not given.

    Raises SenryuError for a file that cannot be read, an unknown key, or a value of the wrong kind.
    """
    environ = os.environ if environ is None else environ
    home = Path(environ.get("SENRYU_HOME") or Path.home() / ".senryu").expanduser()
    values = _read_file(home / "config.toml")
    if environ.get("SENRYU_API_KEY"):
        values["api_key"] = environ["SENRYU_API_KEY"]
    values.update({key: value for key, value in flags.items() if value is not None})
    for key in values:
        _check(key, values[key], "settings")
    values["api_key"] = values.get("api_key") or None
    values["threads"] = values.get("threads") or usable_threads()
    return Settings(home=home, **values)


def _read_file(path: Path) -> dict[str, Any]:
    """The settings of a TOML file; none where there is no file."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SenryuError("config_unreadable", path=path, why=error) from error
    for key, value in values.items():
        _check(key, value, str(path))
    return values


def _check(key: str, value: object, path: str) -> None:
    known = [field.name for field in fields(Settings) if field.name != "home"]
    if key not in known:
        near = difflib.get_close_matches(key, known, n=1)
        hint = f" Did you mean `{near[0]}`?" if near else f" Known settings: {', '.join(known)}."
        raise SenryuError("config_key", path=path, key=key, hint=hint)
    kind, wanted = _WANTED[key]
    if key == "aws_keys":
        _check_keys(value, path, wanted)
        return
    if not isinstance(value, kind) or isinstance(value, bool) != (kind is bool):
        raise SenryuError("config_value", path=path, key=key, wanted=wanted, value=value)
    if isinstance(value, int | float) and not value >= (least := _LEAST.get(key, 0)):
        raise SenryuError("config_value", path=path, key=key, wanted=f"{least} or more", value=value)
    if (choices := _CHOICES.get(key)) and value not in choices:
        raise SenryuError("config_value", path=path, key=key, wanted=" or ".join(choices), value=value)


def _check_keys(value: object, path: str, wanted: str) -> None:
    """A mistake is named without the secrets."""
    if not isinstance(value, dict):
        raise SenryuError("config_value", path=path, key="aws_keys", wanted=wanted, value=type(value).__name__)
    for name, secret in value.items():
        if not re.fullmatch(r"\w{1,128}", name) or not isinstance(secret, str) or not secret:
            raise SenryuError(
                "config_value", path=path, key=f"aws_keys.{name}", wanted="a secret in a string", value="another value"
            )
