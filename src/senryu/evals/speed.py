"""How fast a model runs here: prefill, decode and time to first token, alone or beside a peer, as medians and ratios.

A measurement takes subjects in turns (A B A B ...), so that a drifting machine is unfair to nobody.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from senryu.engine.interface import Engine, Sampling, TokenRequest

PEER_SCRIPT = Path(__file__).parent / "peer_llama_cpp.py"


class Subject(Protocol):
    """Something that can be measured."""

    name: str

    def run(self, prompt: int, tokens: int) -> tuple[float, float]:
        """Prefill a fresh random prompt of `prompt` tokens, then decode `tokens` more; seconds of each."""

    def close(self) -> None: ...


class EngineSubject:
    """Our engine, measured where a request enters it: queueing, scheduling and sampling are in the figures."""

    def __init__(self, name: str, engine: Engine, vocab: int) -> None:
        self.name, self.engine, self.vocab = name, engine, vocab
        self.rng = np.random.default_rng(0)
        self.runner = asyncio.Runner()

    def prompt(self, length: int) -> tuple[int, ...]:
        """Random ids, above the special tokens: no prompt shares a prefix with another."""
        return tuple(int(i) for i in self.rng.integers(64, self.vocab, length))

    def run(self, prompt: int, tokens: int) -> tuple[float, float]:
        return self.runner.run(self._timed(self.prompt(prompt), tokens))

    def cached(self, prompt: int) -> tuple[float, float]:
        """Seconds to the first token of a new prompt, and of the same prompt again."""
        ids = self.prompt(prompt)
        return self.runner.run(self._timed(ids, 1))[0], self.runner.run(self._timed(ids, 1))[0]

    async def _timed(self, ids: tuple[int, ...], tokens: int) -> tuple[float, float]:
        request = TokenRequest(ids=ids, max_tokens=tokens + 1, sampling=Sampling(temperature=0.0))
        start = time.perf_counter()
        first = None
        async for _ in self.engine.generate(request):
            first = first or time.perf_counter()
        end = time.perf_counter()
        assert first is not None
        return first - start, end - first

    def close(self) -> None:
        self.runner.run(self.engine.close())
        self.runner.close()


class LlamaCppSubject:
    """llama.cpp in a Python of its own (`peer_python` has llama-cpp-python and gguf), same shape, same threads."""

    def __init__(self, peer_python: str, shape: dict[str, int], quant: str, threads: int, cache: Path) -> None:
        self.name = f"llama.cpp {quant}"
        cache.mkdir(parents=True, exist_ok=True)
        options = json.dumps({"shape": shape, "quant": quant, "threads": threads, "cache": str(cache)})
        self.process = subprocess.Popen(
            [peer_python, str(PEER_SCRIPT), options], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._reply()

    def _reply(self) -> dict[str, float]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            code = self.process.wait()
            raise RuntimeError(f"the peer stopped with exit code {code}; its messages are above")
        reply: dict[str, float] = json.loads(line)
        return reply

    def run(self, prompt: int, tokens: int) -> tuple[float, float]:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"prompt": prompt, "tokens": tokens}) + "\n")
        self.process.stdin.flush()
        reply = self._reply()
        return reply["prefill_s"], reply["decode_s"]

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=30)


@dataclass(frozen=True, slots=True)
class Speed:
    """Medians over the rounds, tokens per second, and every round's figures behind them."""

    name: str
    prefill: float
    decode: float
    rounds: tuple[tuple[float, float], ...]


def measure(subjects: Sequence[Subject], prompt: int, tokens: int, rounds: int) -> list[Speed]:
    """Speed of each subject at a prompt of `prompt` tokens and `tokens` decoded ones; one unmeasured warm-up round."""
    figures: list[list[tuple[float, float]]] = [[] for _ in subjects]
    for turn in range(rounds + 1):
        for subject, rates in zip(subjects, figures):
            prefill, decode = subject.run(prompt, tokens)
            if turn:
                rates.append((prompt / prefill, tokens / decode))
    return [
        Speed(
            subject.name,
            statistics.median(r[0] for r in rates),
            statistics.median(r[1] for r in rates),
            tuple((round(p, 1), round(d, 1)) for p, d in rates),
        )
        for subject, rates in zip(subjects, figures)
    ]
