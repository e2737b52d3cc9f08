"""Real answers are as the document says, and hold nothing that it does not name: JSON, events, lines, frames and refusals."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

import httpx
import pytest
from checker import Checker
from everything import BEDROCK, CONVERSE, PLACE, VERSION
from in_process import Application, application
from openai_bodies import CHAT, MODEL, OTHER_CHATS, RESPONSE, SCHEMA

from senryu.engine.interface import TokenRequest
from serving import END, SPECIALS, TOKENIZER, scripted_model

CALL, RESULT = SPECIALS.index("<|call|>"), SPECIALS.index("<|result|>")
SAYS = "The harbour opened in 1899."
PARTS = {"model_id": MODEL, "batch_id": "msgbatch_1", "file_id": "file_1", "publisher": "anthropic", "model": MODEL}


def reply(request: TokenRequest) -> list[int]:
    prompt = TOKENIZER.decode(request.ids)
    if "look" in prompt and RESULT not in request.ids:
        return [*TOKENIZER.encode("Well. "), CALL, *TOKENIZER.encode('{"name": "look", "arguments": {"x": 1}}'), END]
    return [*TOKENIZER.encode(SAYS), END]


@pytest.fixture(scope="module")
def app() -> Iterator[Application]:
    with application(scripted_model(reply)) as app:
        yield app


@pytest.fixture(scope="module")
def told(app: Application) -> dict[str, Any]:
    told: dict[str, Any] = app.ask("GET", "/openapi.json").json()
    return told


@pytest.fixture(scope="module")
def checker(told: dict[str, Any]) -> Checker:
    return Checker(told)


class Caller:
    """Sends requests whose answers must be 200 and as described."""

    def __init__(self, app: Application, checker: Checker) -> None:
        self.app, self.checker = app, checker

    def ask(self, method: str, path: str, template: str = "", **how: Any) -> httpx.Response:
        response = self.app.ask(method, path, headers=how.pop("headers", VERSION), **how)
        assert response.status_code == 200, response.text
        self.checker.check(response, method, template or path)
        return response

    def both(self, path: str, body: dict[str, Any], template: str = "") -> None:
        """Whole and streamed."""
        for stream in (False, True):
            self.ask("POST", path, template, json={**body, "stream": stream})


@pytest.fixture
def caller(app: Application, checker: Checker) -> Caller:
    return Caller(app, checker)


DOCUMENT = {
    "type": "document",
    "source": {"type": "text", "media_type": "text/plain", "data": SAYS},
    "citations": {"enabled": True},
}
TOOL = {"name": "look", "input_schema": SCHEMA}
BODIES: list[dict[str, Any]] = [
    {"messages": [{"role": "user", "content": [DOCUMENT, {"type": "text", "text": "When?"}]}]},
    {"messages": [{"role": "user", "content": "look"}], "tools": [TOOL], "diagnostics": {"previous_message_id": None}},
]
VERTEX = "/vertex/v1/projects/{project}/locations/{location}/publishers/{publisher}/models"


@pytest.mark.parametrize("body", BODIES, ids=["cited", "a call"])
def test_messages(caller: Caller, body: dict[str, Any]) -> None:
    body = {**body, "max_tokens": 100}
    caller.both("/v1/messages", {**body, "model": MODEL})
    caller.both(
        f"{PLACE}/{MODEL}:rawPredict", {**body, "anthropic_version": "vertex-2023-10-16"}, f"{VERTEX}/{{model}}:rawPredict"
    )
    for operation in ("invoke", "invoke-with-response-stream"):
        hosted = {**body, "anthropic_version": "bedrock-2023-05-31"}
        caller.ask("POST", f"{BEDROCK}/{operation}", f"/bedrock/model/{{model_id}}/{operation}", json=hosted)


def test_counts(caller: Caller) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}
    caller.ask("POST", "/v1/messages/count_tokens", json=body)
    hosted = {**body, "anthropic_version": "vertex-2023-10-16"}
    caller.ask("POST", f"{PLACE}/count-tokens:rawPredict", f"{VERTEX}/count-tokens:rawPredict", json=hosted)
    caller.ask("POST", "/v1/responses/input_tokens", json={"model": MODEL, "input": "Hi"})
    converse = {"converse": {"messages": [{"role": "user", "content": [{"text": "Hi"}]}]}}
    caller.ask("POST", f"{BEDROCK}/count-tokens", "/bedrock/model/{model_id}/count-tokens", json={"input": converse})


SPEC = {"toolSpec": {"name": "look", "inputSchema": {"json": SCHEMA}}}
CITED = {"document": {"format": "txt", "name": "n", "source": {"text": SAYS}, "citations": {"enabled": True}}}


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [{"role": "user", "content": [{"text": "look"}]}], "toolConfig": {"tools": [SPEC]}},
        {"messages": [{"role": "user", "content": [CITED, {"text": "When?"}]}]},
        {**CONVERSE, "inferenceConfig": {"maxTokens": 100}, "additionalModelResponseFieldPaths": ["/stop_sequence"]},
    ],
    ids=["a call", "cited", "all fields"],
)
@pytest.mark.parametrize("operation", ["converse", "converse-stream"])
def test_converse(caller: Caller, body: dict[str, Any], operation: str) -> None:
    caller.ask("POST", f"{BEDROCK}/{operation}", f"/bedrock/model/{{model_id}}/{operation}", json=body)


CALLING = {"messages": [{"role": "user", "content": "look"}], "tools": CHAT["tools"], "max_tokens": 100}
LEGACY = {"messages": [{"role": "user", "content": "look"}], "functions": OTHER_CHATS[0]["functions"], "max_tokens": 100}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/api/v1/chat/completions"])
def test_chat_completions(caller: Caller, path: str) -> None:
    for body in (CALLING, LEGACY, {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}):
        caller.both(path, {**body, "model": MODEL})
    usage = {"stream": True, "stream_options": {"include_usage": True}}
    caller.ask("POST", path, json={**CALLING, **usage, "model": MODEL})


def test_completions(caller: Caller) -> None:
    caller.both("/v1/completions", {"model": MODEL, "prompt": "On and", "echo": True})
    streamed = {"stream": True, "stream_options": {"include_usage": True}}
    caller.ask("POST", "/v1/completions", json={"model": MODEL, "prompt": "On and", **streamed})


def test_responses(caller: Caller) -> None:
    for body in (RESPONSE, {"input": "look", "tools": RESPONSE["tools"]}, {"input": "Hi", "max_output_tokens": 3}):
        for stream in (False, True):
            asked = {**body, "model": MODEL, "stream": stream}
            caller.ask("POST", "/v1/responses", json=asked if stream else {**asked, "stream_options": None})


def test_models_and_keys(caller: Caller) -> None:
    for headers in (VERSION, {}):
        caller.ask("GET", "/v1/models", headers=headers)
        caller.ask("GET", f"/v1/models/{MODEL}", "/v1/models/{model_id}", headers=headers)
    caller.ask("GET", "/anthropic/v1/models")
    caller.ask("GET", f"/anthropic/v1/models/{MODEL}", "/anthropic/v1/models/{model_id}")
    caller.ask("GET", "/openai/v1/models")
    caller.ask("GET", f"/openai/v1/models/{MODEL}", "/openai/v1/models/{model_id}")
    for path in ("/api/v1/models", "/api/v1/key", "/health", "/openapi.json"):
        caller.ask("GET", path)


def test_a_generation(caller: Caller) -> None:
    made = caller.ask("POST", "/api/v1/chat/completions", json={**CALLING, "model": MODEL}).json()
    caller.ask("GET", f"/api/v1/generation?id={made['id']}", "/api/v1/generation")


def test_files(caller: Caller) -> None:
    uploaded = [caller.ask("POST", "/v1/files", files={"file": ("a.txt", SAYS)}).json() for _ in range(2)]
    kept = caller.ask("POST", "/v1/files", files={"file": ("a.txt", SAYS)}, data={"expires_in_seconds": "3600"})
    assert kept.json()["expires_at"]
    pages = [
        caller.ask("GET", "/v1/files?limit=1", "/v1/files", headers=VERSION | older).json()
        for older in ({}, {"anthropic-beta": "files-api-2025-04-14"})
    ]
    assert pages[0]["next_page"]
    assert pages[1]["has_more"]
    caller.ask("GET", f"/v1/files/{uploaded[0]['id']}", "/v1/files/{file_id}")
    caller.ask("DELETE", f"/v1/files/{uploaded[0]['id']}", "/v1/files/{file_id}")


def test_batches(caller: Caller) -> None:
    good = {"model": MODEL, "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}
    requests = [{"custom_id": "a", "params": good}, {"custom_id": "b", "params": {}}]
    batch = caller.ask("POST", "/v1/messages/batches", json={"requests": requests}).json()
    where, template = f"/v1/messages/batches/{batch['id']}", "/v1/messages/batches/{batch_id}"
    for _ in range(3000):
        if caller.ask("GET", where, template).json()["processing_status"] == "ended":
            break
    results = caller.ask("GET", f"{where}/results", f"{template}/results").text.splitlines()
    assert {json.loads(line)["result"]["type"] for line in results} == {"succeeded", "errored"}
    caller.ask("GET", "/v1/messages/batches")
    caller.ask("DELETE", where, template)
    other = caller.ask("POST", "/v1/messages/batches", json={"requests": requests}).json()
    caller.ask("POST", f"/v1/messages/batches/{other['id']}/cancel", f"{template}/cancel")


def test_every_kind_of_answer_was_seen(checker: Checker) -> None:
    """Of all that the document describes, by the tests above."""
    described = set()
    for methods in checker.told["paths"].values():
        for operation in methods.values():
            for media in operation["responses"].get("200", {"content": {}})["content"].values():
                described.add(json.dumps(media.get("x-itemSchema") or media["schema"]))
    assert described <= checker.seen, described - checker.seen


def filled(path: str) -> str:
    for name, value in {**PARTS, "project": "p", "location": "l"}.items():
        path = path.replace(f"{{{name}}}", value)
    return unquote(path)


def test_every_refusal_is_as_described(app: Application, checker: Checker) -> None:
    refused = set()
    for path, methods in checker.told["paths"].items():
        for method in methods:
            response = app.ask(method.upper(), filled(path), content=b"{", headers=VERSION)
            if response.status_code == 200:
                assert method == "get"
                continue
            assert 400 <= response.status_code < 500, response.text
            checker.check(response, method, path)
            refused.add(path)
    assert len(refused) > 30
