"""Requests that schemathesis makes of the document, right ones and wrong ones, for every operation.

None is answered 5xx, none breaks a stream, all answers to right ones are as described, and no page is left held.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import schemathesis
from checker import Checker
from everything import BETAS
from hypothesis import HealthCheck, Phase, given, seed, settings
from in_process import URL, Application, application
from schemathesis import Case, GenerationMode

from senryu.service.limits import Limits
from senryu.service.registry import HAIKU, MINI
from serving import says, scripted_model

FEW, MANY = 6, 100
MODEL = {"enum": [HAIKU, MINI, "claude-3-5-haiku-latest"]}
TOKENS = {"type": "integer", "minimum": 0, "maximum": 32}
NARROW: dict[str, Any] = {
    **dict.fromkeys(("model", "model_id"), MODEL),
    **dict.fromkeys(("max_tokens", "max_completion_tokens", "max_output_tokens", "maxTokens"), TOKENS),
    "anthropic-beta": {"enum": BETAS},
    "anthropic_beta": {"type": "array", "items": {"enum": BETAS}, "maxItems": 3},
}
MODES = {"right": GenerationMode.POSITIVE, "wrong": GenerationMode.NEGATIVE}


@pytest.fixture(scope="module")
def app() -> Iterator[Application]:
    """Its answers are short, whatever is asked for."""
    with application(scripted_model(says("Hello"), check=True, limits=Limits(4096, 32))) as app:
        yield app
        assert app.rests()


@pytest.fixture(scope="module")
def checker(app: Application) -> Checker:
    return Checker(app.ask("GET", "/openapi.json").json())


def narrowed(value: Any, name: str = "") -> Any:
    """The document with models and betas that are there, and few tokens: by chance nothing would get past those."""
    if isinstance(value, list):
        return [narrowed(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    if name in NARROW:
        return NARROW[name]
    if value.get("in") and value.get("name") in NARROW:
        return {**value, "schema": NARROW[value["name"]]}
    return {key: narrowed(inner, key) for key, inner in value.items()}


@pytest.fixture(scope="module")
def operations(checker: Checker) -> list[Any]:
    """Each once, whatever addresses it has."""
    schema, seen, kept = schemathesis.openapi.from_dict(narrowed(checker.told)), set(), []
    for result in schema.get_all_operations():
        operation = result.ok()
        told = checker.told["paths"][operation.path][operation.method]
        body = str(told.get("requestBody")), told["summary"], str(told["responses"])
        if body not in seen:
            seen.add(body)
            kept.append(operation)
    return kept


def send(app: Application, case: Case) -> tuple[Any, requests.PreparedRequest]:
    """(the answer, what was sent)."""
    request = requests.Request(**case.as_transport_kwargs(base_url=URL)).prepare()
    how: dict[str, Any] = {"content": request.body or b"", "headers": dict(request.headers)}
    return app.ask(request.method or "", request.path_url, **how), request


def fuzz(app: Application, checker: Checker, operation: Any, mode: str, count: int, number: int = 0) -> Counter[int]:
    """How often each status was answered."""
    statuses: Counter[int] = Counter()
    told = checker.told["paths"][operation.path][operation.method]
    if mode == "wrong" and "requestBody" not in told and all(each["in"] == "path" for each in told.get("parameters", [])):
        return statuses  # any name may stand in the address

    @seed(number)
    @settings(
        max_examples=count, deadline=None, database=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate]
    )
    @given(case=operation.as_strategy(generation_mode=MODES[mode]))
    def one(case: Case) -> None:
        response, request = send(app, case)
        statuses[response.status_code] += 1
        assert response.status_code < 500, (request.method, request.url, request.body, response.text)
        if mode == "right":
            checker.check(response, operation.method, operation.path)

    one()
    return statuses


@pytest.mark.parametrize("mode", MODES)
def test_a_few_requests_of_each(app: Application, checker: Checker, operations: list[Any], mode: str) -> None:
    for operation in operations:
        fuzz(app, checker, operation, mode, FEW)
    assert app.rests()


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_many_requests_of_each(app: Application, checker: Checker, operations: list[Any], mode: str) -> None:
    for operation in operations:
        print(mode, operation.label, dict(fuzz(app, checker, operation, mode, MANY, number=1)))
        assert app.rests()
