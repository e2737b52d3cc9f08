"""Vertex AI's operations: bodies of the Messages API with the version inside, under Google's addresses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from senryu.api.openapi.blocks import MARKER
from senryu.api.openapi.claude import ANSWERED, BETAS, COST, MESSAGE, MODEL, PROMPT, STREAM
from senryu.api.openapi.words import (
    Operation,
    Schema,
    exactly,
    gives,
    json_of,
    list_of,
    maybe,
    one_of,
    path,
    ref,
    takes,
    text,
    whole,
)
from senryu.api.vertex import COUNTER, GOOGLE, METHODS, VERSIONS, Vertex

PLACE = (path("project", "Any name."), path("location", "Any name."))
PUBLISHER = path("publisher", "Whose model it is.", exactly("anthropic"))
CALLED = path("model", "The model's id, or another name of it.")


def inside(versions: Mapping[str, str], needed: bool = True) -> dict[str, Schema]:
    """What a hosted service's body says instead of headers. needed: whether it must say the version."""
    return {f"anthropic_version{'' if needed else '?'}": one_of(*versions), "anthropic_beta?": maybe(list_of(text()))}


SCHEMAS: dict[str, Schema] = {
    "VertexMessage": takes({**inside(VERSIONS), **ANSWERED, **STREAM, **MARKER}),
    "VertexCountTokens": takes({**inside(VERSIONS, needed=False), **MODEL, **PROMPT, **MARKER}),
    "GoogleError": gives(
        {
            "error": gives(
                {"code": whole(), "message": text(), "status": one_of(*sorted({status for status, _ in GOOGLE.values()}))}
            )
        }
    ),
}
PREDICT = Operation(
    "Answer a conversation",
    (*PLACE, PUBLISHER, CALLED, BETAS, COST),
    json_of(ref("VertexMessage")),
    {200: MESSAGE},
    "Events with `stream`, whichever of the two addresses was called.",
)
COUNT = Operation(
    "Count the tokens of a prompt",
    (*PLACE, PUBLISHER, BETAS),
    json_of(ref("VertexCountTokens")),
    {200: json_of(ref("TokenCount"))},
)
OPERATIONS: Mapping[Callable[..., Any], Operation | Mapping[str, Operation]] = {
    Vertex.predict: {
        **{f"{{model}}:{method}": PREDICT for method in METHODS},
        **{f"{COUNTER}:{method}": COUNT for method in METHODS},
    },
}
