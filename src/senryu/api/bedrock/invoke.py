"""InvokeModel: the Messages body with its version and betas inside and its model in the address; Messages events as chunks."""

from __future__ import annotations

import base64
from typing import Any

from senryu.api.bedrock import eventstream
from senryu.api.bedrock.exceptions import failure
from senryu.api.bedrock.metrics import Stopwatch, invocation_metrics
from senryu.api.hosted import NewParser, open_body, placed
from senryu.api.parse import MessagesRequest
from senryu.api.sse import MessageEvents
from senryu.api.wire import V2023, V2026, encode_json
from senryu.errors import SenryuError
from senryu.types import Event, Finished

VERSIONS = {"bedrock-2023-05-31": V2023, V2023: V2023, V2026: V2026}


def read_invoke(new_parser: NewParser, model: str, stream: bool, body: Any) -> tuple[MessagesRequest, dict[str, str]]:
    """The request, and what the response's headers say of the reading. Raises SenryuError."""
    parser, rest = open_body(body, VERSIONS, new_parser)
    if rest.get("cache_control") is not None and not parser.dialect.lenient:
        raise SenryuError("extra", path="cache_control")  # not on Bedrock: only blocks carry it there
    return parser.create(placed(parser, rest, model=model, stream=stream)), parser.headers


class InvokeFramer:
    """Events of the Messages API, each in a chunk; the last one carries metrics. `diagnose`: see `new_message`."""

    content_type = eventstream.CONTENT_TYPE
    keep_alive = b""

    def __init__(self, watch: Stopwatch, diagnose: bool = False) -> None:
        self._watch = watch
        self._events = MessageEvents(diagnose)

    def frames(self, event: Event) -> bytes:
        """The chunks of one event; Bedrock has no pings."""
        self._watch.see(event)
        parts = [part for part in self._events.of(event) if part["type"] != "ping"]
        if isinstance(event, Finished):
            parts[-1] = {**parts[-1], "amazon-bedrock-invocationMetrics": invocation_metrics(event.usage, self._watch)}
        return b"".join(eventstream.event("chunk", {"bytes": base64.b64encode(encode_json(part)).decode()}) for part in parts)

    def failure(self, error: SenryuError, request_id: str) -> bytes:
        """An exception frame."""
        return failure(error)
