"""What the official SDK's clients do alike, wherever they call: an `Anthropic`, `AnthropicBedrock` or `AnthropicVertex`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anthropic
import pydantic
from checks import BREAK_OFF, Outcome, breaks_off, waits

BRIDGE = "The bridge opened in 1911. It is painted green."
HELLO: list[Any] = [{"role": "user", "content": "Hello! What can you do?"}]


def fields(model: Any) -> Any:
    """A model's fields; what an old version does not know of is plain JSON already."""
    return model.model_dump() if isinstance(model, pydantic.BaseModel) else model


def cited(client: Any, model: str) -> str:
    """Citations of a text document, each the words that stand there."""
    source = {"type": "text", "media_type": "text/plain", "data": BRIDGE}
    document = {"type": "document", "source": source, "title": "Bridge", "citations": {"enabled": True}}
    question = {"type": "text", "text": "When did the bridge open?"}
    begun = {"role": "assistant", "content": "The bridge opened in 1911"}  # a small model writes no such thing by itself
    found: list[Any] = []
    for _ in range(9):  # an answer may also be empty
        message = client.messages.create(
            model=model, max_tokens=2, messages=[{"role": "user", "content": [document, question]}, begun]
        )
        texts = [block for block in message.content if block.type == "text"]  # old versions have no field for none
        found += [fields(one) for text in texts for one in getattr(text, "citations", None) or ()]
    assert found, message.content
    for one in found:
        assert one["type"] == "char_location"
        assert BRIDGE[one["start_char_index"] : one["end_char_index"]] == one["cited_text"]
    return f"{len(found)} citations"


def retried(client_of: Callable[[int], Any], model: str) -> Outcome:
    """client_of: a client of the limited server, by its most retries."""
    return waits(
        lambda most: client_of(most).messages.create(model=model, max_tokens=1, messages=HELLO), anthropic.RateLimitError
    )


def broken(client: Any, model: str, kind: type[anthropic.APIError] = anthropic.APIStatusError) -> Outcome:
    """client: of the stage."""

    def read() -> str:
        asked = [{"role": "user", "content": BREAK_OFF}]
        with client.messages.stream(model=model, max_tokens=500, messages=asked) as events:
            return "".join(events.text_stream)

    return breaks_off(kind, read)
