"""What the document says of bodies is what the parsers do: the same fields, and the same places where they refuse."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import pytest
from changes import changes, put
from everything import TAKEN, VERSION, Taken
from in_process import Application, application
from jsonschema import Draft202012Validator

from senryu.api.fields import Fields
from senryu.api.openapi.document import SCHEMAS
from senryu.errors import SenryuError
from senryu.service.registry import Registry
from serving import scripted_model

NAMES: ContextVar[set[str] | None] = ContextVar("NAMES", default=None)
BETWEEN_FIELDS = {  # refusals of what is right field by field
    "bad_arguments",
    "bad_example",
    "both_given",
    "cache_point",
    "choice_without_tools",
    "inner_breakpoint",
    "model_unknown",
    "prewarm",
    "schema_text",
    "stream_options",
    "two_formats",
    "unknown_beta",
}
EACH = 300  # changes of a body that are tried


@pytest.fixture(scope="module")
def app() -> Iterator[Application]:
    with application(scripted_model()) as app:
        yield app


def validator(schema: str) -> Draft202012Validator:
    return Draft202012Validator({"$ref": f"#/components/schemas/{schema}", "components": {"schemas": SCHEMAS}})


@pytest.fixture
def taken_names(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The names that parsers take from the top of a body, in requests of this test's own."""
    names: set[str] = set()
    NAMES.set(names)
    for method in ("take", "take_or"):
        real = getattr(Fields, method)

        def record(self: Fields, name: str, *rest: Any, real: Any = real) -> Any:
            if not self.where and (found := NAMES.get()) is not None:
                found.add(name)
            return real(self, name, *rest)

        monkeypatch.setattr(Fields, method, record)
    return names


@pytest.mark.parametrize("taken", TAKEN, ids=lambda taken: taken.schema)
def test_the_parser_takes_what_is_described(app: Application, taken: Taken, taken_names: set[str]) -> None:
    described = set(SCHEMAS[taken.schema]["properties"])
    assert described == set(taken.bodies[0]), "the body does not have all fields"
    response = app.ask("POST", taken.path, json=taken.bodies[0], headers=VERSION)
    assert response.status_code == 200, response.text
    assert taken_names - taken.said == described


@pytest.mark.parametrize("taken", TAKEN, ids=lambda taken: taken.schema)
def test_all_bodies_are_right(app: Application, taken: Taken) -> None:
    for body in taken.bodies:
        validator(taken.schema).validate(body)
        taken.read(Registry([app.model]), body)


def differences(app: Application, taken: Taken, most: int | None) -> tuple[int, list[Any]]:
    """How many changed bodies were tried, and where parser and schema do not agree."""
    draw, check, registry = random.Random(taken.schema), validator(taken.schema), Registry([app.model])
    every = [(body, at, new) for body in taken.bodies for at, new in changes(body) if len(at) >= taken.depth]
    tried = every if most is None else draw.sample(every, min(most, len(every)))
    found = []
    for body, at, new in tried:
        changed = put(body, at, new)
        try:
            taken.read(registry, changed)
            why = ""
        except SenryuError as error:
            why = f"{error.code}: {error.message}"
        if error_code(why) in BETWEEN_FIELDS or "document.format: Field required" in why:
            continue
        if check.is_valid(changed) != (not why):
            found.append((at, new, why or "the parser takes it"))
    return len(tried), found


def error_code(why: str) -> str:
    return why.partition(":")[0]


@pytest.mark.parametrize("taken", TAKEN, ids=lambda taken: taken.schema)
def test_parser_and_schema_refuse_the_same(app: Application, taken: Taken) -> None:
    tried, found = differences(app, taken, EACH)
    assert tried
    assert not found, found[:5]


@pytest.mark.slow
@pytest.mark.parametrize("taken", TAKEN, ids=lambda taken: taken.schema)
def test_parser_and_schema_refuse_the_same_everywhere(app: Application, taken: Taken) -> None:
    tried, found = differences(app, taken, None)
    print(f"{taken.schema}: {tried} changed bodies")
    assert not found, found[:5]
