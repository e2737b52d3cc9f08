"""Message threads: a conversation stays here under the id of its last answer, so that the next turn brings only what is new.

In memory and best effort: a thread is gone five minutes after its last answer, when others need its room, and with the process;
its memory is given back with the next turn of any thread. Whoever asks for one that is gone sends the whole conversation again.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from senryu.errors import SenryuError
from senryu.types import Block, BlockStopped, Document, Event, Finished, Message, Pdf, Started, Text, ToolResult, Turn

LIFETIME = 300.0  # seconds
MOST_BYTES = 128 << 20  # of all conversations together, about
MOST_CONTINUED = 100_000  # answers that are known to be continued already
TOKEN_BYTES, BLOCK_BYTES, THREAD_BYTES = 4, 512, 4096

Key = tuple[str, str]  # tenant, id of an answer


@dataclass(frozen=True, slots=True)
class _Kept:
    """turn: up to and with the answer. fixed: what every turn of the thread must say alike. at: when the answer was kept."""

    turn: Turn
    fixed: dict[str, Any]
    size: int
    at: float


class Threads:
    """The threads of one process, each tenant's apart. clock: seconds. most: bytes, beyond which the oldest go."""

    def __init__(self, clock: Callable[[], float], most: int = MOST_BYTES) -> None:
        self._clock, self._most = clock, most
        self._held = 0  # bytes of those that wait
        self._waiting: OrderedDict[Key, _Kept] = OrderedDict()
        self._running: dict[Key, _Kept] = {}
        self._continued: OrderedDict[Key, float] = OrderedDict()

    @contextmanager
    def joined(self, turn: Turn) -> Iterator[ThreadTurn]:
        """A turn that has a thread, as one of the whole conversation. An answer that is not complete when the context ends is
        not kept, and the one before it may be continued again.

        Raises SenryuError when what is to be continued is gone, was continued or is being continued, and for a turn that
        changes what a thread keeps.
        """
        assert turn.thread is not None
        if turn.thread.previous is None:
            yield ThreadTurn(self, turn)
            return
        key = turn.tenant, turn.thread.previous
        kept = self._find(key)
        whole = _join(kept, turn)
        self._forget(key)
        self._running[key] = kept
        try:
            yield ThreadTurn(self, whole, key)
        finally:
            if self._running.pop(key, None):
                self._wait(key, kept)

    def keep(self, turn: Turn, answer: str, size: int, previous: Key | None) -> None:
        """The conversation with the complete answer of id `answer`, which took the place of `previous`. size: bytes, about."""
        self._expire()
        now = self._clock()
        if previous is not None:
            del self._running[previous]
            self._continued[previous] = now
            if len(self._continued) > MOST_CONTINUED:
                self._continued.popitem(last=False)
        self._wait((turn.tenant, answer), _Kept(turn, _fixed(turn), size, now))

    def _find(self, key: Key) -> _Kept:
        self._expire()
        if key in self._running:
            raise SenryuError("thread_in_flight")
        if key in self._continued:
            raise SenryuError("thread_continued")
        kept = self._waiting.get(key)
        if kept is None or kept.at <= self._clock() - LIFETIME:  # one that was tried before stands behind younger ones
            raise SenryuError("thread_not_found")
        return kept

    def _wait(self, key: Key, kept: _Kept) -> None:
        """`kept` may be continued. One that is larger than all may be together is not kept."""
        if kept.size > self._most:
            return
        self._waiting[key] = kept
        self._held += kept.size
        while self._held > self._most:
            self._forget(next(iter(self._waiting)))

    def _forget(self, key: Key) -> None:
        self._held -= self._waiting.pop(key).size

    def _expire(self) -> None:
        end = self._clock() - LIFETIME
        while self._waiting and (oldest := next(iter(self._waiting.items())))[1].at <= end:
            self._forget(oldest[0])
        while self._continued and next(iter(self._continued.values())) <= end:
            self._continued.popitem(last=False)


class ThreadTurn:
    """A turn of a thread. turn: the whole conversation, to be answered. Show it the answer's events."""

    def __init__(self, threads: Threads, turn: Turn, previous: Key | None = None) -> None:
        self.turn = turn
        self._threads, self._previous = threads, previous
        self._answer = ""
        self._blocks: list[Block] = []

    def see(self, event: Event) -> None:
        """Keeps the conversation with the last event, before its reader can ask to continue it."""
        match event:
            case Started():
                self._answer = event.id
            case BlockStopped():
                self._blocks.append(event.block)
            case Finished(usage=usage):
                written = usage.cache_write_5m + usage.cache_write_1h + usage.output_tokens
                tokens = usage.input_tokens + usage.cache_read + written
                turn = replace(self.turn, messages=_with_answer(self.turn.messages, self._blocks))
                size = THREAD_BYTES + TOKEN_BYTES * tokens + sum(_size(message.content) for message in turn.messages)
                self._threads.keep(turn, self._answer, size, self._previous)


def _with_answer(messages: tuple[Message, ...], blocks: Iterable[Block]) -> tuple[Message, ...]:
    """Breakpoints are each request's own. A blank text, which a model may write, is none that a conversation may hold."""
    answer = tuple(block for block in blocks if not isinstance(block, Text) or block.text.strip())
    plain = (Message(message.role, tuple(_plain(block) for block in message.content)) for message in messages)
    said = (message for message in plain if message.content)  # an empty prefill says nothing
    return (*said, Message("assistant", answer)) if answer else tuple(said)


def _plain(block: Block) -> Block:
    return replace(block, cache=None) if block.cache else block


def _size(blocks: Iterable[Block]) -> int:
    """Bytes beside the tokens: objects, and the files and cited texts that no token of the prompt stands for."""
    size = 0
    for block in blocks:
        size += BLOCK_BYTES
        match block:
            case Text():
                size += sum(len(citation.text) for citation in block.citations)
            case ToolResult():
                size += _size(block.content)
            case Document(source=Pdf(data)):
                size += len(data)
    return size


def _join(kept: _Kept, turn: Turn) -> Turn:
    """The conversation with the turn's messages."""
    for name, value in (("system", turn.system), ("tools", turn.tools)):
        if value:
            raise SenryuError("thread_keeps", field=name)
    given = _fixed(turn)
    if changed := [name for name, value in kept.fixed.items() if given[name] != value]:
        raise SenryuError("thread_mismatch", fields=", ".join(changed))
    if not turn.messages:
        raise SenryuError("no_messages")
    before = kept.turn
    return replace(turn, system=before.system, tools=before.tools, messages=before.messages + turn.messages)


def _fixed(turn: Turn) -> dict[str, Any]:
    """By the request's names. A schema may be large, and is known by its hash."""
    schema = hashlib.sha256(json.dumps(turn.output_schema).encode()).digest()
    return {"model": turn.model, "tool_choice": turn.tool_choice, "cache_control": turn.cache, "output_config": schema}
