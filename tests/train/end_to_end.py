"""`make train-toy`: every stage of the toy recipe from this repository's own text, then the model is served and asked.

python -m tests.train.end_to_end [RUN]
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

from senryu.config import load_settings
from senryu.evals.startup import served

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes" / "toy.toml"
SENRYU = (sys.executable, "-c", "from senryu.cli import main; main()")
QUESTION = "Hello!"


def train(out: Path) -> None:
    """All stages, as a user runs them."""
    command = [*SENRYU, "train", "all", RECIPE, "--data", ROOT, "--out", out, "--no-compile"]
    subprocess.run(list(map(str, command)), cwd=ROOT, check=True)


def report(out: Path) -> str:
    """The table of stages."""
    command = [*SENRYU, "train", "report", "--out", out]
    return subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True).stdout


def ask(out: Path, question: str = QUESTION) -> dict[str, Any]:
    """The answer's body from a server of the trained model, through /v1/messages."""
    with served(f"path:{out / 'model'}", load_settings()) as server:
        name = call(f"{server.url}/v1/models")["data"][0]["id"]
        messages = [{"role": "user", "content": question}]
        return call(f"{server.url}/v1/messages", {"model": name, "max_tokens": 40, "temperature": 0, "messages": messages})


def call(url: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """The JSON that an address answers."""
    headers = {"content-type": "application/json", "anthropic-version": "2023-06-01"}
    request = urllib.request.Request(url, json.dumps(body).encode() if body else None, headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)  # type: ignore[no-any-return]


def main(out: Path) -> None:
    """Everything, with the time that it took."""
    began = time.monotonic()
    train(out)
    print(report(out))
    answer = ask(out)
    print(f"> {QUESTION}\n{''.join(block['text'] for block in answer['content'])}\n")
    print(f"trained, served and asked in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            main(Path(folder) / "run")
