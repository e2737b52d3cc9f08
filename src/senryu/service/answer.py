"""The engine's tokens -> the blocks of an answer, as events: whole characters, stop strings, where the answer ends."""

from __future__ import annotations

from collections.abc import Iterator

from senryu.engine.interface import TokenEvent
from senryu.service.registry import LoadedModel
from senryu.service.stops import StopWatcher
from senryu.types import BlockStarted, BlockStopped, Event, StopReason, Text, TextDelta, Turn


class Answer:
    """One answer being written: push the engine's events until `done`.

    output_tokens: every token counts, the stop id too. stop_reason, stop_sequence: valid once `done`.
    """

    def __init__(self, model: LoadedModel, turn: Turn) -> None:
        self.done = False
        self.output_tokens = 0
        self.stop_reason: StopReason = "end_turn"
        self.stop_sequence: str | None = None
        self._stop_ids = model.tokenizer.eos_ids
        self._decoder = model.tokenizer.decoder()
        self._watcher = StopWatcher(turn.stop_sequences)
        self._text: list[str] = []

    def push(self, event: TokenEvent) -> Iterator[Event]:
        """What `event` adds to the answer. After it has made the answer `done`, push no more."""
        pieces = []
        for token in event.tokens:
            self.output_tokens += 1
            if token not in self._stop_ids:
                piece, self.stop_sequence = self._watcher.push(self._decoder.push([token]))
                pieces.append(piece)
                if self.stop_sequence is not None:
                    break
        if event.finish is not None and self.stop_sequence is None:
            piece, self.stop_sequence = self._watcher.push(self._decoder.flush())
            pieces += [piece, self._watcher.flush()]
            self.stop_reason = "max_tokens" if event.finish == "length" else "end_turn"
        if self.stop_sequence is not None:
            self.stop_reason = "stop_sequence"
        yield from self._show("".join(pieces))
        self.done = self.stop_sequence is not None or event.finish is not None
        if self.done and self._text:
            yield BlockStopped(Text("".join(self._text)))

    def _show(self, text: str) -> Iterator[Event]:
        if text:
            if not self._text:
                yield BlockStarted(Text(""))
            self._text.append(text)
            yield TextDelta(text)
