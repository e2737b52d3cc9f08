"""The engine's tokens -> the blocks of an answer, as events: whole characters, stop strings, calls, where the answer ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from senryu.engine.interface import TokenEvent
from senryu.service.calls import ArgumentsPart, CallParser, CallStarted, CallStopped, Part, TextPart, marks
from senryu.service.ids import new_id
from senryu.service.registry import LoadedModel
from senryu.service.stops import StopWatcher
from senryu.service.toolcheck import failures, read_arguments
from senryu.service.tools import Plan
from senryu.types import BlockStarted, BlockStopped, Event, InputDelta, StopReason, Text, TextDelta, Tool, ToolUse, Turn


class Answer:
    """One answer being written: push the engine's events until `done`.

    output_tokens: every token counts, the stop id too. stop_reason, stop_sequence: valid once `done`.
    calls: those that were finished; tool_errors: how many of them are wrong, by what is, complete after `check_calls`.
    """

    def __init__(self, model: LoadedModel, turn: Turn, plan: Plan) -> None:
        self.done = False
        self.output_tokens = 0
        self.stop_reason: StopReason = "end_turn"
        self.stop_sequence: str | None = None
        self.calls = 0
        self.tool_errors: Counter[str] = Counter()  # by `Failure`
        self._finished: list[tuple[str, str]] = []  # name and arguments of calls that `check_calls` has not seen
        self._tools = turn.tools
        self._stop_ids = model.tokenizer.eos_ids
        self._decoder = model.tokenizer.decoder(continues=turn.raw is not None)
        self._watcher = StopWatcher(turn.stop_sequences)
        self._texts: list[str] = []  # of the text block that is open
        self._call: _Call | None = None  # the call that is open
        self._ends_with_call = False
        self._text_alone = not turn.stop_sequences and not plan.calls
        self._parser: CallParser | None = None
        self._marks: dict[int, str] = {}
        if plan.calls:
            found = marks(plan.calls, model.tokenizer.added_tokens)
            self._parser = CallParser(plan.calls, found, forced=plan.forced, begun=plan.begun)
            self._marks = {id: text for text, id in found.items()}

    def push(self, event: TokenEvent) -> list[Event]:
        """What `event` adds to the answer. After it has made the answer `done`, push no more."""
        if self._text_alone and event.finish is None and self._stop_ids.isdisjoint(event.tokens):
            self.output_tokens += len(event.tokens)
            return self._show_text(self._decoder.push(event.tokens))
        parts: list[Part] = []
        for token in event.tokens:
            self.output_tokens += 1
            if token not in self._stop_ids:
                parts += self._watch(self._parse(token))
                if self.stop_sequence is not None:
                    break
        if event.finish is not None and self.stop_sequence is None:
            parts += self._watch([*self._parsed(self._decoder.flush()), *(self._parser.flush() if self._parser else ())])
            if self.stop_sequence is None:
                parts.append(TextPart(self._watcher.flush()))
        self.done = self.stop_sequence is not None or event.finish is not None
        events = self._show(parts)
        if self.done:
            events += self._close_blocks()
            self.stop_reason = self._reason(event)
        return events

    def check_calls(self) -> None:
        """Compare the finished calls with their schemas. Slow for large ones: for a thread beside asyncio's."""
        self.tool_errors.update(failures(self._finished, self._tools))
        self._finished = []

    def _reason(self, event: TokenEvent) -> StopReason:
        if self.stop_sequence is not None:
            return "stop_sequence"
        if event.finish == "length":
            return "max_tokens"
        return "tool_use" if self._ends_with_call else "end_turn"

    def _parse(self, token: int) -> list[Part]:
        mark = self._marks.get(token)
        if mark is None or self._parser is None:
            return self._parsed(self._decoder.push([token]))
        return [*self._parsed(self._decoder.flush()), *self._parser.mark(mark)]

    def _parsed(self, text: str) -> list[Part]:
        if self._parser is not None:
            return self._parser.push(text)
        return [TextPart(text)] if text else []

    def _watch(self, parts: list[Part]) -> list[Part]:
        """The parts up to a stop string in their text; what a call says is nobody's stop."""
        seen: list[Part] = []
        for part in parts:
            if isinstance(part, TextPart):
                text, self.stop_sequence = self._watcher.push(part.text)
                seen.append(TextPart(text))
                if self.stop_sequence is not None:
                    break
            else:
                if isinstance(part, CallStarted):
                    seen.append(TextPart(self._watcher.flush()))
                seen.append(part)
        return seen

    def _show(self, parts: list[Part]) -> list[Event]:
        """Parts as events; neighbouring text is one delta."""
        events: list[Event] = []
        text: list[str] = []
        for part in parts:
            if isinstance(part, TextPart):
                text.append(part.text)
            else:
                events += self._show_text("".join(text))
                text = []
                events += self._show_call(part)
        events += self._show_text("".join(text))
        return events

    def _show_text(self, text: str) -> list[Event]:
        if not text:
            return []
        begun = [] if self._texts else [*self._close_blocks(), BlockStarted(Text(""))]
        self._ends_with_call = False
        self._texts.append(text)
        return [*begun, TextDelta(text)]

    def _show_call(self, part: CallStarted | ArgumentsPart | CallStopped) -> Iterator[Event]:
        match part:
            case CallStarted(name):
                yield from self._close_blocks()
                self._call = _Call(name, self._tools)
                yield BlockStarted(ToolUse(self._call.id, name, {}))
            case ArgumentsPart() if self._call:
                if delta := self._call.add(part):
                    yield InputDelta(delta)
            case CallStopped(broken):
                if broken or not self._call:
                    self.tool_errors["invalid_json"] += 1
                else:
                    self._finished.append((self._call.name, self._call.written()))
                self.calls += 1
                yield from self._close_blocks()
                self._ends_with_call = not broken

    def _close_blocks(self) -> Iterator[Event]:
        if self._texts:
            text, self._texts = "".join(self._texts), []
            yield BlockStopped(Text(text))
        if self._call:
            call, self._call = self._call, None
            if delta := call.close():
                yield InputDelta(delta)
            yield BlockStopped(ToolUse(call.id, call.name, call.input()))


class _Call:
    """A call that is being written. Its input streams by key and value, so that its deltas are JSON also when it is cut; an
    eager tool's streams as it comes."""

    def __init__(self, name: str, tools: tuple[Tool, ...]) -> None:
        self.id = new_id("toolu_")
        self.name = name
        self._eager = any(tool.eager for tool in tools if tool.name == name)
        self._written: list[str] = []
        self._whole = ""  # up to the last key and value that are complete
        self._sent = 0  # characters
        self._complete = False

    def add(self, part: ArgumentsPart) -> str:
        """What is to be sent now."""
        self._written.append(part.json)
        if part.whole:
            self._whole = "".join(self._written)
            self._written = [self._whole]
            self._complete = part.last
        if self._eager:
            return part.json
        return self._send(self._whole)

    def close(self) -> str:
        """What is to be sent at last: the end of an input that was cut. An eager one ends where it was cut."""
        if self._eager and self._written:
            return ""
        return self._send(self._closed())

    def input(self) -> dict[str, Any]:
        """The keys that are complete, with their values."""
        try:
            value = read_arguments(self._closed())
        except (ValueError, RecursionError):
            return {}
        return value if isinstance(value, dict) else {}

    def written(self) -> str:
        """All of its input, once it is finished."""
        return "".join(self._written)

    def _closed(self) -> str:
        return self._whole if self._complete else self._whole + "}" if self._whole else "{}"

    def _send(self, text: str) -> str:
        new, self._sent = text[self._sent :], max(self._sent, len(text))
        return new
