"""The nouns every layer shares: what is asked (`Turn`) and what is answered (`Event`). Data only, no logic.

Every wire shape is translated to these and back; every feature of the service is written against these alone.

    Turn ── messages ── Message ── content ── Block (Text)
    Event: Started, then TextDelta*, then Finished
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Role = Literal["user", "assistant"]
StopReason = Literal["end_turn", "max_tokens", "stop_sequence"]


@dataclass(frozen=True, slots=True)
class Text:
    """A block of text. `cache` marks a cache breakpoint at its end."""

    text: str
    cache: bool = False


Block = Text  # tool, document and image blocks join this union with their features


@dataclass(frozen=True, slots=True)
class Message:
    """One message of the conversation."""

    role: Role
    content: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Turn:
    """What a caller wants answered, whatever wire shape it came in.

    `messages` may end with an assistant message: the answer continues it (prefill).
    `temperature` 0 is greedy. `top_k` 0 means all tokens. `seed` None draws a fresh one.
    """

    model: str
    messages: tuple[Message, ...]
    max_tokens: int
    system: tuple[Text, ...] = ()
    temperature: float = 1.0
    top_p: float = 0.99
    top_k: int = 0
    seed: int | None = None
    stop_sequences: tuple[str, ...] = ()
    tenant: str = ""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one turn. `reused_tokens` were found in the prefix cache; the cache counters are what is billed."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0
    reused_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Started:
    """The prompt is accepted; the first event of a turn."""

    model: str
    usage: Usage


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A non-empty piece of the answer's text; pieces end on whole characters."""

    text: str


@dataclass(frozen=True, slots=True)
class Finished:
    """The answer is complete; the last event of a turn."""

    stop_reason: StopReason
    stop_sequence: str | None = None
    usage: Usage = field(default_factory=Usage)


Event = Started | TextDelta | Finished
