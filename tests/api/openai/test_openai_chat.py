"""POST /v1/chat/completions over a real socket: completions, chunks, calls, and what the model has read."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Any

import httpx
import pytest
from openai_door import Door, read_stream

from senryu.service.limits import Limits
from serving import scripted_model, serving

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"enum": ["Kyoto", "Oslo"]}}, "required": ["city"]},
    },
}
NOW = {"type": "function", "function": {"name": "now"}}
TWO = 'CALL weather {"city": "Kyoto"}; now {}'


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def test_a_completion(door: Door) -> None:
    answer = door.chat("Hello, 漢字")
    assert answer.pop("id").startswith("chatcmpl-01")
    assert answer.pop("created") > 1_700_000_000
    assert answer.pop("system_fingerprint").startswith("fp_")
    assert answer == {
        "object": "chat.completion",
        "model": "senryu-mini",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello, 漢字", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 17,
            "completion_tokens": 14,
            "total_tokens": 31,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": dict.fromkeys(
                ("reasoning_tokens", "audio_tokens", "accepted_prediction_tokens", "rejected_prediction_tokens"), 0
            ),
        },
    }
    again = door.chat("Hello, 漢字")
    assert again["usage"]["prompt_tokens_details"]["cached_tokens"] > 10


def test_a_stream_says_the_same(door: Door) -> None:
    asked = {"messages": [user("Hello there")], "stream_options": {"include_usage": True}}
    response = door.post("chat/completions", stream=True, **asked)
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert response.headers["openai-version"] == "2020-10-01"
    assert response.text.endswith("data: [DONE]\n\n")
    *chunks, last = read_stream(response.text)
    assert len({chunk["id"] for chunk in [*chunks, last]}) == 1
    assert all(chunk["object"] == "chat.completion.chunk" and chunk["usage"] is None for chunk in chunks)
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == "Hello there"
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * (len(chunks) - 1) + ["stop"]
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] == door.chat("Hello there")["usage"]["total_tokens"]
    assert "usage" not in door.stream("chat/completions", messages=[user("x")])[-1]


def test_calls_and_their_results(door: Door) -> None:
    answer = door.chat(TWO, tools=[WEATHER, NOW])
    assert answer["choices"][0]["finish_reason"] == "tool_calls"
    message = answer["choices"][0]["message"]
    assert message["content"] is None
    assert [call["function"] for call in message["tool_calls"]] == [
        {"name": "weather", "arguments": '{"city":"Kyoto"}'},
        {"name": "now", "arguments": "{}"},
    ]
    ids = [call["id"] for call in message["tool_calls"]]
    assert len(set(ids)) == 2
    assert all(id.startswith("call_") for id in ids)
    results = [{"role": "tool", "tool_call_id": id, "content": "rain"} for id in ids]
    after = door.chat([user(TWO), message, *results], tools=[WEATHER, NOW])
    assert after["choices"][0]["message"]["content"] == "so it is"
    error = door.refusal("chat/completions", messages=[user(TWO), message, results[1]], tools=[WEATHER, NOW])
    assert error["message"].endswith(f"The following tool_call_ids did not have response messages: {ids[0]}")
    assert error["param"] == "messages[1]"


def test_streamed_calls_have_an_index(door: Door) -> None:
    deltas = [
        call
        for chunk in door.stream("chat/completions", messages=[user(TWO)], tools=[WEATHER, NOW])
        for call in chunk["choices"][0]["delta"].get("tool_calls", ())
    ]
    calls: dict[int, dict[str, Any]] = {}
    for delta in deltas:
        call = calls.setdefault(delta["index"], {**delta, "arguments": ""})
        call["arguments"] += delta["function"]["arguments"]
    assert [(calls[n]["function"]["name"], json.loads(calls[n]["arguments"])) for n in (0, 1)] == [
        ("weather", {"city": "Kyoto"}),
        ("now", {}),
    ]
    assert all(call["type"] == "function" and call["id"].startswith("call_") for call in calls.values())


@pytest.mark.parametrize(
    ("said", "fields", "names"),
    [
        (TWO, {"parallel_tool_calls": False}, ["weather"]),
        ("words", {"tool_choice": "required", "parallel_tool_calls": False}, None),
        ("words", {"tool_choice": {"type": "function", "function": {"name": "now"}}, "parallel_tool_calls": False}, ["now"]),
        (TWO, {"tool_choice": "none"}, []),
        (TWO, {"tool_choice": "auto"}, ["weather", "now"]),
    ],
)
def test_which_tools_are_called(door: Door, said: str, fields: Any, names: list[str] | None) -> None:
    answer = door.chat(said, tools=[WEATHER, NOW], max_tokens=400, seed=7, **fields)
    calls = [call["function"]["name"] for call in answer["choices"][0]["message"].get("tool_calls", ())]
    assert calls == names if names is not None else len(calls) == 1
    assert (answer["choices"][0]["finish_reason"] == "tool_calls") == bool(calls)


def test_functions_of_the_old_form(door: Door) -> None:
    asked = {"functions": [WEATHER["function"], NOW["function"]]}
    choice = door.chat(TWO, **asked)["choices"][0]
    assert choice["finish_reason"] == "function_call"
    assert choice["message"]["function_call"] == {"name": "weather", "arguments": '{"city":"Kyoto"}'}
    assert "tool_calls" not in choice["message"]
    chunks = door.stream("chat/completions", messages=[user(TWO)], **asked)
    deltas = [chunk["choices"][0]["delta"].get("function_call", {}) for chunk in chunks]
    assert "".join(delta.get("arguments", "") for delta in deltas) == '{"city": "Kyoto"}'
    assert chunks[-1]["choices"][0]["finish_reason"] == "function_call"
    result = {"role": "function", "name": "weather", "content": "rain"}
    after = door.chat([user(TWO), choice["message"], result], function_call="none", **asked)
    assert after["choices"][0]["message"]["content"] == "so it is"


def test_the_form_of_the_answer(door: Door) -> None:
    schema = {
        "type": "object",
        "properties": {"ok": {"type": "boolean"}},
        "required": ["ok"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
    answer = door.chat('{"ok": true}', response_format=form)
    assert json.loads(answer["choices"][0]["message"]["content"]) == {"ok": True}
    other = json.loads(door.chat("no JSON", response_format=form)["choices"][0]["message"]["content"])
    assert isinstance(other["ok"], bool)
    open_schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    loose = {"type": "json_schema", "json_schema": {"name": "answer", "schema": open_schema}}
    assert isinstance(json.loads(door.chat("no", response_format=loose)["choices"][0]["message"]["content"])["ok"], bool)
    unknown = {**open_schema, "properties": {"ok": {"type": "boolean"}, "more": {"not": {"type": "string"}}}}
    form = {"type": "json_schema", "json_schema": {"name": "answer", "schema": unknown}}
    assert isinstance(
        json.loads(door.chat('{"ok": true}', response_format=form)["choices"][0]["message"]["content"])["ok"], bool
    )
    any_object = door.chat('{"a": [1, {"b": 2}]}', response_format={"type": "json_object"})
    assert json.loads(any_object["choices"][0]["message"]["content"]) == {"a": [1, {"b": 2}]}
    assert door.chat("plain", response_format={"type": "text"})["choices"][0]["message"]["content"] == "plain"
    strict = {"type": "json_schema", "json_schema": {"name": "answer", "schema": open_schema, "strict": True}}
    error = door.refusal("chat/completions", messages=[user("x")], response_format=strict)
    assert (error["param"], "additionalProperties" in error["message"]) == ("response_format.json_schema.schema", True)


def test_how_an_answer_ends(door: Door) -> None:
    assert door.chat("one two three", stop=" two")["choices"][0]["message"]["content"] == "one"
    stopped = door.chat("one\ntwo", stop=["\n", "x"])["choices"][0]
    assert (stopped["message"]["content"], stopped["finish_reason"]) == ("one", "stop")
    for limit in ("max_tokens", "max_completion_tokens"):
        cut = door.chat("one two three", **{limit: 3})
        assert (cut["choices"][0]["finish_reason"], cut["usage"]["completion_tokens"]) == ("length", 3)


def test_without_a_limit_an_answer_ends_with_the_context() -> None:
    model = scripted_model(limits=Limits(context=200, output=150))
    with serving(model) as url, httpx.Client(base_url=url, timeout=120) as client:
        body = {"model": "senryu-mini", "messages": [user("x" * 120)]}
        answer = client.post("/v1/chat/completions", json=body).json()
        assert answer["choices"][0]["finish_reason"] == "length"
        assert answer["usage"]["total_tokens"] == 200
        error = client.post("/v1/chat/completions", json={**body, "max_tokens": 150}).json()["error"]
        assert (error["code"], error["param"]) == ("context_length_exceeded", "messages")
        error = client.post("/v1/chat/completions", json={**body, "max_completion_tokens": 151}).json()["error"]
        assert error["param"] == "max_completion_tokens"


def test_what_the_model_reads(door: Door) -> None:
    """Leading messages of the system are its prompt, a newline between them; later ones stay where they are."""
    messages = [
        {"role": "system", "content": "One."},
        {"role": "developer", "content": [{"type": "text", "text": "Two."}]},
        user("Hi"),
        {"role": "assistant", "content": "Yes?"},
        {"role": "system", "content": "Later."},
    ]
    claude = {
        "model": "senryu-mini",
        "max_tokens": 100,
        "system": "One.\nTwo.",
        "messages": [user("Hi"), {"role": "assistant", "content": "Yes?"}, user("Later.")],
    }
    message = door.client.post("/v1/messages", json=claude, headers={"anthropic-version": "2023-06-01"}).json()
    answer = door.chat(messages)
    assert answer["choices"][0]["message"]["content"] == message["content"][0]["text"] == "Later."
    assert answer["usage"]["prompt_tokens"] == message["usage"]["input_tokens"]


@pytest.mark.parametrize("seed", [None, 3])
def test_the_same_conversation_gives_the_same_in_both_apis(seed: int | None) -> None:
    """An engine that invents its tokens from all that it has read: one other token in the prompt changes them all."""
    messages = [user("What is the weather?"), {"role": "assistant", "content": "Where?"}, user("Here.")]
    asked = {"model": "claude-3-5-haiku-latest", "max_tokens": 40, "temperature": 0, "messages": messages}
    with serving(scripted_model()) as url, httpx.Client(base_url=url, timeout=120) as client:
        headers = {"anthropic-version": "2023-06-01"}
        message = client.post("/v1/messages", json={**asked, "system": "Be brief."}, headers=headers).json()
        system = {"role": "system", "content": "Be brief."}
        body = {**asked, "messages": [system, *messages], "seed": seed}
        answer = client.post("/v1/chat/completions", json=body).json()
    assert answer["model"] == message["model"] == "claude-3-5-haiku-20241022"
    assert answer["choices"][0]["message"]["content"] == message["content"][0]["text"]
    assert answer["usage"]["prompt_tokens"] == message["usage"]["input_tokens"]
    assert answer["usage"]["completion_tokens"] == message["usage"]["output_tokens"] == 40


def test_a_seed_repeats_an_answer() -> None:
    with serving(scripted_model()) as url, httpx.Client(base_url=url, timeout=120) as client:
        body = {"model": "senryu-mini", "max_tokens": 20, "temperature": 2, "messages": [user("x")]}

        def said(**fields: Any) -> str:
            answer = client.post("/v1/chat/completions", json={**body, **fields}).json()
            return str(answer["choices"][0]["message"]["content"])

        assert said(seed=-5) == said(seed=-5) != said(seed=6)
        assert said() != said()


def test_an_empty_answer_can_be_sent_back(door: Door) -> None:
    empty = {"role": "assistant", "content": "", "refusal": None, "annotations": [], "audio": None, "tool_calls": None}
    assert door.chat([user("a"), empty, user("b")])["choices"][0]["message"]["content"] == "a\n\nb"


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_is_too_late(stream: bool) -> None:
    model = scripted_model(seconds_per_step=0.005)
    generate = model.engine.generate
    engine: Any = model.engine
    engine.generate = lambda request: generate(replace(request, deadline=time.monotonic() + 0.05))
    with serving(model) as url:
        body = {"model": "senryu-mini", "messages": [user("x")], "stream": stream}
        response = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=120)
    error = read_stream(response.text)[-1]["error"] if stream else response.json()["error"]
    assert response.status_code == (200 if stream else 504)
    assert error == {
        "message": "The request's deadline passed before its answer was complete",
        "type": "server_error",
        "param": None,
        "code": None,
    }
