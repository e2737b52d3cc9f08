"""The application without sockets: every request runs on an event loop of the test's own thread, to its end."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import tempfile
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx

from senryu.api.app import create_app
from senryu.config import Settings
from senryu.service.registry import LoadedModel, Registry
from serving import idle

URL = "http://127.0.0.1"


class Failures(logging.Handler):
    """What the server logs as an error of its own, as it does with what becomes a 500 or breaks a stream."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(self.format(record))


class Application:
    """One, started. It runs only while a request does."""

    def __init__(self, runner: asyncio.Runner, client: httpx.AsyncClient, app: Any, model: LoadedModel) -> None:
        self._runner, self._client = runner, client
        self.app, self.model = app, model
        self.failures = Failures()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """The result of `work`, which sees the caller's context variables."""
        return self._runner.run(work, context=contextvars.copy_context())

    def ask(self, method: str, path: str, **how: Any) -> httpx.Response:
        """The whole answer to a request. Raises what the application raises, and AssertionError for an error that it logs."""
        response: httpx.Response = self.run(self._client.request(method, URL + path, **how))
        assert not self.failures.found, self.failures.found
        return response

    def rests(self) -> bool:
        """Whether no request holds a page, once batches have come to their end."""

        async def wait() -> None:
            for _ in range(3000):
                if idle(self.model):
                    return
                await asyncio.sleep(0.02)

        self.run(wait())
        stats = self.model.engine.stats()
        return idle(self.model) and stats.pages_free + stats.pages_cached == stats.pages_total


@contextmanager
def application(model: LoadedModel, **settings: object) -> Iterator[Application]:
    """The application over `model`, with a home of its own."""
    with tempfile.TemporaryDirectory() as home, asyncio.Runner() as runner:
        chosen = replace(Settings(home=Path(home), port=0), **settings)  # type: ignore[arg-type]
        app = create_app(Registry([model]), chosen)
        stop = asyncio.Event()

        async def live(started: asyncio.Event) -> None:
            async with app.router.lifespan_context(app):
                started.set()
                await stop.wait()

        async def start() -> asyncio.Task[None]:
            started = asyncio.Event()
            life = asyncio.create_task(live(started))
            waiting = asyncio.create_task(started.wait())
            await asyncio.wait({life, waiting}, return_when=asyncio.FIRST_COMPLETED)
            return life

        life = runner.run(start())
        client = httpx.AsyncClient(transport=httpx.ASGITransport(app), timeout=None)
        one = Application(runner, client, app, model)
        logging.getLogger("senryu").addHandler(one.failures)
        try:
            yield one
        finally:
            logging.getLogger("senryu").removeHandler(one.failures)
            stop.set()
            runner.run(client.aclose())
            runner.run(_end(life))


async def _end(life: asyncio.Task[None]) -> None:
    await life
