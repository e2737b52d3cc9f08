"""Answers by a schema: valid whatever the model would say, keys in the order that is promised; what is refused, and why."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from families import FAMILIES, written
from test_tools import NAMES, OPEN, TOOLS, blocks_of, closed, inputs_of, several, strict
from test_turn import assistant, events, finish_of, text_of, turn, user

from senryu.errors import SenryuError
from senryu.service.structured import check_strict, required_first
from senryu.types import Text, ToolChoice

PERSON = closed(
    {
        "nick": {"type": "string", "maxLength": 5},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "home": closed({"zip": {"type": "string", "pattern": "^[0-9]{4}$"}, "city": {"enum": ["Zürich", "京都"]}}, ["city"]),
        "name": {"type": "string", "minLength": 1, "maxLength": 9},
    },
    ["name", "home"],
)


@pytest.mark.parametrize("name", NAMES)
def test_every_answer_matches(name: str) -> None:
    """Required keys first, in the schema's order; white space as models write it."""
    turns = [turn(output_schema=PERSON, max_tokens=500, seed=seed) for seed in range(10)]
    optional = set()
    for answer in several(FAMILIES[name].model(), turns):
        (block,) = blocks_of(answer)
        assert isinstance(block, Text)
        value = json.loads(block.text)
        jsonschema.Draft7Validator(PERSON).validate(value)
        assert list(value)[:2] == ["home", "name"]
        assert next(iter(value["home"])) == "city"
        assert block.text.startswith('{"home": {"city": "')
        assert finish_of(answer).stop_reason == "end_turn"
        optional |= value.keys() - {"home", "name"}
    assert optional == {"nick", "age"}


def test_an_answer_may_be_cut() -> None:
    mini = FAMILIES["mini"]
    said = '{"home": {"city": "Zürich"}, "name": "Ann"}'
    answer = events(mini.model(mini.says(said)), turn(output_schema=PERSON, max_tokens=20))
    assert text_of(answer) == said[:20]
    assert finish_of(answer).stop_reason == "max_tokens"
    answer = events(mini.model(mini.says(said)), turn(output_schema=PERSON, stop_sequences=('"name"',)))
    assert (text_of(answer), finish_of(answer).stop_reason) == (said.split('"name"')[0], "stop_sequence")


@pytest.mark.parametrize("name", [name for name in NAMES if name != "llama 3"])
def test_with_tools_it_is_calls_or_the_schema(name: str) -> None:
    family = FAMILIES[name]
    call = written(family, [("now", "{}")])
    asked = {"output_schema": PERSON, "tools": TOOLS, "max_tokens": 500}
    said = '{"home": {"city": "京都"}, "name": "Bo", "age": 7}'
    assert inputs_of(events(family.model(family.says(call)), turn(**asked))) == [("now", {})]
    answer = events(family.model(family.says(said)), turn(**asked))
    assert (text_of(answer), finish_of(answer).stop_reason) == (said, "end_turn")
    none = turn(**asked, tool_choice=ToolChoice("none"))
    assert text_of(events(family.model(family.says(said)), none)) == said
    forced = turn(**asked, tool_choice=ToolChoice("tool", "now", parallel=False))
    assert inputs_of(events(family.model(family.says(said)), forced)) == [("now", {})]


def test_calls_that_are_json_messages_cannot_be_told_from_the_schema() -> None:
    llama = FAMILIES["llama 3"]
    with pytest.raises(SenryuError, match="Set tool_choice to any, tool or none"):
        events(llama.model(), turn(output_schema=PERSON, tools=TOOLS))
    forced = turn(output_schema=PERSON, tools=TOOLS, tool_choice=ToolChoice("tool", "now"), max_tokens=100)
    assert inputs_of(events(llama.model(), forced)) == [("now", {})]


PATH = "output_config.format.schema: "


@pytest.mark.parametrize(
    ("schema", "why"),  # the first two as the original words them; the rest is unverified
    [
        (OPEN, PATH + "For 'object' type, 'additionalProperties' must be explicitly set to false"),
        (
            closed({"a": {"type": "object", "additionalProperties": {"type": "string"}}}),
            PATH + "For 'object' type, 'additionalProperties: object' is not supported. "
            "Please set 'additionalProperties' to false",
        ),
        ({"$defs": {"d": OPEN}, "type": "array", "items": {"$ref": "#/$defs/d"}}, "must be explicitly set to false"),
        (closed({"a": {"anyOf": [{"type": "null"}, OPEN]}}), "must be explicitly set to false"),
        ({"type": ["object", "null"]}, "must be explicitly set to false"),
        ({"type": "array", "uniqueItems": True}, PATH + 'Unimplemented keys: ["uniqueItems"]'),
        ({"type": "array", "uniqueItems": True, "x-guidance": {"lenient": True}}, "uniqueItems"),
        ({"type": "string", "pattern": r"\bx"}, PATH + "lookarounds not supported"),
        ({"type": "string", "pattern": r"(a)\1"}, PATH + "regex parse error"),
        ({"$ref": "https://example.com/schema.json"}, PATH + "Resource 'https://example.com/schema.json'"),
        ({"type": "strin"}, PATH + "Invalid type: strin"),
        ({"type": "string", "format": "made-up"}, PATH + "Unknown format: made-up"),
        ({"type": "string", "minLength": 3, "maxLength": 2}, PATH + "Unsatisfiable schema"),
        ({"enum": []}, PATH + "Unsatisfiable schema"),
        (closed({f"p{i}": {} for i in range(25)}), "25 optional parameters"),
        (
            closed({f"p{i}": {"anyOf": [{}, {}]} for i in range(17)}, [f"p{i}" for i in range(17)]),
            "17 parameters with union",
        ),
    ],
)
def test_a_schema_is_kept_to_or_refused(schema: dict[str, Any], why: str) -> None:
    model = FAMILIES["mini"].model()
    with pytest.raises(SenryuError) as caught:
        events(model, turn(output_schema=schema))
    assert why in caught.value.message
    assert caught.value.status == 400
    assert model.engine.stats().prompt_tokens == 0


def test_a_schema_that_nests_too_deep_is_too_complex() -> None:
    schema: dict[str, Any] = {"type": "integer"}
    for _ in range(5000):
        schema = {"type": "array", "items": schema}
    with pytest.raises(SenryuError, match=r"^output_config.format.schema: Schema is too complex for compilation.$"):
        events(FAMILIES["mini"].model(), turn(output_schema=schema))


def test_limits_count_all_strict_schemas_together() -> None:
    most = [(f"tools.{i}.custom", closed({"a": {}, "b": {"type": ["null", "string"]}})) for i in range(12)]
    check_strict(most)
    with pytest.raises(SenryuError, match="25 optional"):
        check_strict([*most, ("x", closed({"c": {}}))])
    tools = tuple(strict(schema, f"t{i}") for i, (_, schema) in enumerate(most))
    with pytest.raises(SenryuError, match="27 optional"):
        events(FAMILIES["mini"].model(), turn(tools=tools, output_schema=PERSON))


def test_it_does_not_go_with_prefill() -> None:
    """In words of our own: unverified."""
    with pytest.raises(SenryuError, match=r"^output_config.format: structured output and a final assistant message cannot"):
        events(FAMILIES["mini"].model(), turn(user("go"), assistant("{"), output_schema=PERSON))


def test_required_first_reaches_every_object() -> None:
    inner = {"properties": {"b": {}, "a": {}, "c": {}}, "required": ["c", "a"]}
    expected = ["a", "c", "b"]
    schema = {"properties": {"x": inner, "y": {"items": inner}, "z": {"anyOf": [inner, True]}}, "$defs": {"d": inner},
              "required": ["z"], "additionalProperties": inner, "default": inner}  # fmt: skip
    made = required_first(schema)
    assert list(made["properties"]) == ["z", "x", "y"]
    for found in (made["properties"]["x"], made["properties"]["y"]["items"], made["properties"]["z"]["anyOf"][0],
                  made["$defs"]["d"], made["additionalProperties"]):  # fmt: skip
        assert list(found["properties"]) == expected
    assert list(made["default"]["properties"]) == ["b", "a", "c"]  # a value, not a schema
    assert list(inner["properties"]) == ["b", "a", "c"]
