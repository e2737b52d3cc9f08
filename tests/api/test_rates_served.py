"""Rates through every door over real sockets, on a clock that stands still: refusals, headers, who shares a rate with whom."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import anthropic
import httpx
import pytest

from aws import KEY, SECRET, post_signed
from senryu.api import app
from senryu.api.ratelimits import openai_rates
from senryu.service.rates import MINUTE, SECOND, Rates, Standing
from serving import Clock, says, scripted_model, serving

HAIKU = "claude-3-5-haiku-20241022"
HI: list[Any] = [{"role": "user", "content": "Hi"}]  # six tokens
HELLO = "Hello"  # five tokens and an end
VERSION = {"anthropic-version": "2023-06-01"}
BEDROCK = "/model/anthropic.claude-3-5-haiku-20241022-v1:0"
CONVERSE = {"messages": [{"role": "user", "content": [{"text": "Hi"}]}]}
VERTEX = "/vertex/v1/projects/p/locations/us-east5/publishers/anthropic/models/claude-3-5-haiku@20241022:rawPredict"
Told = Callable[[dict[str, Any]], bool]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Of the rates of servers that start later."""
    clock, rates_of = Clock(), app.rates_of
    monkeypatch.setattr(app, "rates_of", lambda settings: Rates(rates_of(settings).limits, clock))
    return clock


def message(**fields: Any) -> dict[str, Any]:
    return {"model": HAIKU, "max_tokens": 64, "messages": HI, **fields}


def chat(**fields: Any) -> dict[str, Any]:
    return {"model": HAIKU, "messages": HI, **fields}


def post(url: str, path: str = "/v1/messages", body: Any = None, **headers: str) -> httpx.Response:
    return httpx.post(url + path, json=body or message(), headers={**VERSION, **headers}, timeout=60)


def rates_in(response: httpx.Response) -> dict[str, str]:
    return {name: value for name, value in response.headers.items() if "ratelimit" in name}


DOORS: dict[str, tuple[str, dict[str, Any], Told]] = {  # path, body, whether a body is a refusal in the door's shape
    "messages": (
        "/v1/messages",
        message(),
        lambda told: told["type"] == "error" and told["error"]["type"] == "rate_limit_error",
    ),
    "stream": ("/v1/messages", message(stream=True), lambda told: told["error"]["type"] == "rate_limit_error"),
    "openai": (
        "/v1/chat/completions",
        chat(),
        lambda told: (told["error"]["type"], told["error"]["code"]) == ("requests", "rate_limit_exceeded"),
    ),
    "openai stream": ("/v1/chat/completions", chat(stream=True), lambda told: told["error"]["code"] == "rate_limit_exceeded"),
    "completions": (
        "/v1/completions",
        {"model": HAIKU, "prompt": "Hi", "max_tokens": 8},
        lambda told: told["error"]["code"] == "rate_limit_exceeded",
    ),
    "responses": (
        "/openai/v1/responses",
        {"model": HAIKU, "input": "Hi"},
        lambda told: told["error"]["code"] == "rate_limit_exceeded",
    ),
    "openrouter": ("/api/v1/chat/completions", chat(), lambda told: told["error"]["code"] == 429),
    "invoke": (
        f"{BEDROCK}/invoke",
        {"anthropic_version": "bedrock-2023-05-31", "max_tokens": 8, "messages": HI},
        lambda told: set(told) == {"message"},
    ),
    "converse stream": (f"/bedrock{BEDROCK}/converse-stream", CONVERSE, lambda told: set(told) == {"message"}),
    "messages on bedrock": (
        "/bedrock/anthropic/v1/messages",
        message(),
        lambda told: told["error"]["type"] == "rate_limit_error",
    ),
    "vertex": (
        VERTEX,
        {"anthropic_version": "vertex-2023-10-16", "max_tokens": 8, "messages": HI},
        lambda told: (told["error"]["code"], told["error"]["status"]) == (429, "RESOURCE_EXHAUSTED"),
    ),
}


@pytest.mark.parametrize("door", DOORS)
def test_every_door_refuses_in_its_own_shape(clock: Clock, door: str) -> None:
    path, body, is_refusal = DOORS[door]
    with serving(scripted_model(says(HELLO)), requests_per_minute=1) as url:
        assert post(url, path, body).status_code == 200
        clock.now += SECOND // 2
        response = post(url, path, body)
        assert response.status_code == 429
        assert is_refusal(response.json()), response.text
        assert response.headers["retry-after"] == "60", "59.5 seconds, rounded up"
        if "bedrock" in path and "messages" not in path:
            assert response.headers["x-amzn-errortype"] == "ThrottlingException"
        clock.now += 59 * SECOND
        assert post(url, path, body).headers["retry-after"] == "1"
        clock.now += SECOND
        assert post(url, path, body).status_code == 200


def test_all_doors_share_a_rate_and_its_words(clock: Clock) -> None:
    words = "This request would exceed the rate limit for your key of 1 requests per minute. Try again in 60 s."
    with serving(scripted_model(says(HELLO)), requests_per_minute=1) as url:
        assert post(url).status_code == 200
        for path, body, _ in DOORS.values():
            assert post(url, path, body).headers["retry-after"] == "60"
        assert post(url).json()["error"]["message"] == words
        assert post(url, f"{BEDROCK}/converse", CONVERSE).json() == {"message": words}
        openai = post(url, "/v1/chat/completions", chat()).json()["error"]["message"]
        assert openai == "Rate limit reached on requests per min: Limit 1. Please try again in 60s."


def test_headers_of_messages(clock: Clock) -> None:
    limits = {"requests_per_minute": 50, "input_tokens_per_minute": 50_000, "output_tokens_per_minute": 8_000}
    with serving(scripted_model(says(HELLO)), **limits) as url:
        for stream, used in ((False, 1), (True, 2)):
            told = rates_in(post(url, body=message(stream=stream)))
            ends = {name: datetime.fromisoformat(told.pop(name)) for name in list(told) if name.endswith("-reset")}
            assert told == {
                "anthropic-ratelimit-requests-limit": "50",
                "anthropic-ratelimit-requests-remaining": str(50 - used),
                "anthropic-ratelimit-input-tokens-limit": "50000",
                "anthropic-ratelimit-input-tokens-remaining": "50000",
                "anthropic-ratelimit-output-tokens-limit": "8000",
                "anthropic-ratelimit-output-tokens-remaining": "8000",
                "anthropic-ratelimit-tokens-limit": "58000",
                "anthropic-ratelimit-tokens-remaining": "58000",
            }
            assert len(ends) == 4
            for end in ends.values():
                assert end.tzinfo is not None
                assert end.microsecond == 0
                assert end > datetime.now(UTC) - timedelta(minutes=2)
        big = post(url, body=message(messages=[{"role": "user", "content": "x" * 20_500}], max_tokens=1))
        assert rates_in(big)["anthropic-ratelimit-input-tokens-remaining"] == "29000"
        refused = post(url, body=message(messages=[{"role": "user", "content": "x" * 30_000}], max_tokens=1))
        assert refused.status_code == 429
        assert rates_in(refused)["anthropic-ratelimit-requests-remaining"] == "47", "a refused request takes nothing"
        assert "50,000 input tokens per minute" in refused.json()["error"]["message"]


def test_a_limit_below_a_thousand_is_not_rounded_over_itself(clock: Clock) -> None:
    with serving(scripted_model(says(HELLO)), output_tokens_per_minute=700) as url:
        told = rates_in(post(url))
        assert told["anthropic-ratelimit-output-tokens-remaining"] == "700"
        assert told["anthropic-ratelimit-tokens-limit"] == "700"
        assert not any("input" in name or "requests" in name for name in told)


@pytest.mark.parametrize("prefix", ["/v1", "/openai/v1", "/api/v1"])
def test_headers_in_openais_shape(clock: Clock, prefix: str) -> None:
    limits = {"requests_per_minute": 50, "input_tokens_per_minute": 50_000, "output_tokens_per_minute": 8_000}
    with serving(scripted_model(says(HELLO)), **limits) as url:
        assert rates_in(post(url, f"{prefix}/chat/completions", chat())) == {
            "x-ratelimit-limit-requests": "50",
            "x-ratelimit-remaining-requests": "49",
            "x-ratelimit-reset-requests": "1.2s",
            "x-ratelimit-limit-tokens": "58000",
            "x-ratelimit-remaining-tokens": "57988",
            "x-ratelimit-reset-tokens": "45ms",
        }


@pytest.mark.parametrize(
    ("nanoseconds", "told"),
    [(0, "0s"), (1, "1ms"), (SECOND, "1s"), (7_660_000_000, "7.66s"), (MINUTE - 1, "1m0s"), (6 * MINUTE + 1, "6m0.001s")],
)
def test_durations(nanoseconds: int, told: str) -> None:
    assert openai_rates({"requests": Standing(1, 0, nanoseconds)})["x-ratelimit-reset-requests"] == told


def test_without_limits_nothing_is_told() -> None:
    with serving(scripted_model(says(HELLO))) as url:
        for path, body, _ in DOORS.values():
            response = post(url, path, body)
            assert response.status_code == 200
            assert rates_in(response) == {}


def test_counts_and_lists_are_free_and_tell_nothing(clock: Clock) -> None:
    with serving(scripted_model(says(HELLO)), requests_per_minute=1) as url:
        free = [
            *(post(url, "/v1/messages/count_tokens", {"model": HAIKU, "messages": HI}) for _ in range(3)),
            *(httpx.get(url + path, headers=VERSION) for path in ("/v1/models", "/api/v1/models", "/api/v1/key")),
        ]
        for response in free:
            assert (response.status_code, rates_in(response)) == (200, {})
        assert post(url).status_code == 200


def test_a_prompt_that_no_wait_admits(clock: Clock) -> None:
    long: Any = [{"role": "user", "content": "x" * 200}]
    with serving(scripted_model(says(HELLO)), input_tokens_per_minute=100) as url:
        response = post(url, body=message(messages=long))
        assert (response.status_code, response.json()["error"]["type"]) == (429, "rate_limit_error")
        assert response.headers["x-should-retry"] == "false"
        assert "retry-after" not in response.headers
        openai = post(url, "/v1/chat/completions", chat(messages=long))
        assert openai.json()["error"]["type"] == "tokens"
        asked: list[int] = []
        client = anthropic.DefaultHttpxClient(event_hooks={"response": [lambda response: asked.append(response.status_code)]})
        with (
            anthropic.Anthropic(base_url=url, api_key="any", http_client=client) as sdk,
            pytest.raises(anthropic.RateLimitError, match="waiting does not help"),
        ):
            sdk.messages.create(model=HAIKU, max_tokens=8, messages=long)
        assert asked == [429], "it was not sent again"


def test_an_overload_says_no_time() -> None:
    with serving(scripted_model(says(HELLO)), max_requests=0, requests_per_minute=1) as url:
        for path, body, _ in DOORS.values():
            response = post(url, path, body)
            assert response.status_code in (429, 529)
            assert "retry-after" not in response.headers


def test_the_official_sdk_waits_and_succeeds(clock: Clock) -> None:
    seen: list[int] = []

    def pass_time(response: Any) -> None:
        """The clock of the rates goes on as the caller was told."""
        seen.append(response.status_code)
        clock.now += int(response.headers.get("retry-after", 0)) * SECOND

    with serving(scripted_model(says(HELLO)), requests_per_minute=60) as url:
        client = anthropic.DefaultHttpxClient(event_hooks={"response": [pass_time]})
        with anthropic.Anthropic(base_url=url, api_key="any", http_client=client) as sdk:
            for _ in range(61):
                answer = sdk.messages.create(model=HAIKU, max_tokens=64, messages=HI)
                assert answer.content[0].type == "text"
                assert answer.content[0].text == HELLO
    assert seen == [200] * 60 + [429, 200]


def test_every_key_has_its_own(clock: Clock) -> None:
    keys = {KEY: SECRET, "AKIDOTHER": "other"}
    with serving(scripted_model(says(HELLO)), aws_keys=keys, requests_per_minute=1) as url:
        for key, secret in keys.items():
            codes = [post_signed(f"{url}{BEDROCK}/converse", CONVERSE, key=key, secret=secret).status_code for _ in range(2)]
            assert codes == [200, 429]
        for name in ("one", "two"):
            assert [post(url, **{"x-api-key": name}).status_code for _ in range(2)] == [200, 429]


def test_a_batch_is_beside_the_rates(clock: Clock) -> None:
    limits = {"requests_per_minute": 1, "input_tokens_per_minute": 10, "output_tokens_per_minute": 10}
    with serving(scripted_model(says(HELLO)), **limits) as url:
        mine = {"x-api-key": "mine"}
        assert post(url, **mine).status_code == 200
        params = {"model": HAIKU, "max_tokens": 8, "messages": HI}
        with anthropic.Anthropic(base_url=url, api_key="mine", max_retries=0) as sdk:
            batch = sdk.messages.batches.create(requests=[{"custom_id": str(n), "params": params} for n in range(3)])
            while batch.processing_status != "ended":
                time.sleep(0.02)
                batch = sdk.messages.batches.retrieve(batch.id)
        assert batch.request_counts.succeeded == 3
        assert post(url, **mine).status_code == 429


def test_a_web_page_may_see_them(clock: Clock) -> None:
    with serving(scripted_model(says(HELLO)), requests_per_minute=1) as url:
        for expected in (200, 429):
            response = post(url, origin="http://localhost:3000")
            assert response.status_code == expected
            exposed = set(response.headers["access-control-expose-headers"].split(", "))
            assert set(rates_in(response)) <= exposed
            assert {"retry-after", "request-id", "senryu-cost-usd"} <= exposed


@pytest.mark.parametrize(("limits", "told"), [({}, -1), ({"requests_per_minute": 50}, 50)])
def test_what_openrouters_key_says(limits: dict[str, int], told: int) -> None:
    with serving(scripted_model(says(HELLO)), **limits) as url:
        data = httpx.get(f"{url}/api/v1/key").json()["data"]
        assert data["rate_limit"] == {"requests": told, "interval": "60s"}
