"""What a judge is: who says whether an answer keeps to a principle, writes a better one, and tells which of two is better."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from senryu.train.constitution.document import Principle

Message = dict[str, Any]


@dataclass(frozen=True)
class Prompt:
    """A conversation that waits for an answer, in the bundle's form.

    category, unsafe: what the prompt's maker says of it, "" and None if unknown. reference: a helpful answer that is right, ""
    if unknown. twin: the id of the prompt that shares its trigger words.
    """

    id: str
    messages: tuple[Message, ...]
    system: str = ""
    tools: tuple[dict[str, Any], ...] = ()
    category: str = ""
    unsafe: bool | None = None
    reference: str = ""
    twin: str = ""

    @property
    def user(self) -> str:
        """What the user said last, and what tools returned to them."""
        return content_text(self.messages[-1]["content"])

    @property
    def given(self) -> str:
        """All that the answer may draw on: the system prompt and every message."""
        return "\n".join((self.system, *(content_text(m["content"]) for m in self.messages)))

    def row(self, answer: str) -> dict[str, Any]:
        """A training row of the bundle's form that ends with the answer."""
        made: dict[str, Any] = {"task": "constitutional", "source": "generated", "id": self.id}
        made |= {key: list(v) if key == "tools" else v for key in ("system", "tools") if (v := getattr(self, key))}
        return made | {"messages": [*self.messages, {"role": "assistant", "content": answer}]}

    def record(self) -> dict[str, Any]:
        """The prompt as a line of prompts.jsonl; what is not known is left out."""
        return {key: value for key, value in asdict(self).items() if value not in ("", None, ())}


def content_text(content: str | list[dict[str, Any]]) -> str:
    """The text of a message: its own, and that of tool results."""
    if isinstance(content, str):
        return content
    texts = [block["text"] if block["type"] == "text" else block.get("content", "") for block in content]
    return "\n".join(content_text(text) for text in texts if text)


@dataclass(frozen=True)
class Critique:
    """What is wrong with an answer. found: the detector that saw it, "" for a model's critique."""

    principle: str
    text: str
    found: str = ""


class Judge(Protocol):
    """rules, self or endpoint. May keep nothing between calls but its own report."""

    name: str

    def applicable(self, principles: Sequence[Principle], prompt: Prompt, answer: str) -> list[Principle]:
        """The principles that the answer may be held against."""
        ...

    def critique(self, principle: Principle, prompt: Prompt, answer: str) -> Critique | None:
        """What is wrong with the answer by the principle; None when nothing is."""
        ...

    def revise(self, principle: Principle, prompt: Prompt, answer: str, critique: Critique) -> str:
        """A better answer."""
        ...

    def compare(self, principle: Principle, prompt: Prompt, a: str, b: str) -> float:
        """The probability that `a` is the better answer by the principle; 0.5 when it cannot tell."""
        ...

    def report(self) -> dict[str, Any]:
        """What a reader of the data should know of this judge, as JSON."""
        ...


Answer = Callable[[Sequence[Prompt]], list[str]]
"""Prompts -> the answers of the model that is to be revised: a net's sampler, an endpoint, a list."""
