"""Prompts that a net answers while it learns from rewards, without end: from generators, labelled messages, pairs."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from itertools import count, islice
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from senryu.train import chat
from senryu.train.generators import GENERATORS
from senryu.train.preferences import answered, asked, find, stored
from senryu.train.recipe import RecipeError, Source, StageRecipe
from senryu.train.rewards import Task, check_of, expected
from senryu.train.rows import rows as bundle_rows

TRIES = 1000  # prompts in a row that do not fit before a recipe counts as wrong


class Tasks:
    """The tasks of a recipe's mix, numbered from 0; `take` restarts the stream where it is asked for earlier ones."""

    def __init__(self, stage: StageRecipe, max_tokens: int, seed: int, folders: Sequence[Path], tokenizer: Tokenizer) -> None:
        """max_tokens: the longest answers. folders: where paths of the mix are looked up, the first that has one counts."""
        self._stage, self._most, self._seed, self._folders, self._tokenizer = stage, max_tokens, seed, folders, tokenizer
        self._tasks = self._stream()
        self._next = 0

    def take(self, first: int, number: int) -> list[Task]:
        """Tasks `first` to `first + number - 1`."""
        if first < self._next:
            self._tasks, self._next = self._stream(), 0
        skipped = list(islice(self._tasks, first - self._next))
        self._next += len(skipped) + number
        return list(islice(self._tasks, number))

    def _stream(self) -> Iterator[Task]:
        """Each task is of a source drawn by share; one that does not fit a row, or whose answer is too long, is left out."""
        draw = random.Random(f"tasks {self._seed}")
        sources = [self._rows(source) for source in self._stage.mix]
        shares = [source.share for source in self._stage.mix]
        missed = 0
        while missed < TRIES:
            task = self._task(next(draw.choices(sources, shares)[0]), draw)
            missed = 0 if task else missed + 1
            if task:
                yield task
        raise RecipeError(
            f"[rl]: {TRIES} prompts in a row do not fit sequence = {self._stage.sequence} beside "
            f"max_tokens = {self._most}; raise sequence or choose other sources"
        )

    def _rows(self, source: Source) -> Iterator[dict[str, Any]]:
        """A source's rows without end, stored ones in a new order each time around."""
        if source.kind == "generated":
            options = {"chars": source.chars} if source.chars else {}
            yield from GENERATORS[source.name](self._seed, "train", **options)
        path = find(source.path, self._folders)
        if source.kind == "preference":
            kept = [{**row, "task": "preference"} for row in stored(path)]
        else:
            labelled = [each for row in bundle_rows(path) for each in chat.labelled_messages(row)]
            kept = [
                {"task": "intent", "messages": [*chat.intent_prompt(name, text), {"role": "assistant", "content": label}]}
                for name, text, label in labelled
            ]
        if not kept:
            raise RecipeError(f"[rl]: source {source.label} has no prompts; check path and kind")
        for epoch in count():
            yield from random.Random(self._seed + epoch).sample(kept, len(kept))

    def _task(self, row: dict[str, Any], draw: random.Random) -> Task | None:
        """The row's prompt, or that of one of the assistant's turns."""
        if row["task"] == "preference":
            task, answer = Task(self._ids(asked(row))), list[int]()
        else:
            turn = draw.choice([i for i, message in enumerate(row["messages"]) if message["role"] == "assistant"])
            content = row["messages"][turn]["content"]
            wanted = expected(content)
            task = Task(self._ids(asked(row, row["messages"][:turn])), check_of(row, wanted), wanted)
            answer = self._ids(answered(content))
        fits = len(answer) <= self._most and len(task.prompt) + self._most <= self._stage.sequence
        return task if fits else None

    def _ids(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids
