"""The OpenAPI document: valid, open to all, of every route and of nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from in_process import Application, application
from openapi_spec_validator import validate
from starlette.routing import Mount, Route

from senryu.api.app import DOORS
from senryu.api.openapi import answers, bedrock, blocks, claude, completions, openai, openrouter, vertex
from senryu.api.openapi.document import CATCH_ALLS, OPERATIONS, SHAPES, addresses, described, document, plain
from senryu.api.openapi.words import Operation
from senryu.config import Settings
from serving import scripted_model

PARTS = (blocks, claude, answers, vertex, bedrock, openai, completions, openrouter)


@pytest.fixture(scope="module")
def app() -> Iterator[Application]:
    with application(scripted_model(), api_key="secret") as app:
        yield app


@pytest.fixture(scope="module")
def told(app: Application) -> dict[str, Any]:
    response = app.ask("GET", "/openapi.json")
    assert (response.status_code, response.headers["content-type"]) == (200, "application/json")
    told: dict[str, Any] = response.json()
    return told


def operations(told: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in told["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def refs(value: Any) -> Iterator[str]:
    """Every $ref in a value."""
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            yield from refs(inner)


def test_it_is_a_valid_document(told: dict[str, Any]) -> None:
    validate(told)


def test_all_that_it_refers_to_is_there_and_used(told: dict[str, Any]) -> None:
    used = {tuple(name.removeprefix("#/components/").split("/")) for name in refs(told)}
    assert used == {(kind, name) for kind in ("schemas", "responses") for name in told["components"][kind]}
    assert len(told["components"]["schemas"]) == sum(len(part.SCHEMAS) for part in PARTS), "two parts use one name"


def endpoints(app: Application) -> set[Any]:
    """The function behind every route; both, where one address has two."""

    def walk(routes: Any) -> Iterator[Any]:
        for route in routes:
            if isinstance(route, Mount):
                yield from walk(route.routes)
            else:
                assert isinstance(route, Route)
                yield from route.endpoint.args if isinstance(route.endpoint, partial) else [route.endpoint]

    return {plain(endpoint) for endpoint in walk(app.app.routes)}


def test_every_route_is_described_and_every_description_has_a_route(app: Application) -> None:
    assert endpoints(app) == set(OPERATIONS) | CATCH_ALLS


def test_it_has_every_address(app: Application, told: dict[str, Any]) -> None:
    """Those of the route table, but for Vertex AI's, where one route has several names of models."""
    routed = {
        (path, method.lower())
        for path, method, endpoint in addresses(app.app.routes)
        if isinstance(described(endpoint), Operation)
    }
    there = {(path, method) for path, method, _ in operations(told)}
    assert routed <= there
    assert {path.rpartition("/")[2] for path, _ in there - routed} == {
        "{model}:rawPredict",
        "{model}:streamRawPredict",
        "count-tokens:rawPredict",
        "count-tokens:streamRawPredict",
    }
    for prefix in ("", "/anthropic", "/bedrock/anthropic", "/api"):
        assert (f"{prefix}/v1/messages", "post") in there
    assert ("/model/{model_id}/converse", "post") in there
    assert ("/bedrock/model/{model_id}/converse", "post") in there


def test_parts_of_addresses_are_described(told: dict[str, Any]) -> None:
    for path, _, operation in operations(told):
        named = [part.partition("}")[0] for part in path.split("{")[1:]]
        parameters = operation.get("parameters", [])
        assert [each["name"] for each in parameters if each["in"] == "path"] == named, path
        assert len({(each["in"], each["name"]) for each in parameters}) == len(parameters)


def test_ids_are_its_own(told: dict[str, Any]) -> None:
    ids = [operation["operationId"] for _, _, operation in operations(told)]
    assert len(set(ids)) == len(ids)


def test_refusals_have_the_shape_of_the_door(told: dict[str, Any]) -> None:
    assert set(SHAPES) == {"messages", *(door.name for door in DOORS)}
    expected = {
        "/v1/messages": "Claude",
        "/bedrock/anthropic/v1/messages": "Claude",
        "/api/v1/messages": "Claude",
        "/api/v1/chat/completions": "OpenRouter",
        "/v1/chat/completions": "OpenAI",
        "/openai/v1/models": "OpenAI",
        "/v1/models": "OpenAIOrClaude",
        "/model/{model_id}/converse": "Bedrock",
        "/v1/projects/{project}/locations/{location}/publishers/{publisher}/models/{model}:rawPredict": "Vertex",
    }
    for path, name in expected.items():
        for operation in told["paths"][path].values():
            for status in ("4XX", "5XX"):
                assert operation["responses"][status] == {"$ref": f"#/components/responses/{name}Refusal"}
    headers = told["components"]["responses"]["BedrockRefusal"]["headers"]
    assert set(headers) == {"request-id", "x-amzn-requestid", "retry-after"}


def test_an_address_with_two_shapes_has_both(told: dict[str, Any]) -> None:
    operation = told["paths"]["/v1/models"]["get"]
    schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
    assert list(refs(schema)) == ["#/components/schemas/ModelPage", "#/components/schemas/OpenAIModelList"]
    (version,) = (each for each in operation["parameters"] if each["name"] == "anthropic-version")
    assert version["required"] is False
    (there,) = (each for each in told["paths"]["/anthropic/v1/models"]["get"]["parameters"] if each["in"] == "header")
    assert (there["name"], there["required"]) == ("anthropic-version", True)


@pytest.mark.parametrize(
    ("settings", "open_to_all"),
    [
        ({}, {"/v1/messages", "/model/{model_id}/converse", "/health", "/openapi.json"}),
        ({"aws_keys": {"AKID": "secret"}}, {"/v1/messages", "/health", "/openapi.json"}),
        ({"api_key": "secret"}, {"/health", "/openapi.json"}),
    ],
)
def test_keys(app: Application, settings: dict[str, Any], open_to_all: set[str]) -> None:
    told = document(app.app.routes, DOORS, Settings(home=Path("nowhere"), **settings))
    ways = {path: operation["security"] for path, _, operation in operations(told)}
    assert ways["/v1/messages"][:2] == [{"key": []}, {"bearer": []}]
    assert {"sigv4": []} in ways["/model/{model_id}/converse"]
    assert {"sigv4": []} not in ways["/v1/messages"]
    for path in ("/v1/messages", "/model/{model_id}/converse", "/health", "/openapi.json"):
        assert (not ways[path] or {} in ways[path]) == (path in open_to_all)


def test_it_needs_no_key_and_others_do(app: Application) -> None:
    assert app.ask("GET", "/openapi.json").status_code == 200
    assert app.ask("GET", "/v1/models").status_code == 401


def test_it_is_the_same_twice(app: Application, told: dict[str, Any]) -> None:
    assert app.ask("GET", "/openapi.json").json() == told == json.loads(json.dumps(told))
