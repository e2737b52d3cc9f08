"""The two profiles over real sockets, betas, and whose caches a request may use."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from senryu.engine.interface import TokenRequest
from serving import END, TOKENIZER, says, scripted_model, serving

VERSION = {"anthropic-version": "2026-10-21"}
AGENT: dict[str, Any] = {  # what coding agents send to every model
    "model": "claude-3-5-haiku-latest",
    "max_tokens": 32,
    "system": [{"type": "text", "text": "You are an agent.", "cache_control": {"type": "ephemeral", "scope": "global"}}],
    "messages": [
        {"role": "user", "content": "first"},
        {"role": "system", "content": "a reminder"},
        {"role": "user", "content": [{"type": "text", "text": "last"}]},
    ],
    "thinking": {"type": "adaptive", "display": "omitted"},
    "output_config": {"effort": "high"},
    "context_management": {"edits": [{"type": "clear_thinking_20251015"}]},
    "metadata": {"user_id": "u"},
}
BETAS = [("anthropic-beta", "claude-code-20250219,tomorrow-2027-01-01"), ("anthropic-beta", "effort-2025-11-24")]


def echo(request: TokenRequest) -> list[int]:
    """The model repeats its prompt from the user's words on."""
    asked = [*request.ids]
    return [*TOKENIZER.encode(TOKENIZER.decode(asked)[-200:]), END]


@pytest.fixture(scope="module")
def lenient() -> Iterator[str]:
    with serving(scripted_model(echo), profile="lenient") as url:
        yield url


def post(url: str, body: Any = AGENT, path: str = "/v1/messages", headers: Any = ()) -> httpx.Response:
    return httpx.post(url + path, json=body, headers=[*VERSION.items(), *headers], timeout=60)


IGNORED = {
    "anthropic-beta:tomorrow-2027-01-01",
    "thinking",
    "output_config.effort",
    "context_management",
    "messages.1.role",
    "system.0.cache_control.ephemeral.scope",
}


@pytest.mark.parametrize("stream", [False, True])
def test_an_agent_is_served_and_told_what_was_passed_over(lenient: str, stream: bool) -> None:
    response = post(lenient, {**AGENT, "max_tokens": 300, "stream": stream}, headers=BETAS)
    assert response.status_code == 200
    assert set(response.headers["senryu-ignored"].split(", ")) == IGNORED
    if not stream:
        said = response.json()["content"][0]["text"]
        assert said.index("first") < said.index("a reminder") < said.index("last")


def test_counting_tells_it_too(lenient: str) -> None:
    counted = {key: value for key, value in AGENT.items() if key not in ("max_tokens", "metadata")}
    response = post(lenient, counted, "/v1/messages/count_tokens", BETAS)
    assert response.json()["input_tokens"] > 0
    assert set(response.headers["senryu-ignored"].split(", ")) == IGNORED


def test_nothing_ignored_is_no_header(lenient: str) -> None:
    plain = {"model": "senryu-mini", "max_tokens": 1, "messages": [{"role": "user", "content": "x"}]}
    assert "senryu-ignored" not in post(lenient, plain).headers


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"type": "image", "source": {}}, "'claude-3-5-haiku-20241022' does not support image input."),
        (
            {"type": "document", "source": {"type": "url", "url": "https://x"}},
            "messages.0.content.0.source: this server fetches nothing. ",
        ),
        ({"type": "hologram"}, "messages.0.content.0: Input tag 'hologram' found using 'type' does not match"),
    ],
)
def test_what_a_user_says_is_never_dropped(lenient: str, block: dict[str, Any], message: str) -> None:
    response = post(lenient, {**AGENT, "messages": [{"role": "user", "content": [block]}]})
    assert response.status_code == 400
    assert response.json()["error"]["message"].replace(".document", "").startswith(message)


def test_the_faithful_profile_refuses_an_unknown_beta() -> None:
    plain = {"model": "senryu-mini", "max_tokens": 1, "messages": [{"role": "user", "content": "x"}]}
    with serving(scripted_model(says("x"))) as url:
        assert post(url, plain, headers=BETAS[1:]).status_code == 200
        response = post(url, plain, headers=BETAS)
        assert (response.status_code, response.json()["error"]["message"]) == (
            400,
            "Unexpected value(s) `tomorrow-2027-01-01` for the `anthropic-beta` header. Please consult our documentation at "
            "platform.claude.com/docs or try again without the header.",
        )
        assert post(url).json()["error"]["type"] == "invalid_request_error"


def test_every_key_has_caches_of_its_own() -> None:
    salts: list[bytes] = []

    def reply(request: TokenRequest) -> list[int]:
        salts.append(request.salt)
        return [END]

    plain = {"model": "senryu-mini", "max_tokens": 1, "messages": [{"role": "user", "content": "x"}]}
    with serving(scripted_model(reply)) as url:
        for headers in (
            [],
            [("x-api-key", "a")],
            [("authorization", "Bearer a")],
            [("x-api-key", "b"), ("authorization", "Bearer a")],
        ):
            assert post(url, plain, headers=headers).status_code == 200
    none, first, same, other = salts
    assert none == b""
    assert first == same != other
    assert b"a" != first != b""


def test_routes_under_anthropic_and_completions(lenient: str) -> None:
    plain = {"model": "senryu-mini", "max_tokens": 1, "messages": [{"role": "user", "content": "x"}]}
    assert post(lenient, plain, "/anthropic/v1/messages").status_code == 200
    assert httpx.get(lenient + "/anthropic/v1/models", headers=VERSION).status_code == 200
    lost = post(lenient, plain, "/anthropic/v2")
    assert (lost.status_code, lost.json()["error"]) == (
        404,
        {"type": "not_found_error", "message": "Not found: POST /anthropic/v2"},
    )
    old = post(
        lenient, {"model": "senryu-mini", "prompt": "\n\nHuman: x\n\nAssistant:", "max_tokens_to_sample": 1}, "/v1/complete"
    )
    assert (old.status_code, old.json()["error"]) == (
        400,
        {
            "type": "invalid_request_error",
            "message": "Text completions are not supported by any model here. Use the Messages API: POST /v1/messages",
        },
    )
