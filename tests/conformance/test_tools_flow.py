"""Reference 3.1 to 3.6: calls, choices, streams of input, histories, structured outputs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from asking import TOOL, Asked, after_call, body, result, use

from senryu.engine.interface import TokenRequest
from serving import END, SPECIALS, TOKENIZER, scripted_model, serving

CALL = SPECIALS.index("<|call|>")
PLACE = {
    "name": "place",
    "input_schema": {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "days": {"type": "array", "items": {"type": "integer"}},
            "at": {"type": "object", "properties": {"hour": {"type": "integer"}}},
        },
        "required": ["city"],
    },
}
BOTH = [TOOL, PLACE]
KYOTO = {"city": "Kyoto", "days": [1, 2], "at": {"hour": 7}}
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "schema": PERSON}


def written(name: str, arguments: dict[str, Any]) -> list[int]:
    """A call as the model writes it."""
    return [CALL, *TOKENIZER.encode(f'{{"name": "{name}", "arguments": {json.dumps(arguments)}}}')]


ANSWERS = {  # word of the prompt -> what the model wants to say
    "one": written("place", KYOTO),
    "two": [*written("place", KYOTO), *written("weather", {"city": "Nara"})],
    "both": [*TOKENIZER.encode("Let me look."), *written("weather", {"city": "Nara"})],
    "words": TOKENIZER.encode("No tool is needed."),
    "person": TOKENIZER.encode('{"name": "Basho", "age": 50}'),
}


def reply(request: TokenRequest) -> list[int]:
    asked = TOKENIZER.decode(request.ids)
    wanted = max(ANSWERS, key=lambda word: asked.rfind(f"say {word}"))
    return [*ANSWERS[wanted], END]


@pytest.fixture(scope="module")
def model() -> Iterator[Asked]:
    with serving(scripted_model(reply)) as url:
        yield Asked(url)


def wants(word: str, **fields: Any) -> dict[str, Any]:
    return body(**{"tools": BOTH, "max_tokens": 400, "messages": [{"role": "user", "content": f"say {word}"}], **fields})


def calls(message: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(block["name"], block["input"]) for block in message["content"] if block["type"] == "tool_use"]


def test_a_call(model: Asked) -> None:
    message = model.message(wants("one"))
    (block,) = message["content"]
    assert block.pop("id").startswith("toolu_")
    assert block == {"type": "tool_use", "name": "place", "input": KYOTO}
    assert (message["stop_reason"], message["stop_sequence"]) == ("tool_use", None)


def test_text_may_stand_before_a_call(model: Asked) -> None:
    message = model.message(wants("both"))
    assert [block["type"] for block in message["content"]] == ["text", "tool_use"]
    assert message["content"][0]["text"] == "Let me look."
    assert message["stop_reason"] == "tool_use"


def test_calls_in_parallel_have_ids_of_their_own(model: Asked) -> None:
    message = model.message(wants("two"))
    assert calls(message) == [("place", KYOTO), ("weather", {"city": "Nara"})]
    assert len({block["id"] for block in message["content"]}) == 2


@pytest.mark.parametrize("kind", [{"type": "auto"}, {"type": "any"}, {"type": "tool", "name": "place"}])
def test_not_in_parallel(model: Asked, kind: dict[str, Any]) -> None:
    message = model.message(wants("two", tool_choice={**kind, "disable_parallel_tool_use": True}))
    assert calls(message) == [("place", KYOTO)]


def test_no_tool_at_all_is_as_good_an_answer(model: Asked) -> None:
    for choice in ({"type": "auto"}, {"type": "auto", "disable_parallel_tool_use": True}):
        message = model.message(wants("words", tool_choice=choice))
        assert (calls(message), message["stop_reason"]) == ([], "end_turn")


@pytest.mark.parametrize("word", ["one", "words", "both"])
@pytest.mark.parametrize(
    ("choice", "names"), [({"type": "any"}, {"weather", "place"}), ({"type": "tool", "name": "weather"}, {"weather"})]
)
def test_a_forced_call_has_no_text_before_it(model: Asked, word: str, choice: dict[str, Any], names: set[str]) -> None:
    """Whatever the model would rather say."""
    message = model.message(wants(word, tool_choice=choice))
    assert message["content"]
    assert {block["type"] for block in message["content"]} == {"tool_use"}
    assert {name for name, _ in calls(message)} <= names


def test_none_calls_nothing(model: Asked) -> None:
    for word in ("one", "two", "both"):
        message = model.message(wants(word, tool_choice={"type": "none"}))
        assert calls(message) == []
        assert message["stop_reason"] != "tool_use"


def deltas(events: list[dict[str, Any]]) -> list[str]:
    return [event["delta"]["partial_json"] for event in events if event.get("delta", {}).get("type") == "input_json_delta"]


def test_a_stream_of_input_comes_by_key_and_value(model: Asked) -> None:
    events = model.events(wants("one"))
    start = next(event for event in events if event["type"] == "content_block_start")
    assert start["content_block"]["input"] == {}
    first, *pieces = deltas(events)
    assert first == ""
    assert len(pieces) >= len(KYOTO)
    whole = ""
    for piece in pieces:
        whole += piece
        json.loads(whole if whole.endswith("}") and piece == pieces[-1] else whole + "}")
    assert json.loads(whole) == KYOTO
    assert events[-2]["delta"]["stop_reason"] == "tool_use"


@pytest.mark.parametrize("how", ["tool", "beta"])
def test_an_eager_stream_of_input_comes_as_it_is_written(model: Asked, how: str) -> None:
    eager = how == "tool"
    tools = [{**tool, "eager_input_streaming": True} for tool in BOTH] if eager else BOTH
    headers = [] if eager else [("anthropic-beta", "fine-grained-tool-streaming-2025-05-14")]
    pieces = deltas(model.events(wants("one", tools=tools), headers=headers))
    assert pieces[0] == ""
    assert json.loads("".join(pieces)) == KYOTO


def test_the_stream_and_the_message_are_the_same(model: Asked) -> None:
    for word in ANSWERS:
        events, message = model.events(wants(word)), model.message(wants(word))
        starts = [event["content_block"] for event in events if event["type"] == "content_block_start"]
        assert [block["type"] for block in starts] == [block["type"] for block in message["content"]]
        stops = [event["index"] for event in events if event["type"] == "content_block_stop"]
        assert stops == list(range(len(starts)))
        assert events[-2]["usage"]["output_tokens"] == message["usage"]["output_tokens"]


def test_max_tokens_may_cut_a_call(model: Asked) -> None:
    message = model.message(wants("one", max_tokens=50))
    assert message["stop_reason"] == "max_tokens"
    (block,) = message["content"]
    assert (block["type"], block["name"]) == ("tool_use", "place")
    assert block["input"].items() <= KYOTO.items()


def test_a_loop_of_tools(model: Asked) -> None:
    first = model.message(wants("one"))
    block = first["content"][0]
    answered = {"type": "tool_result", "tool_use_id": block["id"], "content": "Gion. Now say words"}
    history = [
        *wants("one")["messages"],
        {"role": "assistant", "content": first["content"]},
        {"role": "user", "content": [answered]},
    ]
    last = model.message(wants("words", messages=history))
    assert (last["content"][0]["text"], last["stop_reason"]) == ("No tool is needed.", "end_turn")
    without = wants("words", messages=history)
    del without["tools"]
    assert model.message(without)["stop_reason"] == "end_turn"


def count(model: Asked, value: dict[str, Any]) -> int:
    counted = {key: part for key, part in value.items() if key != "max_tokens"}
    number: int = model.post(counted, "/v1/messages/count_tokens").json()["input_tokens"]
    return number


def test_tools_calls_and_results_are_counted(model: Asked) -> None:
    values = [
        body(),
        body(tools=[TOOL]),
        after_call(result()),
        after_call(result(content="18 °C")),
        after_call(result(content="18 °C"), calls=[use(input={"city": "Kyoto", "more": "x" * 50})]),
        body(tools=BOTH),
    ]
    counts = [count(model, value) for value in values]
    assert counts == sorted(set(counts))
    assert counts == [model.message(value)["usage"]["input_tokens"] for value in values]


def test_an_answer_by_a_schema(model: Asked) -> None:
    message = model.message(wants("person", tools=None, output_config={"format": FORMAT}))
    assert json.loads(message["content"][0]["text"]) == {"name": "Basho", "age": 50}
    old = model.message(
        wants("person", tools=None, output_format=FORMAT), headers=[("anthropic-beta", "structured-outputs-2025-11-13")]
    )
    assert old["content"] == message["content"]


def test_an_answer_by_a_schema_whatever_the_model_would_say(model: Asked) -> None:
    text = model.message(wants("words", tools=None, output_config={"format": FORMAT}))["content"][0]["text"]
    assert text.startswith('{"name":')


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({"schema": {"type": "object", "properties": {}}}, "'additionalProperties' must be explicitly set to false"),
        ({"schema": {**PERSON, "additionalProperties": True}}, "additionalProperties"),
        ({"schema": {**PERSON, "$ref": "https://x/y"}}, "output_config.format"),
    ],
)
def test_schemas_that_are_refused(model: Asked, fields: dict[str, Any], part: str) -> None:
    assert part in model.refusal(wants("person", tools=None, output_config={"format": {"type": "json_schema", **fields}}))


def test_a_schema_goes_not_with_prefill(model: Asked) -> None:
    prefill = [*wants("person")["messages"], {"role": "assistant", "content": "{"}]
    assert "output_config.format" in model.refusal(
        wants("person", tools=None, messages=prefill, output_config={"format": FORMAT})
    )


def test_strict_tools_have_closed_schemas_and_a_limit(model: Asked) -> None:
    assert "additionalProperties" in model.refusal(wants("one", tools=[{**TOOL, "strict": True}]))
    closed = {**TOOL, "strict": True, "input_schema": {**TOOL["input_schema"], "additionalProperties": False}}  # type: ignore[dict-item]
    many = [{**closed, "name": f"t{i}"} for i in range(21)]
    assert "20" in model.refusal(wants("words", tools=many))
    model.message(wants("words", tools=many[:20]))


def test_the_sdk_reads_calls(model: Asked) -> None:
    with anthropic.Anthropic(base_url=model.url, api_key="k", max_retries=0, _strict_response_validation=True) as client:
        asked: Any = {
            "model": "senryu-mini",
            "max_tokens": 400,
            "tools": BOTH,
            "messages": [{"role": "user", "content": "say two"}],
        }
        with client.messages.stream(**asked) as stream:
            snapshots = [event.snapshot for event in stream if event.type == "input_json"]
            final = stream.get_final_message()
        assert KYOTO in snapshots
        assert [block.input for block in final.content if block.type == "tool_use"] == [KYOTO, {"city": "Nara"}]
        answered = [{"type": "tool_result", "tool_use_id": block.id, "content": "say words"} for block in final.content]  # type: ignore[union-attr]
        history = [*asked["messages"], {"role": "assistant", "content": final.content}, {"role": "user", "content": answered}]
        assert client.messages.create(**{**asked, "messages": history}).stop_reason == "end_turn"
