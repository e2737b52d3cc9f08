"""Reference 2.1: which blocks may carry a marker, and the refusals of markers."""

from __future__ import annotations

from typing import Any

import pytest
from asking import EPHEMERAL, HOUR, TOOL, UNVERIFIED, USER, Asked, after_call, body, result, said, text, use

MARKED = text(cache_control=EPHEMERAL)
LATE_HOUR = (
    "{path}.cache_control.ttl: a ttl='1h' cache_control block must not come after a ttl='5m' cache_control block. Note that "
    "blocks are processed in the following order: `tools`, `system`, `messages`."
)
TOO_MANY = "A maximum of 4 blocks with cache_control may be provided. Found 5."
CHUNKS = {"type": "document", "source": {"type": "content", "content": [MARKED, text("b")]}}

REFUSED = {
    "five in a message": (said([MARKED] * 5), TOO_MANY),
    "five in all": (
        body(
            tools=[{**TOOL, "cache_control": EPHEMERAL}],
            system=[MARKED] * 2,
            messages=[{"role": "user", "content": [MARKED] * 2}],
        ),
        TOO_MANY,
    ),
    "an hour after five minutes": (
        said([text(), text(), MARKED, text(cache_control=HOUR)]),
        LATE_HOUR.format(path="messages.0.content.3"),
    ),
    "tools before system": (
        body(tools=[{**TOOL, "cache_control": EPHEMERAL}], system=[text(cache_control=HOUR)]),
        LATE_HOUR.format(path="system.0"),
    ),
    "tools in order": (
        body(tools=[{**TOOL, "cache_control": EPHEMERAL}, {**TOOL, "name": "b", "cache_control": HOUR}]),
        LATE_HOUR.format(path="tools.1"),
    ),
    "no ttl in words": (
        body(system=[MARKED], messages=[{"role": "user", "content": [text(cache_control=HOUR)]}]),
        LATE_HOUR.format(path="messages.0.content.0"),
    ),
    "empty text": (
        said([text(), text("", cache_control=EPHEMERAL)]),
        "messages.0.content.1.text: cache_control cannot be set for empty text blocks",
    ),
    "inner block": (said([CHUNKS]), UNVERIFIED["inner marker"]),
    "kind": (
        said([text(cache_control={"type": "persistent"})]),
        "messages.0.content.0.text.cache_control: Input tag 'persistent' found using 'type' does not match any of the expected "
        "tags: 'ephemeral'",
    ),
    "ttl": (
        said([text(cache_control={"type": "ephemeral", "ttl": "2h"})]),
        "messages.0.content.0.text.cache_control.ephemeral.ttl: Input should be '5m' or '1h'",
    ),
    "other field": (
        said([text(cache_control={"type": "ephemeral", "scope": "global"})]),
        "messages.0.content.0.text.cache_control.ephemeral.scope: Extra inputs are not permitted",
    ),
    "automatic ttl": (
        body(cache_control={"type": "ephemeral", "ttl": "2h"}),
        "cache_control.ephemeral.ttl: Input should be '5m' or '1h'",
    ),
}


@pytest.mark.parametrize(("value", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(asked: Asked, value: Any, message: str) -> None:
    assert asked.refusal(value) == message


DOCUMENT = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "x"}}
FOUND = {"type": "search_result", "source": "s", "title": "t", "content": [text()]}
ACCEPTED = {
    "tool": body(tools=[{**TOOL, "cache_control": HOUR}]),
    "system": body(system=[MARKED]),
    "text": said([MARKED]),
    "document": said([{**DOCUMENT, "cache_control": EPHEMERAL}, text()]),
    "search result": said([{**FOUND, "cache_control": EPHEMERAL}, text()]),
    "call": after_call(result(), calls=[use(cache_control=EPHEMERAL)]),
    "result": after_call(result(cache_control=EPHEMERAL)),
    "last block of a result": after_call(result(content=[text("a"), MARKED])),
    "last block of a document": said([{**CHUNKS, "source": {"type": "content", "content": [text("a"), MARKED]}}, text()]),
    "assistant": body(messages=[USER, {"role": "assistant", "content": [MARKED]}, USER]),
    "four, the longer first": said([text(cache_control=HOUR), text(cache_control=HOUR), MARKED, MARKED]),
    "null": said([text(cache_control=None)]),
    "without the old beta": said([text(cache_control=HOUR)]),
}


@pytest.mark.parametrize("value", ACCEPTED.values(), ids=ACCEPTED)
def test_accepted(asked: Asked, value: Any) -> None:
    assert asked.message(value)["type"] == "message"


def test_counting_takes_markers_and_refuses_the_same(asked: Asked) -> None:
    path = "/v1/messages/count_tokens"
    for value, message in REFUSED.values():
        assert asked.refusal({key: part for key, part in value.items() if key != "max_tokens"}, path=path) == message
    marked = {key: part for key, part in said([MARKED]).items() if key != "max_tokens"}
    plain = {key: part for key, part in said([text()]).items() if key != "max_tokens"}
    assert asked.post(marked, path).json() == asked.post(plain, path).json()
