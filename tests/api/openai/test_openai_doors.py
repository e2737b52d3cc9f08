"""Whose an address is: models in the caller's shape, keys, unknown addresses, the mount at /openai."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from openai_door import Door

from serving import says, scripted_model, serving

CHAT = {"model": "senryu-mini", "messages": [{"role": "user", "content": "Hi"}]}


@pytest.fixture(scope="module")
def keyed() -> Iterator[httpx.Client]:
    model = scripted_model(says("Hello"))
    with serving(model, api_key="secret", max_requests=1) as url, httpx.Client(base_url=url, timeout=60) as client:
        yield client


def test_models(door: Door) -> None:
    for base in ("/v1", "/openai/v1"):
        models = door.client.get(f"{base}/models").json()
        assert models == {
            "object": "list",
            "data": [
                {"id": "senryu-mini", "object": "model", "created": 1795305600, "owned_by": "senryu"},
                {"id": "claude-3-5-haiku-20241022", "object": "model", "created": 1729555200, "owned_by": "senryu"},
            ],
        }
        assert door.client.get(f"{base}/models/anthropic/claude-3.5-haiku").json() == models["data"][1]
        error = door.client.get(f"{base}/models/gpt-9")
        assert (error.status_code, error.json()["error"]["code"]) == (404, "model_not_found")


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/senryu-mini", "/v1/models/nobody"])
def test_callers_of_the_claude_api_get_its_shape(door: Door, path: str) -> None:
    versioned = door.client.get(path, headers={"anthropic-version": "2023-06-01"})
    assert versioned.json()["type" if "mini" in path or "nobody" in path else "has_more"] in ("model", "error", False)
    keyed = door.client.get(path, headers={"x-api-key": "any"})
    assert (keyed.status_code, keyed.json()["error"]["message"]) == (400, "anthropic-version: header is required")
    assert "openai-version" not in keyed.headers
    bearer = door.client.get(path, headers={"authorization": "Bearer any"})
    assert bearer.headers["openai-version"] == "2020-10-01"
    anthropic = door.client.get(f"/anthropic{path}")
    assert anthropic.json()["error"]["message"] == "anthropic-version: header is required"


def test_keys(keyed: httpx.Client) -> None:
    missing = keyed.post("/v1/chat/completions", json=CHAT)
    wrong = keyed.post("/v1/chat/completions", json=CHAT, headers={"authorization": "Bearer other"})
    assert (missing.status_code, wrong.status_code) == (401, 401)
    assert missing.json()["error"]["message"].startswith("You didn't provide an API key.")
    assert wrong.json()["error"] == {
        "message": "Incorrect API key provided.",
        "type": "invalid_request_error",
        "param": None,
        "code": "invalid_api_key",
    }
    for path in ("/v1/chat/completions", "/openai/v1/chat/completions"):
        right = keyed.post(path, json=CHAT, headers={"authorization": "Bearer secret"})
        assert right.json()["choices"][0]["message"]["content"] == "Hello"
        assert right.headers["x-request-id"] == right.headers["request-id"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/chat/completions"),
        ("GET", "/v1/responses/resp_1"),
        ("POST", "/openai/v1/embeddings"),
        ("POST", "/openai/v1/messages"),
    ],
)
def test_addresses_that_lead_nowhere(door: Door, method: str, path: str) -> None:
    response = door.client.request(method, path)
    assert response.status_code == 404
    assert response.json()["error"]["message"] == f"Invalid URL ({method} {path})"


def test_an_overload_is_429() -> None:
    model = scripted_model(seconds_per_step=0.005)
    with (
        serving(model, max_requests=1) as url,
        httpx.Client(base_url=url, timeout=60) as client,
        client.stream("POST", "/v1/chat/completions", json={**CHAT, "stream": True}) as first,
    ):
        lines = first.iter_lines()
        assert next(lines).startswith("data: ")
        second = client.post("/v1/chat/completions", json=CHAT)
    assert second.status_code == 429
    assert second.json()["error"] == {
        "message": "The server is overloaded. Try again in a moment.",
        "type": "requests",
        "param": None,
        "code": "rate_limit_exceeded",
    }
