"""A server for what a model does not do when it is told to: it answers by a script, and its engine fails midway when asked to.

`python -m tests.clients.stage`, with a config.toml in SENRYU_HOME. All but the model is what `senryu serve` serves.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any, cast

from tests.clients.checks import BREAK_OFF, EDIT_TASK
from tests.serving import END, TOKENIZER, scripted_model

from senryu.api.app import check_start, serve_model
from senryu.config import load_settings
from senryu.engine.interface import Engine, TokenEvent, TokenRequest
from senryu.service.registry import LoadedModel, Registry

HELLO = "Hello! I am a scripted model and say the same to everyone."
TALE = "Two ships lie in the harbour and a third one is on its way. " * 8
COMMIT = "feat: Greet from Ithra"
EDIT = """\
greet() now names the town.

greeting.py
```python
<<<<<<< SEARCH
    return "Hello"
=======
    return "Hello from Ithra"
>>>>>>> REPLACE
```
"""
SCRIPT = (("Git commit message", COMMIT), (EDIT_TASK, EDIT), (BREAK_OFF, TALE), ("", HELLO))  # first match first
TOKENS_BEFORE_THE_END = 40


def reply(request: TokenRequest) -> list[int]:
    """The answer to a prompt by what stands in it."""
    prompt = TOKENIZER.decode(request.ids)
    answer = next(answer for words, answer in SCRIPT if words in prompt)
    return [*TOKENIZER.encode(answer), END]


class Breaking:
    """An engine of which requests with BREAK_OFF see a step fail after a few tokens, as `Engine.generate` says."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def generate(self, request: TokenRequest) -> AsyncGenerator[TokenEvent, None]:
        """See `Engine.generate`."""
        events = cast(AsyncGenerator[TokenEvent, None], self._engine.generate(request))
        return broken(events) if BREAK_OFF in TOKENIZER.decode(request.ids) else events


async def broken(events: AsyncGenerator[TokenEvent, None]) -> AsyncGenerator[TokenEvent, None]:
    """The first tokens of `events`, and the error."""
    left = TOKENS_BEFORE_THE_END
    async with aclosing(events):
        async for event in events:
            yield TokenEvent(event.tokens[:left], event.cached)
            left -= len(event.tokens)
            if left <= 0:
                raise RuntimeError("the engine's step failed: it was asked to")


def stage_model() -> LoadedModel:
    """The scripted model."""
    model = scripted_model(reply)
    return replace(model, engine=cast(Engine, Breaking(model.engine)))


def main() -> None:
    """Serve until SIGTERM."""
    settings = load_settings()
    check_start(settings)
    ready = f"Ready. ANTHROPIC_BASE_URL={{}}   (a scripted model, {settings.home.name})"
    serve_model(Registry([stage_model()]), settings, ready=lambda url: print(ready.format(url), file=sys.stderr, flush=True))


if __name__ == "__main__":
    main()
