"""Pairs of answers, one better than the other: stored ones in the bundle's form, right ones beside spoilt ones; as rows of ids.

A row is {"messages", "chosen", "rejected"} and may have `system` and `tools`; answers are texts or lists of blocks.
"""

from __future__ import annotations

import copy
import json
import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from senryu.train import chat
from senryu.train.answers import AnswerRows, Asked, pack_answers
from senryu.train.generators import GENERATORS, Row
from senryu.train.recipe import RecipeError, Source, StageRecipe
from senryu.train.rows import RowError, lines, parse
from senryu.train.vocabulary import contains_special

Content = str | list[dict[str, Any]]
REMEMBERED = 64  # answers in words, to ramble with


def stored(path: Path) -> Iterator[Row]:
    """The pairs of a file of JSON lines. Raises RecipeError for a file that is missing, and a line that is no pair."""
    for number, line in lines(path):
        try:
            row = parse(line)
        except RowError as error:
            raise RecipeError(f"{path}:{number} {error}") from error
        if not all(isinstance(row.get(key), str | list) for key in ("messages", "chosen", "rejected")):
            raise RecipeError(f"{path}:{number}: no pair; each line needs messages, chosen and rejected")
        if not contains_special(line.decode()) and row["chosen"] != row["rejected"]:
            yield row


def find(path: str, folders: Sequence[Path]) -> Path:
    """The first folder's file of this path. Raises RecipeError if none has it."""
    for folder in folders:
        if (folder / path).exists():
            return folder / path
    raise RecipeError(f"{path} is not in {' or '.join(map(str, folders))}; run the stage that writes it, or change the path")


def asked(row: Row, messages: list[dict[str, Any]] | None = None) -> str:
    """The text up to where the assistant is to answer `messages`, by default the row's own."""
    tools = chat.to_tools(row)
    return chat.render(chat.to_messages({**row, "messages": messages or row["messages"]}), tools, answer=True)


def answered(content: Content) -> str:
    """What follows `<|assistant|>` for an answer, its end included."""
    before = chat.render([], answer=True)
    return chat.render(chat.to_messages({"messages": [{"role": "assistant", "content": content}]}))[len(before) :]


def encode(row: Row, tokenizer: Tokenizer) -> tuple[list[int], list[int], list[int]]:
    """Ids of the prompt and of the two answers."""
    texts = (asked(row), answered(row["chosen"]), answered(row["rejected"]))
    prompt, chosen, rejected = (e.ids for e in tokenizer.encode_batch(list(texts), add_special_tokens=False))
    return prompt, chosen, rejected


def generated(name: str, seed: int, **options: Any) -> Iterator[Row]:
    """Pairs without end over a generator's training rows: the right answer beside one that is spoilt in one way."""
    draw, heard = random.Random(f"pairs {name} {seed}"), deque[str](maxlen=REMEMBERED)
    for row in GENERATORS[name](seed, "train", **options):
        turn = draw.choice([i for i, message in enumerate(row["messages"]) if message["role"] == "assistant"])
        right = row["messages"][turn]["content"]
        ways = list(_spoils(row, turn, right, draw, heard))
        if isinstance(right, str):
            heard.append(right)
        draw.shuffle(ways)
        for way in ways:
            rejected = way()
            if rejected and rejected != right:
                kept: Row = {key: row[key] for key in ("system", "tools") if key in row}
                yield {**kept, "task": f"{name}_preference", "messages": row["messages"][:turn], "chosen": right,
                       "rejected": rejected, "way": way.__name__}  # fmt: skip
                break


@dataclass(frozen=True)
class PairRows:
    """Rows of pairs to train on and rows held out, and how many pairs each source gave."""

    train: AnswerRows
    held_out: AnswerRows
    counts: dict[str, int]


def prepare(stage: StageRecipe, held_out: float, seed: int, folders: Sequence[Path], tokenizer: Tokenizer) -> PairRows:
    """Encode a mix of pairs up to `prepare_tokens`, or once through a stored source; pairs that no row holds are left out.

    held_out: part of the pairs; each is drawn by what it says, so that the draw survives new files. folders: see `find`.
    """
    kept: dict[bool, list[list[Asked]]] = {False: [], True: []}
    counts: dict[str, int] = {}
    for source in stage.mix:
        room = stage.prepare_tokens * source.share
        for row in _pairs(source, seed, folders):
            prompt, chosen, rejected = encode(row, tokenizer)
            size = 2 * len(prompt) + len(chosen) + len(rejected)
            if size <= stage.sequence:
                drawn = random.Random(f"{seed} {prompt} {chosen}").random()
                kept[drawn < held_out].append([(prompt, chosen), (prompt, rejected)])
                counts[source.label] = counts.get(source.label, 0) + 1
                room -= size
            if room <= 0:
                break
    if not kept[False]:
        raise RecipeError(f"no pair of the mix fits sequence = {stage.sequence}; raise it or choose other sources")
    random.Random(seed).shuffle(kept[False])
    least = stage.batch_tokens // stage.sequence
    return PairRows(pack_answers(kept[False], stage.sequence, least=least), pack_answers(kept[True], stage.sequence), counts)


def _pairs(source: Source, seed: int, folders: Sequence[Path]) -> Iterator[Row]:
    if source.kind == "generated":
        yield from generated(source.name, seed, **({"chars": source.chars} if source.chars else {}))
    else:
        rows = list(stored(find(source.path, folders)))
        yield from random.Random(seed).sample(rows, len(rows))


def _spoils(row: Row, turn: int, right: Content, draw: random.Random, heard: deque[str]) -> Iterator[Callable[[], Content]]:
    """Ways to spoil a right answer; each gives the spoilt one, or nothing where it does not fit."""
    spoiler = _Spoiler(row, turn, draw, heard)
    if isinstance(right, list):
        yield from (spoiler.other_tool, spoiler.other_value, spoiler.left_out, spoiler.pretended, spoiler.twice)
    else:
        yield from (spoiler.called, spoiler.ungrounded)
        if not right.startswith("{"):
            yield from (spoiler.rambling, spoiler.loop)


class _Spoiler:
    """Spoils one assistant message of a row."""

    def __init__(self, row: Row, turn: int, draw: random.Random, heard: deque[str]) -> None:
        self._row, self._turn, self._draw, self._heard = row, turn, draw, heard
        self._right: Content = row["messages"][turn]["content"]

    def other_tool(self) -> Content:
        """The call goes to a tool of another name."""
        blocks = self._copy()
        block = self._draw.choice(blocks)
        names = [tool["name"] for tool in self._row["tools"] if tool["name"] != block["name"]]
        if not names:
            return ""
        block["name"] = self._draw.choice(names)
        return blocks

    def other_value(self) -> Content:
        """One value of the input is another."""
        blocks = self._copy()
        block = self._draw.choice(blocks)
        if not block["input"]:
            return ""
        name = self._draw.choice(list(block["input"]))
        block["input"][name] = self._changed(block["input"][name])
        return blocks

    def left_out(self) -> Content:
        """One value of the input, or one of several calls, is missing."""
        blocks = self._copy()
        if len(blocks) > 1 and self._draw.random() < 0.5:
            blocks.pop(self._draw.randrange(len(blocks)))
            return blocks
        block = self._draw.choice(blocks)
        if not block["input"]:
            return ""
        del block["input"][self._draw.choice(list(block["input"]))]
        return blocks

    def pretended(self) -> Content:
        """What the assistant says later is said at once, as if the tool had answered."""
        later = [m["content"] for m in self._row["messages"][self._turn + 1 :] if m["role"] == "assistant"]
        return next((content for content in later if isinstance(content, str)), "")

    def twice(self) -> Content:
        """A call is made again and again."""
        blocks = self._copy()
        return [*blocks, *([blocks[-1]] * self._draw.randint(1, 3))]

    def called(self) -> Content:
        """A tool is called where words are right: with what is only known later, or to do again what was done."""
        if not self._row.get("tools"):
            return ""
        calls = [m["content"] for m in self._row["messages"] if m["role"] == "assistant" and isinstance(m["content"], list)]
        if calls:
            return copy.deepcopy(self._draw.choice(calls))
        tool = self._draw.choice(self._row["tools"])
        return [{"type": "tool_use", "id": "toolu_01", "name": tool["name"], "input": self._guessed(tool["input_schema"])}]

    def ungrounded(self) -> Content:
        """A number, code or value is not the one that the conversation holds."""
        right = str(self._right)
        if right.startswith("{"):
            values = json.loads(right)
            name = self._draw.choice(list(values))
            values[name] = self._changed(values[name])
            return json.dumps(values, ensure_ascii=False)
        digits = [i for i, letter in enumerate(right) if letter.isdigit()]
        if not digits:
            return ""
        at = self._draw.choice(digits)
        return right[:at] + self._digit(right[at]) + right[at + 1 :]

    def rambling(self) -> Content:
        """The right answer, and then what nobody asked for."""
        if len(self._heard) < 4:
            return ""
        return " ".join([str(self._right), *self._draw.sample(list(self._heard), self._draw.randint(2, 4))])

    def loop(self) -> Content:
        """The last words come over and over."""
        words = str(self._right).split(" ")
        tail = " ".join(words[-self._draw.randint(1, min(8, len(words))) :])
        return " ".join([str(self._right), *([tail] * self._draw.randint(3, 8))])

    def _copy(self) -> list[dict[str, Any]]:
        assert isinstance(self._right, list)
        return copy.deepcopy(self._right)

    def _digit(self, digit: str) -> str:
        return self._draw.choice([d for d in "0123456789" if d != digit])

    def _changed(self, value: Any) -> Any:
        """Another value of the same type."""
        match value:
            case bool():
                return not value
            case int() | float():
                return value + self._draw.choice((-1, 1, 10))
            case str():
                at = [i for i, letter in enumerate(value) if letter.isdigit()]
                if at:
                    place = self._draw.choice(at)
                    return value[:place] + self._digit(value[place]) + value[place + 1 :]
                words = value.split()
                return " ".join(words[:-1]) if len(words) > 1 else f"{value} {value}".strip() or "none"
            case list():
                return value[:-1]
            case dict() if value:
                name = self._draw.choice(list(value))
                return {**value, name: self._changed(value[name])}
        return "unknown"

    def _guessed(self, schema: dict[str, Any]) -> dict[str, Any]:
        """An input that nobody gave."""
        plain: dict[str, Any] = {"integer": 1, "number": 1, "boolean": True, "array": [], "object": {}}
        out = {}
        for name in schema.get("required", ()):
            kind = schema["properties"].get(name, {})
            out[name] = kind["enum"][0] if "enum" in kind else plain.get(str(kind.get("type")), "unknown")
        return out
