"""Calls are found in what models write, whatever the family and wherever the pieces are cut."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from families import FAMILIES, NO_CALLS, Family, written
from hypothesis import given, settings
from hypothesis import strategies as st

from senryu.service.calls import ArgumentsPart, CallParser, CallStarted, CallStopped, Part, TextPart, detect, symbols

NAMES = list(FAMILIES)
CALLS = [("weather", '{"city": "Zürich", "days": 1.5, "x": {"}": ["\\"", null]}}'), ("now", "{}")]


def parse(family: Family, pieces: list[list[str]], **how: bool) -> list[Part]:
    """The parts of an answer that comes in pieces of symbols."""
    parser = CallParser(family.calls, family.marks, **how)
    parts: list[Part] = []
    for piece in pieces:
        for symbol in piece:
            parts += parser.mark(symbol) if len(symbol) > 1 else parser.push(symbol)
    return joined([*parts, *parser.flush()])


def joined(parts: list[Part]) -> list[Part]:
    """Neighbouring text is one; a call's arguments are the same wherever they were cut, borders of keys included."""
    made: list[Part] = []
    for part in parts:
        last = made[-1] if made else None
        match last, part:
            case TextPart(before), TextPart(after):
                made[-1] = TextPart(before + after)
            case ArgumentsPart(before, False), ArgumentsPart(after, whole, end):
                made[-1] = ArgumentsPart(before + after, whole, end)
            case _:
                made.append(part)
    return [part for part in made if part != ArgumentsPart("")]


def in_pieces(family: Family, answer: list[str], cuts: list[int]) -> list[Part]:
    """As `parse`, but with the characters of a piece pushed together."""
    parser = CallParser(family.calls, family.marks)
    parts: list[Part] = []
    edges = sorted({0, len(answer), *(cut % (len(answer) + 1) for cut in cuts)})
    for start, end in pairwise(edges):
        text = ""
        for symbol in answer[start:end]:
            if len(symbol) > 1:
                parts += [*parser.push(text), *parser.mark(symbol)]
                text = ""
            else:
                text += symbol
        parts += parser.push(text)
    return joined([*parts, *parser.flush()])


def calls_of(parts: list[Part]) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    name, arguments = "", ""
    for part in parts:
        match part:
            case CallStarted(name):
                arguments = ""
            case ArgumentsPart(text):
                arguments += text
            case CallStopped(False):
                found.append((name, json.loads(arguments)))
    return found


def text_of(parts: list[Part]) -> str:
    return "".join(part.text for part in parts if isinstance(part, TextPart))


@pytest.mark.parametrize("name", NAMES)
def test_each_familys_format_is_known_by_its_template(name: str) -> None:
    assert FAMILIES[name].calls.name == {"mini": "senryu"}.get(name, name.split(" with ")[0])
    assert detect(NO_CALLS.template.read_text()) is None
    assert detect("<tool_call>\n<function=") is None  # arguments as tags


@pytest.mark.parametrize("name", NAMES)
def test_what_the_template_writes_is_read_back(name: str) -> None:
    """The table says what the template does."""
    family = FAMILIES[name]
    calls = CALLS[:1] if family.calls.anchored else CALLS
    made = [
        {"type": "function", "id": "abc123def", "function": {"name": call, "arguments": json.loads(arguments)}}
        for call, arguments in calls
    ]
    asked = [{"role": "user", "content": "go"}]
    template = family.model().template
    before = "".join(template.render(asked))
    whole = "".join(
        template.render([*asked, {"role": "assistant", "content": "", "tool_calls": made}], add_generation_prompt=False)
    )
    answer = whole.removeprefix(before).replace(', "id": "abc123def"', "")  # which Mistral's adds to a history's calls
    assert answer.removesuffix("\n").removesuffix(family.end) == written(family, calls)
    parts = parse(family, [symbols(written(family, calls), family.marks)])
    assert calls_of(parts) == [(call, json.loads(arguments)) for call, arguments in calls]
    assert text_of(parts) == ""


@pytest.mark.parametrize("name", NAMES)
def test_text_stands_before_calls(name: str) -> None:
    family = FAMILIES[name]
    answer = "I look.\n" + family.calls.lead + written(family, CALLS)
    parts = parse(family, [symbols(answer, family.marks)])
    if family.calls.anchored:  # a call is the whole message
        assert parts == [TextPart(answer)]
        return
    assert text_of(parts) == "I look.\n"
    assert [call for call, _ in calls_of(parts)] == ["weather", "now"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("blank", ["\n\n", " "])
def test_white_space_alone_is_no_text_before_a_call(name: str, blank: str) -> None:
    family = FAMILIES[name]
    assert parse(family, [[*blank]]) == [TextPart(blank)]
    if not family.calls.anchored:
        parts = parse(family, [symbols(blank + written(family, CALLS) + blank, family.marks)])
        assert text_of(parts) == ""
        assert len(calls_of(parts)) == 2


@pytest.mark.parametrize("name", ["mini", "mistral", "mistral args", "hermes with tokens", "hermes with added tokens"])
def test_a_special_token_spelled_in_letters_is_text(name: str) -> None:
    family = FAMILIES[name]
    spelled = written(family, CALLS)
    assert parse(family, [[*spelled]]) == [TextPart(spelled)]


def test_only_a_whole_message_is_a_call_where_that_is_the_format() -> None:
    family = FAMILIES["llama 3"]
    call = [*written(family, CALLS[1:])]
    assert calls_of(parse(family, [call])) == [("now", {})]
    assert parse(family, [call], begun=True) == [TextPart("".join(call))]
    assert calls_of(parse(family, [call], begun=True, forced=True)) == [("now", {})]
    assert parse(family, [[*'{"name": 1}']]) == [TextPart('{"name": 1}')]


# fmt: off
SOUP = ["<|call|>", "<tool_call>", "</tool_call>", "[TOOL_CALLS]", "[ARGS]", '{"name": "', '", "arguments": ',
        '", "parameters": ', "\n", " [", "[", "]", ", ", "{", "}", '"', "\\", "a", "é",
        '{"a": 1, "b": [2, {"c": "}"}]}', " "]
# fmt: on


def windows(answer: list[str], family: Family) -> list[list[str]]:
    """Every stretch of the answer that is as long as the start of a call."""
    length = len(symbols(family.calls.start, family.marks))
    return [answer[start : start + length] for start in range(len(answer))]


@settings(max_examples=300, deadline=None)
@given(
    name=st.sampled_from(NAMES),
    soup=st.lists(st.sampled_from(SOUP) | st.sampled_from(range(3)), max_size=14),
    cuts=st.lists(st.integers(0, 400), max_size=6),
)
def test_pieces_do_not_matter(name: str, soup: list[str | int], cuts: list[int]) -> None:
    """For answers, half answers and nonsense alike; and no letter of a text is lost before the first call."""
    family = FAMILIES[name]
    whole = "".join(written(family, CALLS[:part]) if isinstance(part, int) else part for part in soup)
    answer = symbols(whole, family.marks)
    parts = parse(family, [answer])
    assert in_pieces(family, answer, cuts) == parts
    assert in_pieces(family, answer, []) == parts
    if symbols(family.calls.start, family.marks) not in windows(answer, family):
        assert parts == joined([TextPart(symbol) for symbol in answer if len(symbol) == 1])


@settings(max_examples=200, deadline=None)
@given(name=st.sampled_from(NAMES), cut=st.integers(0, 300), text=st.sampled_from(["", "So:"]))
def test_a_cut_answer_is_the_beginning_of_the_whole_one(name: str, cut: int, text: str) -> None:
    family = FAMILIES[name]
    answer = symbols(text + written(family, CALLS), family.marks)
    whole, part = parse(family, [answer]), parse(family, [answer[:cut]])
    for before, after in zip(part[:-1], whole):
        assert before == after
    if part and isinstance(last := part[-1], ArgumentsPart):
        counterpart = whole[len(part) - 1]
        assert isinstance(counterpart, ArgumentsPart)
        assert counterpart.json.startswith(last.json)


def test_what_no_format_writes_is_text_again() -> None:
    family = FAMILIES["mini"]
    call = "<|call|>"
    for answer, text in [
        ([call, *"nonsense"], "nonsense"),
        ([call, *'{"name": "a', call, *"x"], '{"name": "ax'),
        ([call, *'{"name": "a", "arguments": 5}'], "5}"),
        ([call, *'{"name": "a", "arguments": {}]'], "]"),
    ]:
        parts = parse(family, [answer])
        assert text_of(parts) == text
        assert [part.broken for part in parts if isinstance(part, CallStopped)] == [True]
