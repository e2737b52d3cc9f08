"""What tests of the service and the API share: a model that is only a script, and servers of it on loopback."""

from __future__ import annotations

import contextlib
import queue
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

import senryu.models
from senryu.api.app import create_app
from senryu.api.lifetime import Drain
from senryu.api.server import DrainServer, listen
from senryu.config import Settings
from senryu.engine.fake import FakeEngine
from senryu.engine.grammar import GrammarCompiler
from senryu.engine.interface import TokenRequest
from senryu.model.template import ChatTemplate
from senryu.model.tokenizer import Tokenizer
from senryu.service.limits import Limits
from senryu.service.registry import MINI, LoadedModel, Registry

TEMPLATE = Path(senryu.models.__path__[0]) / "mini" / "chat_template.jinja"
SPECIALS = ["<|pad|>", "<|begin|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|tools|>", "<|call|>", "<|result|>"]
END = SPECIALS.index("<|end|>")
Reply = Callable[[TokenRequest], Sequence[int]]


def byte_tokenizer(specials: Sequence[str] = SPECIALS, end: str = "<|end|>", added: Sequence[str] = ()) -> Tokenizer:
    """One token a byte, after the special tokens: counts are easy to foretell, and characters span tokens.

    added: tokens behind them that are text all the same.
    """
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {text: id for id, text in enumerate([*specials, *letters])}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(list(specials))
    backend.add_tokens([tokenizers.AddedToken(text, normalized=False) for text in added])
    return Tokenizer(backend, [vocabulary[end]])


TOKENIZER = byte_tokenizer()
GRAMMARS = GrammarCompiler(TOKENIZER, len(SPECIALS) + 256)


class Clock:
    """Nanoseconds that go on by hand."""

    def __init__(self) -> None:
        self.now = 12_345_678_901

    def __call__(self) -> int:
        return self.now


def says(text: str) -> Reply:
    """The model answers `text` and ends."""
    ids = [*TOKENIZER.encode(text), END]
    return lambda request: ids


def scripted_model(
    reply: Reply | None = None, *, limits: Limits | None = None, name: str = MINI, **options: object
) -> LoadedModel:
    """A model that answers by `reply`; without one it invents text and never ends by itself. `options` are FakeEngine's."""
    how = {"grammars": GRAMMARS, "tokens": range(len(SPECIALS), len(SPECIALS) + 256)} | options
    engine = FakeEngine(reply, **how)  # type: ignore[arg-type]
    template = ChatTemplate(TEMPLATE.read_text(), TOKENIZER.special_tokens)
    created = datetime(2026, 11, 22, tzinfo=UTC)
    return LoadedModel(name, engine, TOKENIZER, template, engine.program.spec, limits or Limits(), created)


def idle(model: LoadedModel) -> bool:
    """No request holds a page."""
    stats = model.engine.stats()
    return stats.queued == stats.running == stats.pages_live == 0


@contextlib.contextmanager
def serving(model: LoadedModel, send_buffer: int | None = None, **settings: object) -> Iterator[str]:
    """A real server of `model` on a free loopback port, with a home of its own; the base URL. `send_buffer`: bytes the system
    buffers at most."""
    with tempfile.TemporaryDirectory() as home:
        chosen = replace(Settings(home=Path(home), port=0), **settings)  # type: ignore[arg-type]
        with serving_with(model, chosen, send_buffer) as url:
            yield url


@contextlib.contextmanager
def serving_with(model: LoadedModel, chosen: Settings, send_buffer: int | None = None) -> Iterator[str]:
    """`serving` with settings, and the home that they name, which the test can look into."""
    drain, urls = Drain(), queue.Queue[str]()
    server = DrainServer(create_app(Registry([model]), chosen, drain), chosen, drain, urls.put)
    sock = listen(chosen.host, 0)
    if send_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)  # accepted sockets inherit it
    thread = threading.Thread(target=server.run_until_stopped, args=(sock,))
    thread.start()
    try:
        yield urls.get(timeout=60)
    finally:
        server.handle_exit(0, None)
        server.handle_exit(0, None)
        thread.join(timeout=60)
        assert not thread.is_alive()
