"""The server's event streams, cut anew a thousand times, are the same events to botocore, whose decoder checks both sums."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from botocore.eventstream import EventStreamBuffer

from serving import says, scripted_model, serving

MODEL = "us.anthropic.claude-3-5-haiku-20241022-v1:0"
CONVERSE = {"inferenceConfig": {"maxTokens": 60}, "messages": [{"role": "user", "content": [{"text": "Hi"}]}]}
INVOKE = {"anthropic_version": "bedrock-2023-05-31", "max_tokens": 60, "messages": [{"role": "user", "content": "Hi"}]}
SPLITS = 1000


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(scripted_model(says("Hello, 漢字 and all the rest"), drafts=False, seconds_per_step=0.002)) as url:
        yield url


def decoded(stream: bytes, cuts: list[int]) -> list[tuple[dict[str, Any], bytes]]:
    """(headers, payload) of every event of a stream that comes in pieces."""
    buffer, found = EventStreamBuffer(), []
    for start, end in zip([0, *cuts], [*cuts, len(stream)]):
        buffer.add_data(stream[start:end])
        found += [(event.headers, event.payload) for event in buffer]
    return found


@pytest.mark.parametrize(
    ("operation", "body", "last"),
    [("converse-stream", CONVERSE, "metadata"), ("invoke-with-response-stream", INVOKE, "chunk")],
)
def test_any_cuts_give_the_same_events(url: str, operation: str, body: dict[str, Any], last: str) -> None:
    response = httpx.post(f"{url}/model/{MODEL}/{operation}", json=body, timeout=60)
    assert response.headers["content-type"] == "application/vnd.amazon.eventstream"
    stream, draw = response.content, random.Random(operation)
    whole = decoded(stream, [])
    assert len(whole) > 6
    assert whole[-1][0] == {":event-type": last, ":content-type": "application/json", ":message-type": "event"}
    assert all(isinstance(json.loads(payload), dict) for _, payload in whole)
    for _ in range(SPLITS):
        assert decoded(stream, sorted(draw.choices(range(len(stream) + 1), k=draw.randrange(40)))) == whole
