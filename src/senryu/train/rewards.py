"""Rewards that code can give: what an answer says, read as the service reads it, against the right one; penalties of form."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from senryu.service.calls import OURS, ArgumentsPart, CallParser, CallStarted, CallStopped, Part, TextPart
from senryu.service.toolcheck import read_arguments
from senryu.train.generators.exact import flat, last_number
from senryu.train.vocabulary import END, IDS, SPECIALS

CALL = "<|call|>"  # the one mark of the model's call syntax
NGRAM = 4  # tokens of a piece that counts as repeated
CLOSE = 0.5  # most that a wrong call, or text around the right one, is worth
Content = str | list[dict[str, Any]]


@dataclass(frozen=True)
class Said:
    """What an answer says. whole: it ended by itself, has no token of the template beside the mark of a call, and its calls are
    written by the format with JSON arguments."""

    text: str = ""
    calls: tuple[tuple[str, Any], ...] = ()
    whole: bool = True


def read(ids: Sequence[int], tokenizer: Tokenizer) -> Said:
    """Parse an answer's tokens back, calls included."""
    ended = END in ids and all(token >= len(SPECIALS) or token in (END, IDS[CALL]) for token in ids)
    parser, parts = CallParser(OURS, (CALL,)), list[Part]()
    pieces: list[list[int]] = [[]]
    for token in ids[: ids.index(END)] if END in ids else ids:
        if token == IDS[CALL]:
            pieces.append([])
        else:
            pieces[-1].append(token)
    for number, piece in enumerate(pieces):
        parts += parser.mark(CALL) if number else ()
        parts += parser.push(tokenizer.decode(piece))
    parts += parser.flush()
    text, names, inputs, stopped = "", list[str](), list[str](), 0
    for part in parts:
        match part:
            case TextPart(piece_of_text):
                text += piece_of_text
            case CallStarted(name):
                names.append(name)
                inputs.append("")
            case ArgumentsPart(written):
                inputs[-1] += written
            case CallStopped(broken):
                stopped += 1
                ended &= not broken
    try:
        calls = tuple(zip(names, map(read_arguments, inputs), strict=True))
    except (ValueError, RecursionError):
        return Said(text, (), False)
    return Said(text, calls, ended and stopped == len(names))


def expected(content: Content) -> Said:
    """The same of an assistant's message in the bundle's form."""
    if isinstance(content, str):
        return Said(content)
    text = "\n".join(block["text"] for block in content if block["type"] == "text")
    return Said(text, tuple((b["name"], b["input"]) for b in content if b["type"] == "tool_use"))


def check_of(row: Mapping[str, Any], wanted: Said) -> str:
    """How an answer to a turn of this row is compared with the right one: calls, json, number, text, label or words."""
    if wanted.calls:
        return "calls"
    by_task = {"extraction": "json", "arithmetic": "number", "retrieval": "text", "copying": "text", "intent": "label"}
    return by_task.get(str(row.get("task")), "words")


def score(check: str, said: Said, wanted: Said) -> float:
    """0 to 1, and 1 only for what `evals` counts as right; words are compared loosely, since many say the same."""
    if not said.whole:
        return 0.0
    if check == "calls":
        return 1.0 if said.calls == wanted.calls and not said.text.strip() else CLOSE * _near(said.calls, wanted.calls)
    if said.calls:
        return 0.0
    ours, theirs = said.text.strip(), wanted.text.strip()
    match check:
        case "json":
            return _f1(_values(ours), _values(theirs))
        case "number":
            return float(last_number(ours) == last_number(theirs) != "")
        case "text":
            return 1.0 if ours == theirs else CLOSE * (theirs in ours)
        case "label":
            return float(ours == theirs)
    return (CLOSE + (1 - CLOSE) * _f1(Counter(ours.lower().split()), Counter(theirs.lower().split()))) if ours else 0.0


def _near(ours: Sequence[tuple[str, Any]], theirs: Sequence[tuple[str, Any]]) -> float:
    """Calls in their order: half for the right tool, half for its fields."""
    pairs = [(a, b) for a, b in zip(ours, theirs) if a[0] == b[0]]
    each = [0.5 + 0.5 * _f1(dict(flat(a[1])), dict(flat(b[1]))) for a, b in pairs]
    return sum(each) / max(len(ours), len(theirs))


def _f1(ours: Mapping[Any, Any], theirs: Mapping[Any, Any]) -> float:
    """Over entries: of plain mappings those that are equal, of counters what both have."""
    if isinstance(ours, Counter) and isinstance(theirs, Counter):
        return 2 * (ours & theirs).total() / max(ours.total() + theirs.total(), 1)
    if not ours and not theirs:
        return 1.0
    right = sum(name in ours and bool(ours[name] == value) for name, value in theirs.items())
    return 2 * right / (len(ours) + len(theirs))


def _values(text: str) -> dict[tuple[str, ...], Any]:
    """The values of a JSON object by their paths; what no answer has where the text is none."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    return dict(flat(value)) if isinstance(value, dict) else {("no object",): object()}


def repetition(ids: Sequence[int], size: int = NGRAM) -> float:
    """The share of an answer's n-grams that stood in it before; calls are left out, for JSON may repeat itself."""
    said = list(ids[: ids.index(IDS[CALL])] if IDS[CALL] in ids else ids)
    grams = list(zip(*(said[i:] for i in range(size))))
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def overlength(ids: Sequence[int], most: int) -> float:
    """0 up to half of `most` tokens, 1 at all of them, in a line between; 1 for an answer without an end."""
    return 1.0 if END not in ids else min(max(2 * len(ids) / most - 1, 0.0), 1.0)


@dataclass(frozen=True)
class Task:
    """A prompt's ids and, where answers to it can be checked, how and against what."""

    prompt: list[int]
    check: str = ""
    wanted: Said | None = None


@dataclass(frozen=True)
class Rewards:
    """What answers are worth, component by component.

    names: those that count, of task (what can be checked), model, length and repetition (both penalties). max_tokens: of an
    answer. model: the scores of a reward model, for prompts with answers.
    """

    names: Collection[str]
    max_tokens: int
    tokenizer: Tokenizer
    model: Callable[[list[tuple[Sequence[int], Sequence[int]]]], np.ndarray] | None = None

    def components(self, tasks: Sequence[Task], answers: Sequence[list[int]]) -> dict[str, np.ndarray]:
        """Every component [answers], an answer for each task; nan where there is nothing to check."""
        out = {name: np.full(len(answers), np.nan) for name in self.names}
        for i, (task, answer) in enumerate(zip(tasks, answers, strict=True)):
            if "task" in out and task.wanted is not None:
                out["task"][i] = score(task.check, read(answer, self.tokenizer), task.wanted)
            if "length" in out:
                out["length"][i] = overlength(answer, self.max_tokens)
            if "repetition" in out:
                out["repetition"][i] = repetition(answer)
        if "model" in out and self.model is not None:
            out["model"] = self.model([(task.prompt, answer) for task, answer in zip(tasks, answers)]).astype(float)
        return out


def combine(components: Mapping[str, np.ndarray], weights: Mapping[str, float]) -> np.ndarray:
    """One reward [groups, answers] of several, each brought to mean 0 and deviation 1 in its group before it is weighed.

    Summed as they are, a reward that varies little beside another would be lost ("GDPO", arXiv 2601.05242). A component is nan
    for answers that it does not judge, and says nothing of a group in which all are alike.
    """
    total = np.zeros(next(iter(components.values())).shape)
    for name, values in components.items():
        judged = ~np.isnan(values)
        count = np.maximum(judged.sum(1, keepdims=True), 1)
        centred = np.where(judged, values - np.where(judged, values, 0).sum(1, keepdims=True) / count, 0.0)
        deviation = np.sqrt((centred**2).sum(1, keepdims=True) / count)
        total += weights[name] * np.where(deviation > 1e-6, centred / np.maximum(deviation, 1e-6), 0.0)
    return total
