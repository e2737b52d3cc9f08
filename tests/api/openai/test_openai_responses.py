"""POST /v1/responses: text and functions, whole and in typed events."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai_door import Door

WEATHER = {
    "type": "function",
    "name": "weather",
    "parameters": {"type": "object", "properties": {"city": {"enum": ["Kyoto", "Oslo"]}}, "required": ["city"]},
    "strict": False,
}
ASK = 'CALL weather {"city": "Kyoto"}'


def text_of(response: dict[str, Any]) -> str:
    return "".join(part["text"] for item in response["output"] if item["type"] == "message" for part in item["content"])


def test_a_response(door: Door) -> None:
    answer = door.post("responses", input="Hello", instructions="Be brief.", metadata={"a": "b"}).json()
    assert answer["id"].startswith("resp_01")
    assert (answer["object"], answer["status"], answer["error"], answer["incomplete_details"]) == (
        "response",
        "completed",
        None,
        None,
    )
    (item,) = answer["output"]
    assert item.pop("id").startswith("msg_")
    assert item == {
        "type": "message",
        "status": "completed",
        "role": "assistant",
        "content": [{"type": "output_text", "text": "Hello", "annotations": [], "logprobs": []}],
    }
    assert answer["usage"]["output_tokens"] == 6
    assert answer["usage"]["total_tokens"] == answer["usage"]["input_tokens"] + 6
    assert set(answer["usage"]) == {
        "input_tokens",
        "input_tokens_details",
        "output_tokens",
        "output_tokens_details",
        "total_tokens",
    }
    assert (answer["store"], answer["previous_response_id"]) == (False, None)
    assert (answer["instructions"], answer["metadata"]) == ("Be brief.", {"a": "b"})
    again = door.post("responses", input="Hello", instructions="Be brief.").json()
    assert again["usage"]["input_tokens_details"]["cached_tokens"] > 10


def test_what_is_counted_is_what_is_used(door: Door) -> None:
    body: dict[str, Any] = {"input": ASK, "instructions": "Be brief.", "tools": [WEATHER], "tool_choice": "auto"}
    counted = door.post("responses/input_tokens", **body)
    assert counted.status_code == 200, counted.text
    assert counted.json() == {
        "object": "response.input_tokens",
        "input_tokens": door.post("responses", **body).json()["usage"]["input_tokens"],
    }
    assert door.refusal("responses/input_tokens", **body, max_output_tokens=8)["param"] == "max_output_tokens"
    assert door.refusal("responses/input_tokens", status=404, input="Hi", model="gpt-9")["code"] == "model_not_found"


def test_what_the_model_reads_is_what_chat_reads(door: Door) -> None:
    items = [
        {"role": "developer", "content": "Two."},
        {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
        {
            "type": "message",
            "id": "msg_1",
            "status": "completed",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "Yes?", "annotations": [], "logprobs": []}],
        },
        {"role": "system", "content": "Later."},
    ]
    answer = door.post("responses", instructions="One.", input=items).json()
    chat = door.chat(
        [
            {"role": "system", "content": "One.\nTwo."},
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "Yes?"},
            {"role": "user", "content": "Later."},
        ]
    )
    assert text_of(answer) == chat["choices"][0]["message"]["content"] == "Later."
    assert answer["usage"]["input_tokens"] == chat["usage"]["prompt_tokens"]


def test_calls_and_their_results(door: Door) -> None:
    first = door.post("responses", input=ASK, tools=[WEATHER]).json()
    (call,) = first["output"]
    assert call["id"].startswith("fc_")
    assert call["call_id"].startswith("call_")
    assert (call["type"], call["name"], call["arguments"]) == ("function_call", "weather", '{"city":"Kyoto"}')
    result = {"type": "function_call_output", "call_id": call["call_id"], "output": "rain"}
    history = [{"role": "user", "content": ASK}, call]
    second = door.post("responses", input=[*history, result], tools=[WEATHER]).json()
    assert text_of(second) == "so it is"
    error = door.refusal("responses", input=history, tools=[WEATHER])
    assert (error["param"], call["call_id"] in error["message"]) == ("input[1]", True)


def test_a_stream_of_text(door: Door) -> None:
    events = door.stream("responses", input="Hello there")
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    kinds = [event["type"] for event in events]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert set(kinds[4:-4]) == {"response.output_text.delta"}
    assert "".join(event["delta"] for event in events[4:-4]) == "Hello there"
    last = events[-1]["response"]
    assert text_of(last) == events[-4]["text"] == "Hello there"
    assert last["id"] == events[0]["response"]["id"]
    assert last["output"] == [events[-2]["item"]]
    assert len({event["item_id"] for event in events if "item_id" in event}) == 1
    assert last["usage"]["output_tokens"] == 12


def test_a_stream_of_calls(door: Door) -> None:
    events = door.stream("responses", input=f"{ASK}; weather {{}}".replace("{}", '{"city": "Oslo"}'), tools=[WEATHER])
    added = [event for event in events if event["type"] == "response.output_item.added"]
    assert [event["output_index"] for event in added] == [0, 1]
    done = [event for event in events if event["type"] == "response.function_call_arguments.done"]
    for event, start, city in zip(done, added, ("Kyoto", "Oslo"), strict=True):
        assert json.loads(event["arguments"]) == {"city": city}
        assert event["item_id"] == start["item"]["id"]
        deltas = [
            one["delta"]
            for one in events
            if one["type"] == "response.function_call_arguments.delta" and one["item_id"] == event["item_id"]
        ]
        assert json.loads("".join(deltas)) == {"city": city}
    assert [item["name"] for item in events[-1]["response"]["output"]] == ["weather", "weather"]


def test_an_answer_that_is_cut(door: Door) -> None:
    answer = door.post("responses", input="one two three", max_output_tokens=3).json()
    assert (answer["status"], answer["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert answer["output"][0]["status"] == "incomplete"
    events = door.stream("responses", input="one two three", max_output_tokens=3)
    assert events[-1]["type"] == "response.incomplete"
    assert events[-2]["item"]["status"] == "incomplete"


def test_the_form_of_the_answer(door: Door) -> None:
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"], "additionalProperties": False}
    form = {"type": "json_schema", "name": "answer", "schema": schema, "strict": True}
    answer = door.post("responses", input="no JSON", text={"format": form}).json()
    assert isinstance(json.loads(text_of(answer))["ok"], bool)
    assert answer["text"]["format"] == form
    forced = {"type": "function", "name": "weather"}
    called = door.post("responses", input="x", tools=[WEATHER], tool_choice=forced, parallel_tool_calls=False).json()
    assert [item["name"] for item in called["output"]] == ["weather"]


UNHEARD: list[tuple[str, Any, str]] = [
    ("store", True, "store"),
    ("previous_response_id", "resp_1", "previous_response_id"),
    ("conversation", "conv_1", "conversation"),
    ("background", True, "background"),
    ("include", ["reasoning.encrypted_content"], "include"),
    ("reasoning", {"effort": "high"}, "reasoning.effort"),
    ("truncation", "auto", "truncation"),
    ("prompt", {"id": "pmpt_1"}, "prompt"),
    ("max_tool_calls", 3, "max_tool_calls"),
    ("top_logprobs", 2, "top_logprobs"),
    ("text", {"verbosity": "low"}, "text.verbosity"),
]


@pytest.mark.parametrize(("name", "value", "param"), UNHEARD)
def test_what_is_not_here_is_refused(door: Door, name: str, value: Any, param: str) -> None:
    error = door.refusal("responses", input="Hi", **{name: value})
    assert (error["param"], error["code"] in ("unsupported_parameter", None)) == (param, True)
    assert door.post("responses", input="Hi", **{name: None}).status_code == 200


@pytest.mark.parametrize(
    ("input", "param"),
    [
        ([], "input"),
        ("", "input"),
        ([{"type": "item_reference", "id": "x"}], "input[0]"),
        ([{"type": "reasoning", "summary": []}], "input[0]"),
        ([{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}], "input[0].content[0]"),
        ([{"type": "function_call", "call_id": "c", "name": "f", "arguments": "x"}], "input[0].arguments"),
    ],
)
def test_what_cannot_be_read_is_refused(door: Door, input: Any, param: str) -> None:
    assert door.refusal("responses", input=input)["param"] == param
