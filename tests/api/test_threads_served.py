"""Message threads over a real socket: only new messages are sent, and every refusal says what a client may do."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import pytest

from senryu.engine.interface import TokenRequest
from serving import END, SPECIALS, TOKENIZER, says, scripted_model, serving

VERSION = {"anthropic-version": "2023-06-01", "x-api-key": "any"}
BETA = "message-threads-2026-08-12"
CREATE = {"type": "create"}
TOOL = {"name": "now", "input_schema": {"type": "object", "properties": {}}}


def reply(request: TokenRequest) -> list[int]:
    """Calls the tool; once it has read a result it answers."""
    if SPECIALS.index("<|result|>") in request.ids:
        return [*TOKENIZER.encode("Noon."), END]
    return [SPECIALS.index("<|call|>"), *TOKENIZER.encode('{"name": "now", "arguments": {}}'), END]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(scripted_model(reply)) as base:
        yield base


def post(
    url: str, thread: Any, *said: Any, path: str = "/v1/messages", beta: str = BETA, key: str = "any", **fields: Any
) -> httpx.Response:
    """The answer to the messages of the user `said`."""
    messages = [{"role": "user", "content": content} for content in said]
    body = {"model": "senryu-mini", "max_tokens": 64, "messages": messages, "thread": thread, **fields}
    headers = VERSION | {"x-api-key": key} | ({"anthropic-beta": beta} if beta else {})
    return httpx.post(url + path, json=body, headers=headers, timeout=60)


def after(message: dict[str, Any] | str) -> dict[str, str]:
    return {"type": "continue", "previous_message_id": message if isinstance(message, str) else message["id"]}


def result_of(message: dict[str, Any]) -> list[dict[str, str]]:
    return [{"type": "tool_result", "tool_use_id": message["content"][0]["id"], "content": "12:00"}]


def refusal(answer: httpx.Response) -> tuple[int, str, str, str | None]:
    """Status, type, message, error_code."""
    error = answer.json()["error"]
    return answer.status_code, error["type"], error["message"], error.get("details", {}).get("error_code")


def test_a_tool_loop_sends_only_what_is_new(url: str) -> None:
    fields: dict[str, Any] = {"system": "Be brief.", "tools": [TOOL]}
    first = post(url, CREATE, "When?", **fields).json()
    assert first["stop_reason"] == "tool_use"
    second = post(url, after(first), result_of(first)).json()
    assert [block["text"] for block in second["content"]] == ["Noon."]
    asked = [{"role": "user", "content": "When?"}, {"role": "assistant", "content": first["content"]}]
    whole = {"model": "senryu-mini", "messages": [*asked, {"role": "user", "content": result_of(first)}], **fields}
    counted = httpx.post(url + "/v1/messages/count_tokens", json=whole, headers=VERSION, timeout=60).json()
    assert second["usage"]["input_tokens"] == counted["input_tokens"]


def test_a_streamed_answer_can_be_continued_as_soon_as_it_ends(url: str) -> None:
    with httpx.stream(
        "POST",
        url + "/v1/messages",
        json={
            "model": "senryu-mini",
            "max_tokens": 64,
            "messages": [{"role": "user", "content": "When?"}],
            "tools": [TOOL],
            "thread": CREATE,
            "stream": True,
        },
        headers=VERSION | {"anthropic-beta": BETA},
        timeout=60,
    ) as answer:
        events = [httpx.Response(200, text=line[6:]).json() for line in answer.iter_lines() if line.startswith("data: ")]
    id = events[0]["message"]["id"]
    call = next(event["content_block"] for event in events if event["type"] == "content_block_start")
    second = post(url, after(id), result_of({"content": [call]}))
    assert second.json()["content"][0]["text"] == "Noon."


def test_an_aborted_answer_is_not_kept() -> None:
    fields: dict[str, Any] = {"model": "senryu-mini", "messages": [{"role": "user", "content": "Hi"}], "thread": CREATE}
    body = fields | {"max_tokens": 8000, "stream": True}
    model = scripted_model()
    with serving(model) as url:
        with httpx.stream("POST", url + "/v1/messages", json=body, headers=VERSION | {"anthropic-beta": BETA}) as answer:
            lines = answer.iter_lines()
            start = next(line for line in lines if line.startswith("data: "))
        id = httpx.Response(200, text=start[6:]).json()["message"]["id"]
        end = time.monotonic() + 30
        while model.engine.stats().running and time.monotonic() < end:
            time.sleep(0.01)
        assert refusal(post(url, after(id), "more"))[3] == "thread_not_found"


def test_refusals_are_those_that_clients_act_on(url: str) -> None:
    status, kind, message, code = refusal(post(url, after("msg_unknown"), "more"))
    assert (status, kind, code) == (404, "not_found_error", "thread_not_found")
    assert message == (
        "No usable Thread state was found for `previous_message_id`. "
        'Replay the full conversation with `thread: {"type": "create"}` to start a new Thread.'
    )
    first = post(url, CREATE, "When?", tools=[TOOL]).json()
    result = result_of(first)
    status, kind, message, code = refusal(post(url, after(first), result, cache_control={"type": "ephemeral"}))
    assert (status, kind, code) == (400, "invalid_request_error", "thread_fingerprint_mismatch")
    assert "differing field(s): cache_control." in message
    status, kind, message, code = refusal(post(url, after(first), result, tools=[TOOL]))
    assert (status, kind, code) == (400, "invalid_request_error", None)
    assert message.startswith("tools: ")
    assert post(url, after(first), result).status_code == 200
    status, kind, message, code = refusal(post(url, after(first), result))
    assert (status, kind, code) == (400, "invalid_request_error", "thread_already_continued")


def test_tool_choice_is_said_again(url: str) -> None:
    fields: dict[str, Any] = {"tool_choice": {"type": "any", "disable_parallel_tool_use": True}}
    first = post(url, CREATE, "When?", tools=[TOOL], **fields).json()
    result = result_of(first)
    assert refusal(post(url, after(first), result))[3] == "thread_fingerprint_mismatch"
    assert post(url, after(first), result, **fields).status_code == 200


@pytest.mark.parametrize(
    ("thread", "message"),
    [
        (
            {"type": "fork"},
            "thread: Input tag 'fork' found using 'type' does not match any of the expected tags: 'create', 'continue'",
        ),
        ({}, "thread.type: Field required"),
        ({"type": "continue"}, "thread.previous_message_id: Field required"),
        (
            {"type": "continue", "previous_message_id": ""},
            "thread.previous_message_id: String should have at least 1 character",
        ),
        ({"type": "create", "previous_message_id": "msg_1"}, "thread.previous_message_id: Extra inputs are not permitted"),
        ("create", "thread: Input should be a valid dictionary"),
    ],
)
def test_the_form_of_thread(url: str, thread: Any, message: str) -> None:
    assert refusal(post(url, thread, "Hi"))[::2] == (400, message)


def test_without_the_beta_it_is_an_unknown_field_and_null_asks_for_nothing(url: str) -> None:
    assert refusal(post(url, CREATE, "Hi", beta=""))[::2] == (400, "thread: Extra inputs are not permitted")
    id = post(url, None, "Hi").json()["id"]
    assert refusal(post(url, after(id), "more"))[3] == "thread_not_found"
    counted = post(url, CREATE, "Hi", path="/v1/messages/count_tokens")
    assert counted.status_code == 400


def test_the_lenient_profile_loses_no_conversation() -> None:
    with serving(scripted_model(says("ok")), profile="lenient") as url:
        first = post(url, CREATE, "Hi", beta="").json()
        second = post(url, after(first), "more", beta="")
        assert "senryu-ignored" not in second.headers
        assert second.json()["usage"]["input_tokens"] > first["usage"]["input_tokens"]


def test_keys_have_threads_of_their_own(url: str) -> None:
    first = post(url, CREATE, "Hi", key="one").json()
    assert refusal(post(url, after(first), "more", key="two"))[3] == "thread_not_found"
    assert refusal(post(url, after(first), " ", key="one"))[2].startswith("messages: text content blocks must contain")


def test_batches_have_no_threads(url: str) -> None:
    with anthropic.Anthropic(base_url=url, api_key="any") as client:
        params: Any = {
            "model": "senryu-mini",
            "max_tokens": 8,
            "messages": [{"role": "user", "content": "Hi"}],
            "thread": CREATE,
        }
        batch = client.beta.messages.batches.create(requests=[{"custom_id": "a", "params": params}], betas=[BETA])
        end = time.monotonic() + 60
        while client.beta.messages.batches.retrieve(batch.id).processing_status != "ended":
            assert time.monotonic() < end
            time.sleep(0.05)
        (line,) = client.beta.messages.batches.results(batch.id)
        error = line.to_dict()["result"]["error"]["error"]  # type: ignore[index]
        assert error["details"] == {"error_code": "thread_unsupported_request"}
