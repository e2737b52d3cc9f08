"""The OpenAPI 3.1 document of every route, made of the route table itself and of what is known of each endpoint.

An endpoint is described once; the document has it at every address that leads to it. Whose an address is, and with that how
its refusals look, is asked of the doors. tests/api/test_openapi.py fails for a route without a description, and for a
description without a route.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any

from starlette.datastructures import Headers
from starlette.routing import BaseRoute, Mount, Route

from senryu import __version__
from senryu.api.bedrock.routes import Bedrock
from senryu.api.doors import Door, door_of
from senryu.api.edge import OPEN_PATHS
from senryu.api.openapi import answers, bedrock, blocks, claude, completions, openai, openrouter, vertex
from senryu.api.openapi.served import Description
from senryu.api.openapi.words import FREE, Content, Operation, Schema, either, json_of, ref
from senryu.api.vertex import Vertex
from senryu.config import Settings
from senryu.errors import ERRORS

Endpoint = Callable[..., Any]
Described = Operation | Mapping[str, Operation]  # several: what may stand where the last part of the address is
ABOUT = (
    "A language model under the addresses of the APIs that its callers speak already. Written down is the faithful profile; "
    "the lenient one passes over more fields, and names them in the response header `senryu-ignored`."
)
KEYS: dict[str, Schema] = {
    "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
    "bearer": {"type": "http", "scheme": "bearer", "description": "The same key."},
    "sigv4": {
        "type": "apiKey",
        "in": "header",
        "name": "Authorization",
        "description": "AWS Signature Version 4 of the service `bedrock`, by a key of the setting `aws_keys`.",
        "x-amazon-apigateway-authtype": "awsSigv4",
    },
}


@dataclass(frozen=True, slots=True)
class Shape:
    """What is known of a door: its name in the document, its refusals, how its callers say who they are."""

    name: str
    about: str
    refusal: Schema
    keys: tuple[str, ...] = ("key", "bearer")


SHAPES: Mapping[str, Shape] = {  # by the door's name
    "messages": Shape("Claude", "The Claude API.", ref("Error")),
    "openai": Shape("OpenAI", "What OpenAI's clients speak.", ref("OpenAIError")),
    "openrouter": Shape("OpenRouter", "What OpenRouter's clients speak.", ref("OpenRouterError")),
    "vertex": Shape("Vertex", "The Claude models on Vertex AI.", either(ref("Error"), ref("GoogleError"))),
    "bedrock": Shape("Bedrock", "The runtime of Amazon Bedrock.", ref("BedrockError"), ("key", "bearer", "sigv4")),
}
SCHEMAS: Mapping[str, Schema] = {
    name: schema
    for part in (blocks, claude, answers, vertex, bedrock, openai, completions, openrouter)
    for name, schema in part.SCHEMAS.items()
}


OPERATIONS: Mapping[Endpoint, Described] = {
    **claude.OPERATIONS,
    **vertex.OPERATIONS,
    **bedrock.OPERATIONS,
    **openai.OPERATIONS,
    **openrouter.OPERATIONS,
    Description.get: Operation("This document", answers={200: json_of(FREE)}),
}
CATCH_ALLS = frozenset({Bedrock.elsewhere, Vertex.batches})  # they say what is not here


def document(routes: Sequence[BaseRoute], doors: Sequence[Door], settings: Settings) -> dict[str, Any]:
    """The whole document. Raises KeyError for an endpoint that nobody has described."""
    paths: dict[str, dict[str, Any]] = {}
    refusals: dict[str, Any] = {}
    for address, method, endpoint in addresses(routes):
        for path, operation in _placed(address, described(endpoint)):
            met = _doors_of(path, doors)
            if method.lower() in paths.setdefault(path, {}):
                continue  # the route before takes it all
            told = _operation(method, path, operation, met)
            paths[path][method.lower()] = told | {"security": _security(path, met[0], settings)}
            refusals[_refusal_name(met)] = _refusal(met)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Senryu", "version": __version__, "description": ABOUT, "license": {"name": "Apache-2.0"}},
        "tags": [{"name": shape.name, "description": shape.about} for shape in SHAPES.values()],
        "paths": paths,
        "components": {"schemas": SCHEMAS, "responses": refusals, "securitySchemes": KEYS},
    }


def addresses(routes: Sequence[BaseRoute], prefix: str = "") -> Iterator[tuple[str, str, Endpoint]]:
    """(address, method, endpoint) of every route but the catch-alls; mounts are walked."""
    for route in routes:
        if isinstance(route, Mount):
            yield from addresses(route.routes, prefix + route.path)
        elif isinstance(route, Route) and plain(route.endpoint) not in CATCH_ALLS:
            for method in sorted((route.methods or set()) - {"HEAD"}):
                yield prefix + route.path_format, method, route.endpoint


def plain(endpoint: Endpoint) -> Endpoint:
    """The function behind a method of some object."""
    return getattr(endpoint, "__func__", endpoint)


def described(endpoint: Endpoint) -> Described:
    """What is known of an endpoint. Raises KeyError where nothing is."""
    if isinstance(endpoint, partial):
        first, second = (described(shape) for shape in endpoint.args)
        assert isinstance(first, Operation)
        assert isinstance(second, Operation)
        return together(first, second)
    return OPERATIONS[plain(endpoint)]


def together(first: Operation, second: Operation) -> Operation:
    """Of an address where each caller is answered in the caller's own shape: what either takes, what either gives."""
    sides = [{(each["in"], each["name"]): each for each in side.parameters} for side in (first, second)]
    parameters = [
        each if key in sides[0] and key in sides[1] else {**each, "required": False}
        for key, each in (sides[1] | sides[0]).items()
    ]
    answered = {
        status: {
            kind: {"schema": either(first.answers[status][kind]["schema"], second.answers[status][kind]["schema"])}
            for kind in first.answers[status]
        }
        for status in first.answers
    }
    return Operation(first.summary, tuple(parameters), answers=answered, about="The answer has the shape of the caller's API.")


def _placed(address: str, known: Described) -> Iterator[tuple[str, Operation]]:
    if isinstance(known, Operation):
        yield address, known
        return
    for tail, operation in known.items():
        yield f"{address.rpartition('/')[0]}/{tail}", operation


def _doors_of(path: str, doors: Sequence[Door]) -> tuple[Door, ...]:
    """Whose an address is: of callers with an OpenAI client's headers, and of those with a Claude client's."""
    asked = (door_of(doors, path, Headers(headers)) for headers in ({}, {"x-api-key": ""}))
    return tuple(dict.fromkeys(asked))


def _operation(method: str, path: str, operation: Operation, doors: Sequence[Door]) -> dict[str, Any]:
    named = re.sub(r"[^a-zA-Z0-9]+", "_", path).strip("_")
    refused = {"$ref": f"#/components/responses/{_refusal_name(doors)}"}
    answered = {
        str(status): _response(HTTPStatus(status).phrase, content, doors) for status, content in operation.answers.items()
    }
    about = {"description": operation.about} if operation.about else {}
    parameters = {"parameters": list(operation.parameters)} if operation.parameters else {}
    body = {"requestBody": {"required": True, "content": operation.body}} if operation.body else {}
    return {
        "operationId": f"{method.lower()}_{named}",
        "summary": operation.summary,
        **about,
        "tags": [SHAPES[doors[0].name].name],
        **parameters,
        **body,
        "responses": {**answered, "4XX": refused, "5XX": refused},
    }


def _security(path: str, door: Door, settings: Settings) -> list[dict[str, list[str]]]:
    """Any of these, and where no key is set also none."""
    if path in OPEN_PATHS:
        return []
    ways: list[dict[str, list[str]]] = [{key: []} for key in SHAPES[door.name].keys]
    keyed = settings.api_key is not None or (door.name == "bedrock" and bool(settings.aws_keys))
    return ways if keyed else [*ways, {}]


def _refusal_name(doors: Sequence[Door]) -> str:
    return "Or".join(SHAPES[door.name].name for door in doors) + "Refusal"


def _refusal(doors: Sequence[Door]) -> dict[str, Any]:
    shapes = [SHAPES[door.name].refusal for door in doors]
    kinds = sorted({(rule.status, rule.type) for rule in ERRORS.values() if rule.status})
    listed = ", ".join(f"{status} {kind}" for status, kind in kinds)
    about = f"Refused, or failed. By the names of the Claude API, of which other shapes have some under others: {listed}."
    response = _response(about, json_of(either(*shapes) if len(shapes) > 1 else shapes[0]), doors)
    response["headers"]["retry-after"] = {"schema": {"type": "string"}, "description": "Seconds to wait, with 429."}
    return response


def _response(about: str, content: Content, doors: Sequence[Door]) -> dict[str, Any]:
    names = dict.fromkeys(["request-id", *(door.id_header for door in doors)])
    headers = {name: {"schema": {"type": "string"}, "description": "Names the request in the log."} for name in names}
    return {"description": about, "headers": headers, "content": content}
