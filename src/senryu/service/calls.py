"""How each model family writes a tool call, as data, and the one parser that reads them all as they stream. Knows no tools.

    start opening { before_name NAME middle ARGUMENTS after } closing        calls of their own: one start each
    start opening { ... } between { ... } closing                            a list of calls behind one start

A format's texts may name tokens that the model has for them. Those are met by id alone: spelled in letters they are text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import astuple, dataclass

import msgspec


@dataclass(frozen=True, slots=True)
class CallFormat:
    """What a family's chat template writes for an assistant's calls, and hence what its models write.

    lead: before each start when something stands before it.
    between: between two calls of one list; "" where every call has a start of its own.
    anchored: a call is the whole message, so that `start` counts at the beginning of an answer only; one call a message,
    with no text beside it.
    id_length: letters of the ids that the template takes, 0 for any.
    item_separator, key_separator: as in the JSON of arguments.
    """

    name: str
    start: str
    before_name: str = '{"name": "'
    middle: str = '", "arguments": '
    after: str = "}"
    opening: str = ""
    closing: str = ""
    lead: str = ""
    between: str = ""
    anchored: bool = False
    id_length: int = 0
    item_separator: str = ", "
    key_separator: str = ": "


OURS = CallFormat("senryu", start="<|call|>")
HERMES = CallFormat("hermes", start="<tool_call>", opening="\n", closing="\n</tool_call>", lead="\n")
LLAMA3 = CallFormat("llama 3", start='{"name": "', before_name="", middle='", "parameters": ', anchored=True)
MISTRAL = CallFormat("mistral", start="[TOOL_CALLS]", opening=" [", between=", ", closing="]", id_length=9)
MISTRAL_ARGS = CallFormat(
    "mistral args", start="[TOOL_CALLS]", before_name="", middle="[ARGS]", after="", id_length=9
)  # of the 2025 models


def detect(template: str) -> CallFormat | None:
    """The format of the model whose chat template has this text; None when it has none that is known here."""
    if "<|call|>" in template:
        return OURS
    if "<tool_call>" in template:
        return None if "<function=" in template else HERMES  # that one writes arguments as tags, not as JSON
    if "[TOOL_CALLS]" in template:
        return MISTRAL_ARGS if "[ARGS]" in template else MISTRAL
    if "<|start_header_id|>" in template and '"parameters": ' in template:
        return LLAMA3
    return None


def marks(form: CallFormat, added_tokens: Mapping[str, int]) -> dict[str, int]:
    """Text -> id of the model's tokens (its added ones are given) that the format is written with."""
    texts = [text for text in astuple(form)[1:] if isinstance(text, str)]
    return {token: id for token, id in added_tokens.items() if len(token) > 1 and any(token in text for text in texts)}


class TextPart(msgspec.Struct, frozen=True):  # two for each token of an answer: cheaper to make than a dataclass
    """Text outside of calls."""

    text: str


@dataclass(frozen=True, slots=True)
class CallStarted:
    """A call whose name is complete."""

    name: str


@dataclass(frozen=True, slots=True)
class ArgumentsPart:
    """More of a call's arguments. whole: with it a key and its value are complete; last: the whole object is."""

    json: str
    whole: bool = False
    last: bool = False


@dataclass(frozen=True, slots=True)
class CallStopped:
    """The call is over. broken: not written by the format; its name may never have come."""

    broken: bool = False


Part = TextPart | CallStarted | ArgumentsPart | CallStopped


def symbols(text: str, marks: Collection[str]) -> list[str]:
    """Text as the parser sees it: characters, and a token of `marks` as one symbol."""
    if not marks:
        return list(text)
    parts = re.split("(" + "|".join(map(re.escape, sorted(marks, key=len, reverse=True))) + ")", text)
    return [symbol for part in parts for symbol in ([part] if part in marks else part)]


class CallParser:
    """Reads an answer symbol by symbol; however it is cut into pieces, the joined parts are the same.

    White space that stands alone before a call is no text: a block of it could not be sent back. Of an answer that is cut,
    `flush` gives what text was held back; a call that is open then simply never stops.
    """

    def __init__(self, form: CallFormat, marks: Collection[str], *, forced: bool = False, begun: bool = False) -> None:
        """marks: see the function. forced: the answer has calls only. begun: it continues a text."""
        self._form = form
        self._forced = forced
        starts = [form.lead + form.start, form.start] if form.lead else [form.start]
        self._starts = [] if form.anchored and begun and not forced else [symbols(start, marks) for start in starts]
        self._to_name = symbols(form.opening + form.before_name, marks)
        self._middle = symbols(form.middle, marks)
        self._after = symbols(form.after, marks)
        self._between = symbols(form.between, marks)
        self._closing = symbols(form.closing, marks)
        self._before_next = [*self._between[1:], *symbols(form.before_name, marks)]
        self._read: Callable[[str], None] = self._in_text
        self._parts: list[Part] = []
        self._text: list[str] = []  # not yet in a part
        self._held: list[str] = []  # may be the beginning of a call
        self._blank: list[str] | None = []  # white space with no text before it; None behind text
        self._called = False
        self._open = False
        self._raw: list[str] = []  # of a call that has no name yet
        self._literal: list[str] = []  # what must come next
        self._then: Callable[[], None] = self._enter_text
        self._name: list[str] = []
        self._json: list[str] = []
        self._depth = 0
        self._quoted = self._escaped = False

    def push(self, text: str) -> list[Part]:
        """The parts that `text` completes."""
        for symbol in text:
            self._read(symbol)
        return self._take()

    def mark(self, token: str) -> list[Part]:
        """The same for one of `marks`, met by its id."""
        self._read(token)
        return self._take()

    def flush(self) -> list[Part]:
        """What is left when no more will come."""
        if self._read == self._in_text and not self._forced:
            for symbol in self._held:
                self._put(symbol)
            if self._blank and not self._called:
                self._text += self._blank
        self._held, self._blank = [], []
        return self._take()

    def _take(self) -> list[Part]:
        self._end_text()
        if self._json:
            self._part(ArgumentsPart("".join(self._json)))
            self._json = []
        parts, self._parts = self._parts, []
        return parts

    def _part(self, part: Part) -> None:
        self._end_text()
        self._parts.append(part)

    def _end_text(self) -> None:
        if self._text:
            self._parts.append(TextPart("".join(self._text)))
            self._text = []

    def _put(self, symbol: str) -> None:
        """A symbol of the text; a mark where it means nothing is no text either."""
        if len(symbol) != 1:
            return
        if self._blank is None:
            self._text.append(symbol)
        elif symbol.isspace():
            self._blank.append(symbol)
        else:
            self._text += [*self._blank, symbol]
            self._blank = None

    def _enter_text(self) -> None:
        self._read, self._blank = self._in_text, []

    def _in_text(self, symbol: str) -> None:
        self._held.append(symbol)
        while self._held:
            beginnings = [start for start in self._starts if start[: len(self._held)] == self._held]
            if self._held in beginnings:
                self._raw, self._held = self._held, []
                if self._form.anchored:
                    self._starts = []
                self._expect(self._to_name, self._enter_name)
            if beginnings:
                return
            self._put(self._held.pop(0))
            if self._form.anchored:
                self._starts = []

    def _expect(self, literal: list[str], then: Callable[[], None]) -> None:
        if literal:
            self._literal, self._then, self._read = literal, then, self._in_literal
        else:
            then()

    def _in_literal(self, symbol: str) -> None:
        if symbol != self._literal[0]:
            return self._break(symbol)
        self._keep_raw(symbol)
        self._expect(self._literal[1:], self._then)
        return None

    def _keep_raw(self, symbol: str) -> None:
        if not self._open:
            self._raw.append(symbol)

    def _enter_name(self) -> None:
        self._called = True
        self._read, self._name = self._in_name, []

    def _in_name(self, symbol: str) -> None:
        self._keep_raw(symbol)
        if symbol == self._middle[0]:
            self._open, self._raw = True, []
            self._part(CallStarted("".join(self._name)))
            self._expect(self._middle[1:], self._enter_arguments)
        elif len(symbol) != 1:
            self._raw.pop()
            self._break(symbol)
        else:
            self._name.append(symbol)

    def _enter_arguments(self) -> None:
        self._read, self._depth, self._quoted, self._escaped = self._in_arguments, 0, False, False

    def _in_arguments(self, symbol: str) -> None:
        if len(symbol) != 1 or (not self._depth and symbol != "{"):
            return self._break(symbol)
        if self._quoted:
            self._quoted = self._escaped or symbol != '"'
            self._escaped = not self._escaped and symbol == "\\"
        elif symbol == '"':
            self._quoted = True
        elif symbol in "{[":
            self._depth += 1
        elif symbol in "}]":
            self._depth -= 1
        elif symbol == "," and self._depth == 1:
            self._part(ArgumentsPart("".join(self._json), whole=True))
            self._json = []
        self._json.append(symbol)
        if not self._depth:
            self._part(ArgumentsPart("".join(self._json), whole=True, last=True))
            self._json = []
            self._expect(self._after, self._end_call)
        return None

    def _end_call(self) -> None:
        self._open = False
        self._part(CallStopped())
        if self._between:
            self._read = self._in_list
        else:
            self._expect(self._closing, self._enter_text)

    def _in_list(self, symbol: str) -> None:
        if symbol == self._between[0]:
            self._raw = [symbol]
            self._expect(self._before_next, self._enter_name)
        elif symbol == self._closing[0]:
            self._expect(self._closing[1:], self._enter_text)
        else:
            self._break(symbol)

    def _break(self, symbol: str) -> None:
        """Not written by the format, which no grammar of ours allows: what is left is text."""
        if self._json:
            self._part(ArgumentsPart("".join(self._json)))
            self._json = []
        self._part(CallStopped(broken=True))
        raw, self._raw, self._open = [*self._raw, symbol], [], False
        self._enter_text()
        for one in raw:
            self._put(one)
