"""OpenRouter's shape over real sockets: slugs, markers, costs, the list of models, and what a key and an answer came to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import anthropic
import httpx
import pytest

from serving import says, scripted_model, serving

SLUG, DATED = "anthropic/claude-3.5-haiku", "anthropic/claude-3.5-haiku-20241022"
HELLO = "Hello"  # five tokens and an end


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    with serving(scripted_model(says(HELLO))) as url, httpx.Client(base_url=f"{url}/api/v1", timeout=60) as http:
        yield http


def body(**fields: Any) -> dict[str, Any]:
    return {"model": SLUG, "messages": [{"role": "user", "content": "Hi"}], **fields}


def chat(http: httpx.Client, **fields: Any) -> dict[str, Any]:
    """A completion."""
    response = http.post("/chat/completions", json=body(**fields))
    assert response.status_code == 200, response.text
    completion: dict[str, Any] = response.json()
    return completion


def refusal(response: httpx.Response) -> tuple[int, str]:
    """(code, message) of an error in this shape."""
    error = response.json()["error"]
    assert set(error) <= {"code", "message", "metadata"}
    assert error["code"] == response.status_code
    return error["code"], error["message"]


@pytest.mark.parametrize("model", [SLUG, DATED])
def test_a_completion(http: httpx.Client, model: str) -> None:
    completion = chat(http, model=model)
    assert completion["id"].startswith("gen-")
    assert (completion["object"], completion["model"], completion["provider"]) == ("chat.completion", model, "Senryu")
    (choice,) = completion["choices"]
    assert choice["message"]["content"] == HELLO
    assert (choice["finish_reason"], choice["native_finish_reason"]) == ("stop", "end_turn")
    usage = completion["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (6, 6, 12)
    assert usage["cost"] == (6 * 800 + 6 * 4000) / 1e9
    assert usage["cost_details"] == {
        "upstream_inference_cost": None,
        "upstream_inference_prompt_cost": 6 * 800 / 1e9,
        "upstream_inference_completions_cost": 6 * 4000 / 1e9,
    }


def test_a_stream_ends_with_what_it_cost(http: httpx.Client) -> None:
    response = http.post("/chat/completions", json=body(stream=True, usage={"include": True}))
    lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    chunks = [json.loads(line) for line in lines[:-1]]
    assert {chunk["provider"] for chunk in chunks} == {"Senryu"}
    assert "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"]) == HELLO
    assert [choice["native_finish_reason"] for chunk in chunks for choice in chunk["choices"]][-1] == "end_turn"
    assert chunks[-1]["usage"]["cost"] == (6 * 800 + 6 * 4000) / 1e9


def test_markers_in_parts_are_breakpoints(http: httpx.Client) -> None:
    book = {"type": "text", "text": "b" * 2100, "cache_control": {"type": "ephemeral"}}
    hour = {"type": "text", "text": "h" * 2100, "cache_control": {"type": "ephemeral", "ttl": "1h"}}
    for part, price in ((book, 1000), (hour, 1600)):
        asked = [{"role": "system", "content": [part]}, {"role": "user", "content": "Hi"}]
        first, second = chat(http, messages=asked), chat(http, messages=asked)
        written = first["usage"]["prompt_tokens_details"]["cache_write_tokens"]
        assert written > 2048
        assert first["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
        rest = first["usage"]["prompt_tokens"] - written
        assert first["usage"]["cost"] == (written * price + rest * 800 + 6 * 4000) / 1e9
        assert second["usage"]["prompt_tokens_details"] == {
            "cached_tokens": written,
            "cache_write_tokens": 0,
            "audio_tokens": 0,
        }
        assert second["usage"]["cost"] == (written * 80 + rest * 800 + 6 * 4000) / 1e9
        told = http.get("/generation", params={"id": second["id"]}).json()["data"]
        assert told["native_tokens_cached"] == written
        assert told["cache_discount"] == written * 720 / 1e9


def test_fields_that_ask_for_nothing_here(http: httpx.Client) -> None:
    asked = {
        "models": [], "route": "fallback", "transforms": [], "plugins": [], "min_p": 0, "top_a": 0.0, "repetition_penalty": 1.0,
        "include_reasoning": False, "reasoning": {"enabled": False, "exclude": True}, "usage": {"include": False},
        "provider": {"order": ["Anthropic"], "allow_fallbacks": False, "data_collection": "deny"}, "structured_outputs": True,
        "session_id": "s", "trace": {"trace_id": "t"}, "top_k": 1, "user": "u",
    }  # fmt: skip
    assert chat(http, **asked)["choices"][0]["message"]["content"] == HELLO
    nothing = dict.fromkeys(asked)
    assert chat(http, **nothing)["choices"][0]["message"]["content"] == HELLO


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"models": ["openai/gpt-4o"]}, "models: models to fall back to are not supported by this server yet."),
        ({"transforms": ["middle-out"]}, "transforms: transforms of the prompt are not supported"),
        ({"plugins": [{"id": "web"}]}, "plugins: plugins are not supported"),
        ({"reasoning": {"effort": "high"}}, "reasoning: reasoning is not supported"),
        ({"reasoning": {"max_tokens": 100}}, "reasoning: reasoning is not supported"),
        ({"repetition_penalty": 1.1}, "repetition_penalty: penalties are not supported"),
        ({"provider": {"max_price": {"prompt": 1}}}, "provider.max_price: this preference is not supported"),
        ({"usage": {"include": 1}}, "usage.include: Input should be a valid boolean"),
        ({"top_k": -1}, "top_k: Input should be greater than or equal to 0"),
        ({"unheard": 1}, "Unknown parameter: 'unheard'."),
        ({"model": "anthropic/claude-9"}, "anthropic/claude-9 is not a valid model ID"),
        ({"messages": []}, "messages: at least one message"),
    ],
)
def test_refusals(http: httpx.Client, fields: dict[str, Any], message: str) -> None:
    for stream in (False, True):
        code, told = refusal(http.post("/chat/completions", json=body(stream=stream, **fields)))
        assert code == 400
        assert told.startswith(message)


def test_the_lenient_profile_says_what_it_passed_over() -> None:
    with serving(scripted_model(says(HELLO)), profile="lenient") as url:
        asked = body(models=["a/b"], provider={"max_price": {}, "new": 1}, reasoning={"effort": "low"})
        response = httpx.post(f"{url}/api/v1/chat/completions", json=asked, timeout=60)
        assert response.status_code == 200
        assert set(response.headers["senryu-ignored"].split(", ")) == {
            "models",
            "provider.max_price",
            "provider.new",
            "reasoning",
        }


def test_models(http: httpx.Client) -> None:
    models = {model["id"]: model for model in http.get("/models").json()["data"]}
    assert set(models) == {SLUG, "senryu-mini"}
    assert http.get("/models/user").json() == http.get("/models").json()  # nobody rules out any
    haiku = models[SLUG]
    assert (haiku["canonical_slug"], haiku["context_length"]) == (DATED, 200_000)
    assert haiku["top_provider"]["max_completion_tokens"] == 8192
    assert haiku["pricing"] == {
        "prompt": "0.0000008",
        "completion": "0.000004",
        "input_cache_read": "0.00000008",
        "input_cache_write": "0.000001",
        "request": "0",
        "image": "0",
    }
    for id in models:
        assert chat(http, model=id)["model"] == id


def test_the_messages_routes_are_the_claude_api(http: httpx.Client) -> None:
    base = str(http.base_url).rstrip("/").removesuffix("/v1")
    with anthropic.Anthropic(base_url=base, auth_token="any", api_key=None, max_retries=0) as sdk:
        asked: Any = {"model": SLUG, "messages": [{"role": "user", "content": "Hi"}]}
        message = sdk.messages.create(**asked, max_tokens=64)
        assert message.content[0].text == HELLO
        assert sdk.messages.count_tokens(**asked).input_tokens == 6
        with pytest.raises(anthropic.BadRequestError, match="max_tokens: 8193 > 8192"):
            sdk.messages.create(**asked, max_tokens=8193)
    told = http.get("/generation", params={"id": message.id}, headers={"authorization": "Bearer any"}).json()["data"]
    assert (told["upstream_id"], told["tokens_completion"]) == (message.id, 6)


def test_one_answer_in_the_ledger(http: httpx.Client) -> None:
    for stream in (False, True):
        response = http.post("/chat/completions", json=body(max_tokens=3, stream=stream))
        first = json.loads(response.text.splitlines()[0].removeprefix("data: "))
        told = http.get("/generation", params={"id": first["id"]}).json()["data"]
        assert told["id"] == first["id"]
        assert (told["model"], told["provider_name"], told["cancelled"]) == (SLUG, "Senryu", False)
        assert (told["tokens_prompt"], told["tokens_completion"]) == (6, 3)
        assert told["total_cost"] == told["usage"] == (6 * 800 + 3 * 4000) / 1e9
        assert (told["finish_reason"], told["native_finish_reason"]) == ("length", "max_tokens")
        assert told["latency"] >= 0
        assert told["generation_time"] >= 0
        assert datetime.fromisoformat(told["created_at"]).tzinfo is not None


@pytest.mark.parametrize("id", ["gen-unknown", "gen-", "", "msg_1 OR 1=1", "gen-\0"])
def test_answers_that_nobody_knows(http: httpx.Client, id: str) -> None:
    assert refusal(http.get("/generation", params={"id": id})) == (404, f"Generation {id} not found")


def test_an_id_is_required(http: httpx.Client) -> None:
    assert refusal(http.get("/generation"))[0] == 400


def test_a_tenant_sees_its_own(http: httpx.Client) -> None:
    """Without a key on the server, every key that callers send is a tenant."""
    mine, yours = {"authorization": "Bearer mine"}, {"authorization": "Bearer yours"}
    for headers, path in ((mine, "/key"), (yours, "/auth/key")):
        before = http.get(path, headers=headers).json()["data"]
        assert (before["usage"], before["limit"], before["limit_remaining"]) == (0, None, None)
    answers = [http.post("/chat/completions", json=body(), headers=mine).json() for _ in range(3)]
    cost = 3 * (6 * 800 + 6 * 4000) / 1e9
    after = http.get("/key", headers=mine).json()["data"]
    assert [after[f"usage{part}"] for part in ("", "_daily", "_weekly", "_monthly")] == [cost] * 4
    assert "mine" not in after["label"]
    assert http.get("/key", headers=yours).json()["data"]["usage"] == 0
    assert http.get("/generation", params={"id": answers[0]["id"]}, headers=mine).status_code == 200
    for headers in (yours, {}):
        assert refusal(http.get("/generation", params={"id": answers[0]["id"]}, headers=headers))[0] == 404


def test_a_key_is_checked() -> None:
    with serving(scripted_model(says(HELLO)), api_key="secret") as url:
        for headers in ({}, {"authorization": "Bearer wrong"}):
            for path in ("key", "models", "generation?id=gen-1"):
                assert refusal(httpx.get(f"{url}/api/v1/{path}", headers=headers))[0] == 401
        right = {"authorization": "Bearer secret"}
        assert httpx.get(f"{url}/api/v1/key", headers=right).status_code == 200
        assert refusal(httpx.get(f"{url}/api/v1/credits", headers=right)) == (404, "Invalid URL (GET /api/v1/credits)")
