"""What a programmer does with aider: its command, in a small git repository.

An edit needs an answer that mini cannot write: it comes from the scripted model of the stage. Mini answers such a task in words
that are of no use, which aider must bear.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from checks import BREAK_OFF, EDIT_TASK, Check, Outcome, arguments, lacks, long_text, report

MODEL = "anthropic/claude-3-5-haiku-20241022"
BEFORE = 'def greet() -> str:\n    return "Hello"\n'
AFTER = 'def greet() -> str:\n    return "Hello from Ithra"\n'
OPTIONS = (
    *("--model", MODEL, "--yes-always", "--no-check-update", "--analytics-disable", "--map-tokens", "0", "--no-pretty"),
    *(
        "--no-show-release-notes",
        "--no-show-model-warnings",
        "--no-detect-urls",
        "--no-gitignore",
        "--no-suggest-shell-commands",
    ),
)
METADATA = {  # what LiteLLM knows of the model, but for prefills: aider would have a model that repeats itself go on and on
    MODEL: {
        **{"litellm_provider": "anthropic", "mode": "chat", "supports_assistant_prefill": False},
        **{"max_tokens": 8192, "max_output_tokens": 8192, "max_input_tokens": 200_000},
    }
}
SCRIPTED = (
    "aider's edits, and what it reads from the cache, ran with scripted answers, since mini cannot write code; against mini "
    "itself aider ends without an error."
)


def git(where: Path, *command: str) -> str:
    told = subprocess.run(["git", *command], cwd=where, check=True, capture_output=True, text=True)
    return told.stdout


@contextmanager
def repository() -> Iterator[Path]:
    """A git repository with one file in it, in a folder that is aider's home."""
    with tempfile.TemporaryDirectory() as home:
        where = Path(home) / "repository"
        where.mkdir()
        git(where, "init", "--quiet")
        git(where, "config", "user.name", "Somebody")
        git(where, "config", "user.email", "somebody@example.com")
        (where / "greeting.py").write_text(BEFORE)
        git(where, "add", ".")
        git(where, "commit", "--quiet", "--message", "A greeting")
        yield where


@contextmanager
def aider(where: Path, url: str, task: str, *options: str, key: str = "") -> Iterator[Run]:
    """aider at work on `task`; it is stopped when the block ends."""
    metadata = where.parent / "metadata.json"
    metadata.write_text(json.dumps(METADATA))
    options = (*OPTIONS, *options, "--model-metadata-file", str(metadata), "--message", task, "greeting.py")
    environ = {**os.environ, "ANTHROPIC_API_BASE": url, "ANTHROPIC_API_KEY": key or GIVEN.key, "HOME": str(where.parent)}
    environ |= {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "PYTHONUNBUFFERED": "1"}
    environ |= {"REPEATED_STREAMING_CHUNK_LIMIT": "100000"}  # LiteLLM takes such repetition for a defect
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "aider", *options],
        cwd=where,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield Run(process)
    finally:
        process.kill()
        process.wait()


class Run:
    """What aider prints."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.said = ""

    def until(self, words: str) -> str:
        """All up to the line with `words`, which must come."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.said += line
            if words in line:
                return self.said
        raise AssertionError(f"aider ended without {words!r}: {self.said}")

    def whole(self) -> str:
        """All; it must end by itself, and well."""
        assert self._process.stdout is not None
        self.said += self._process.stdout.read()
        assert self._process.wait(60) == 0, self.said
        return self.said


def edit(option: str) -> Outcome:
    with repository() as where, aider(where, GIVEN.stage, EDIT_TASK, option) as run:
        said = run.whole()
        assert (where / "greeting.py").read_text() == AFTER, said
        log = git(where, "log", "--format=%s").splitlines()
    assert log == ["feat: Greet from Ithra", "A greeting"], said
    return Outcome("edited and committed", note=SCRIPTED)


def edit_streamed() -> Outcome:
    return edit("--stream")


def edit_whole() -> Outcome:
    return edit("--no-stream")


def mini(*options: str) -> str:
    """aider's own count of the tokens that it was told of."""
    with repository() as where, aider(where, GIVEN.url, "Add a function that says goodbye.", *options) as run:
        said = run.whole()
    return tokens_of(said)


def tokens_of(said: str) -> str:
    """What a run without any error used; an answer that was cut is none."""
    assert "litellm." not in said, said
    assert "Traceback" not in said, said
    found = re.search(r"Tokens: .*received|Output tokens: .*", said)
    assert found, said
    return found[0]


def nano_streamed() -> str:
    return mini("--stream")


def nano_whole() -> str:
    return mini("--no-stream")


def cache() -> Outcome:
    """The same question twice over a file that is long enough: what the first run writes, the second one reads."""
    told = []
    with repository() as where:
        (where / "harbour.txt").write_text(long_text())
        for _ in range(2):
            options = ("--no-stream", "--cache-prompts", "--read", "harbour.txt")
            with aider(where, GIVEN.stage, "Say hello.", *options) as run:
                told.append(tokens_of(run.whole()))
    assert "cache write" in told[0], told
    assert "cache hit" in told[1], told
    return Outcome(told[1], note=SCRIPTED)


def wrong_key() -> Outcome:
    with repository() as where, aider(where, GIVEN.url, EDIT_TASK, key="wrong") as run:
        run.until("litellm.AuthenticationError")
        assert (where / "greeting.py").read_text() == BEFORE
    return Outcome("says so and stops", "litellm.AuthenticationError")


def retries() -> Outcome:
    """Somebody else takes what the server has to give, until aider says that it waits."""
    with repository() as where, crowd() as enough, aider(where, GIVEN.limited, EDIT_TASK) as run:
        said = run.until("Retrying in")
        assert "litellm.RateLimitError" in said, said
        enough.set()
        run.whole()
        assert (where / "greeting.py").read_text() == AFTER, run.said
    return Outcome("waits, asks again and edits", "litellm.RateLimitError", SCRIPTED)


@contextmanager
def crowd() -> Iterator[threading.Event]:
    """A caller of the limited server who takes all of its requests, until the event is set."""
    body = json.dumps({"model": "senryu-mini", "max_tokens": 1, "messages": [{"role": "user", "content": "Hi"}]}).encode()
    headers = {"x-api-key": GIVEN.key, "anthropic-version": "2023-06-01", "content-type": "application/json"}
    enough = threading.Event()

    def ask() -> None:
        while not enough.wait(0.02):
            with contextlib.suppress(urllib.error.HTTPError):
                urllib.request.urlopen(urllib.request.Request(f"{GIVEN.limited}/v1/messages", body, headers)).read()

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield enough
    finally:
        enough.set()
        thread.join()


def mid_stream() -> Outcome:
    """It would ask again for two minutes, which need not be waited for."""
    with repository() as where, aider(where, GIVEN.stage, BREAK_OFF) as run:
        said = run.until("Retrying in")
        assert (where / "greeting.py").read_text() == BEFORE, said
    found = re.search(r"litellm\.\w+", said)
    assert found, said
    return Outcome("says so, edits nothing and asks again", found[0])


CHECKS: list[tuple[str, Check]] = [
    ("create", edit_whole),
    ("create", nano_whole),
    ("stream", edit_streamed),
    ("stream", nano_streamed),
    ("tools", lacks("aider asks for edits in words, not for calls of tools.")),
    ("structured output", lacks("aider asks for edits in words, not for JSON by a schema.")),
    ("cache", cache),
    ("documents", lacks("aider writes files into its messages, not into documents.")),
    ("batches", lacks("aider has no batches.")),
    ("count tokens", lacks("aider counts tokens itself.")),
    ("models", lacks("aider lists the models that its LiteLLM knows, not those of a server.")),
    ("errors", wrong_key),
    ("retries", retries),
    ("mid-stream", mid_stream),
]

if __name__ == "__main__":
    GIVEN = arguments()
    report(CHECKS)
