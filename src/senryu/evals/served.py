"""What the server costs over the bare engine: time to first token, and CPU time per streamed token, over real HTTP."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from senryu.config import Settings
from senryu.evals.speed import EngineSubject, Figure
from senryu.evals.startup import Server, served

PROMPT_WORDS, STREAMED = 128, 1024  # of a prompt for the first token; tokens streamed in a round, at least
REQUESTS = 32  # for one token each, in a round


class Client:
    """One connection to a server, kept alive as SDKs do."""

    def __init__(self, server: Server, key: str | None) -> None:
        address = urlsplit(server.url)
        self.connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=600)
        self.headers = {"content-type": "application/json", "anthropic-version": "2023-06-01", "x-api-key": key or "any"}

    def events(self, text: str, max_tokens: int, marked: str = "") -> Iterator[dict[str, Any]]:
        """The server-sent events of one streamed message, greedy. marked: a system prompt with a cache breakpoint behind it."""
        body: dict[str, Any] = {
            "model": "senryu-mini",
            "max_tokens": max_tokens,
            "stream": True,
            "messages": [{"role": "user", "content": text}],
        }
        if marked:
            body["system"] = [{"type": "text", "text": marked, "cache_control": {"type": "ephemeral"}}]
        self.connection.request("POST", "/v1/messages", json.dumps(body), self.headers)
        answer = self.connection.getresponse()
        if answer.status != 200:
            raise RuntimeError(f"the server answered {answer.status}: {answer.read().decode()}")
        for line in answer:
            if line.startswith(b"data: "):
                yield json.loads(line.removeprefix(b"data: "))

    def first(self, text: str, marked: str = "") -> tuple[float, dict[str, Any]]:
        """Seconds to the first token of an answer to `text`, and the usage that the answer began with."""
        start = time.perf_counter()
        seconds, usage = 0.0, {}
        for event in self.events(text, 1, marked):
            if event["type"] == "message_start":
                usage = event["message"]["usage"]
            elif event["type"] in ("content_block_delta", "message_delta") and not seconds:
                seconds = time.perf_counter() - start  # a first token without text comes with the end
        return seconds, usage

    def stream(self, text: str, max_tokens: int) -> int:
        """Tokens of the streamed answer."""
        return sum(
            event["usage"]["output_tokens"] for event in self.events(text, max_tokens) if event["type"] == "message_delta"
        )

    def close(self) -> None:
        self.connection.close()


def server_cost(subject: EngineSubject, ref: str, settings: Settings, rounds: int) -> list[Figure]:
    """Server and bare engine in turns: ms of TTFT more for prompts of one length; CPU microseconds of a streamed token.

    CPU time is that of the server's main thread, which does everything but the engine's steps, less what the bare engine's
    consumer takes for the same. Answers end where the model ends them, so that what their requests take is in the figure; a
    third one, what a request for a single token takes in all, tells the two apart. Left out where the system does not account
    threads.
    """
    rng = np.random.default_rng(0)
    later, more, single = [], [], []
    with served(ref, settings) as server:
        client = Client(server, settings.api_key)
        for _ in range(rounds + 1):
            text = " ".join(str(n) for n in rng.integers(100, 999, PROMPT_WORDS))
            seconds, usage = client.first(text)
            length = usage["input_tokens"]
            later.append((seconds - subject.first(subject.prompt(length))) * 1e3)
            if (cpu := _per_token(client, server, rng)) is not None:
                more.append(cpu - _bare_per_token(subject))
            if (cpu := _per_request(client, server, rng)) is not None:
                single.append(cpu)
        client.close()
    figures = [Figure("server_ttft_extra", length, subject.name, "ms", tuple(later[1:]))]
    if more:
        figures.append(Figure("server_cpu_per_token", None, subject.name, "us", tuple(more[1:])))
        figures.append(Figure("server_cpu_per_request", None, subject.name, "us", tuple(single[1:])))
    return figures


def cached_prefix(name: str, ref: str, settings: Settings, length: int, rounds: int) -> list[Figure]:
    """First token behind a marked prefix of about `length` tokens, written into the prompt cache and then read from it.

    Raises RuntimeError when the answers do not bill it so.
    """
    rng = np.random.default_rng(1)
    written, read, tokens = [], [], 0
    with served(ref, settings) as server:
        client = Client(server, settings.api_key)
        sample = "".join(map(str, rng.integers(1000, 9999, 100)))
        words = round(length * 100 / client.first(sample)[1]["input_tokens"])
        for _ in range(rounds + 1):
            marked = "".join(map(str, rng.integers(1000, 9999, words)))
            cold, first = client.first("And now?", marked)
            warm, second = client.first("And now?", marked)
            tokens = first["cache_creation_input_tokens"]
            if not tokens or second["cache_read_input_tokens"] != tokens:
                raise RuntimeError(f"the prefix was written as {first} and read as {second}")
            written.append(cold * 1e3)
            read.append(warm * 1e3)
        client.close()
    return [Figure(f"ttft_{way}", tokens, name, "ms", tuple(took[1:])) for way, took in (("written", written), ("read", read))]


def _per_token(client: Client, server: Server, rng: np.random.Generator) -> float | None:
    before, tokens = _main_thread_ns(server.pid), 0
    if before is None:
        return None
    while tokens < STREAMED:
        tokens += client.stream(f"Write a long story about {rng.integers(10**6)} rivers.", STREAMED)
    after = _main_thread_ns(server.pid)
    assert after is not None
    return (after - before) / 1e3 / tokens


def _per_request(client: Client, server: Server, rng: np.random.Generator) -> float | None:
    before = _main_thread_ns(server.pid)
    if before is None:
        return None
    for _ in range(REQUESTS):
        client.stream(f"Write a long story about {rng.integers(10**6)} rivers.", 1)
    after = _main_thread_ns(server.pid)
    assert after is not None
    return (after - before) / 1e3 / REQUESTS


def _bare_per_token(subject: EngineSubject) -> float:
    ids = subject.prompt(16)
    start = time.thread_time_ns()
    subject.runner.run(subject.stream(ids, STREAMED))
    return (time.thread_time_ns() - start) / 1e3 / STREAMED


def _main_thread_ns(pid: int) -> int | None:
    """CPU time of a process's first thread in nanoseconds; None where the system does not tell."""
    try:
        return int(Path(f"/proc/{pid}/task/{pid}/schedstat").read_text().split()[0])
    except (OSError, ValueError):
        return None
