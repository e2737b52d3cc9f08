"""Peers as subjects: each a process of a Python of its own, same shape and threads, that answers lines of JSON."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from senryu.errors import SenryuError
from senryu.evals.catalog import PACKAGES
from senryu.model.spec import ModelSpec

KV_FORMATS = {
    "llama.cpp": ("f16", "q8_0"),
    "openvino": ("",),
    "ctranslate2": ("",),
}  # of the cache at depth; "" is the peer's own choice
SCRIPTS = {"llama.cpp": "peer_llama_cpp.py", "openvino": "peer_converted.py", "ctranslate2": "peer_converted.py"}


class PeerProcess:
    """One model of one peer. `ask` is answered with seconds."""

    def __init__(self, peer: str, python: str, options: dict[str, Any]) -> None:
        """Raises SenryuError("peer_failed") when it cannot start."""
        self.peer, self.python = peer, python
        script = str(Path(__file__).parent / SCRIPTS[peer])
        try:
            self.process = subprocess.Popen(
                [python, script, json.dumps(options)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        except OSError as error:
            raise self._failed(f"{python}: {error.strerror}") from error
        try:
            self._reply()
        except SenryuError:
            self.close()
            raise

    def ask(self, **work: Any) -> float:
        """Seconds that the work took. Raises SenryuError("peer_failed") when the process has ended."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # `_reply` tells how it ended
            self.process.stdin.write(json.dumps(work) + "\n")
            self.process.stdin.flush()
        return float(self._reply()["s"])

    def _reply(self) -> dict[str, float]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise self._failed(f"it stopped with exit code {self.process.wait()}; its own messages are above")
        reply: dict[str, float] = json.loads(line)
        return reply

    def _failed(self, why: str) -> SenryuError:
        return SenryuError("peer_failed", peer=self.peer, why=why, packages=PACKAGES[self.peer])

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait(timeout=60)
        self.process.stdout.close()


@dataclass(frozen=True, slots=True)
class PeerSubject:
    """A peer's model, with the format of its K/V cache ("" where the peer chooses)."""

    name: str
    process: PeerProcess
    kv: str

    def prefill(self, length: int) -> float:
        return length / self.process.ask(do="prefill", length=length)

    def decode(self, depth: int, tokens: int) -> float:
        return tokens / self.process.ask(do="decode", depth=depth, tokens=tokens, kv=self.kv)

    def batch(self, streams: int, tokens: int) -> float:
        return streams * tokens / self.process.ask(do="batch", streams=streams, tokens=tokens)

    def close(self) -> None:
        self.process.close()

    def deep(self) -> list[PeerSubject]:
        """This model once for each K/V format that the peer offers, to be measured at depth."""
        kinds = KV_FORMATS[self.process.peer]
        return [PeerSubject(f"{self.name}, {kv} K/V" if kv else self.name, self.process, kv) for kv in kinds]


def start_peers(
    peer: str, python: str, spec: ModelSpec, formats: Sequence[str], threads: int, cache: Path
) -> list[PeerSubject]:
    """The peer's models of this shape, one for each format; they are made in `cache` on first use (a minute for 0.3b).

    Raises SenryuError("peer_failed").
    """
    shape = {
        "hidden": spec.hidden,
        "layers": len(spec.layers),
        "heads": spec.heads,
        "kv_heads": spec.kv_heads,
        "head_dim": spec.head_dim,
        "ffn": spec.ffn,
        "vocab": spec.vocab,
    }
    cache.mkdir(parents=True, exist_ok=True)
    started: list[PeerSubject] = []
    try:
        for quant in formats:
            options = {"peer": peer, "shape": shape, "quant": quant, "threads": threads, "cache": str(cache)}
            started.append(PeerSubject(f"{peer} {quant}", PeerProcess(peer, python, options), KV_FORMATS[peer][0]))
    except SenryuError:
        for subject in started:
            subject.close()
        raise
    return started
