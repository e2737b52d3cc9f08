"""Vertex AI's addresses over real sockets: the Messages API's bodies and answers, Google's refusals, Anthropic's client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import pytest

from serving import says, scripted_model, serving

HAIKU = "claude-3-5-haiku@20241022"
ANTHROPIC = "projects/some-project/locations/us-east5/publishers/anthropic/models"
KEY = "secret"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serving(scripted_model(says("Hello, 漢字 world")), api_key=KEY) as url:
        yield url


@pytest.fixture(scope="module")
def lenient() -> Iterator[str]:
    with serving(scripted_model(says("Hello")), profile="lenient") as url:
        yield url


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[anthropic.AnthropicVertex]:
    with anthropic.AnthropicVertex(
        base_url=url + "/vertex/v1", region="us-east5", project_id="some-project", access_token=KEY, max_retries=0
    ) as client:
        yield client


def body(**fields: Any) -> dict[str, Any]:
    return {
        "anthropic_version": "vertex-2023-10-16",
        "max_tokens": 64,
        "messages": [{"role": "user", "content": "Hi"}],
        **fields,
    }


def post(
    url: str, called: str = f"{HAIKU}:rawPredict", prefix: str = "/vertex/v1", headers: Any = (), **fields: Any
) -> httpx.Response:
    every = {"authorization": f"Bearer {KEY}", **dict(headers)}
    return httpx.post(f"{url}{prefix}/{ANTHROPIC}/{called}", json=body(**fields), headers=every, timeout=60)


def message_of(response: httpx.Response) -> str:
    """The message of a 400 in the Messages API's envelope."""
    answer = response.json()
    assert (response.status_code, answer["type"], answer["error"]["type"]) == (400, "error", "invalid_request_error")
    assert answer["request_id"] == response.headers["request-id"]
    return str(answer["error"]["message"])


def google_of(response: httpx.Response) -> tuple[int, str, str]:
    """(status, its name, message) of a refusal in Google's shape."""
    answer = response.json()
    assert set(answer) == {"error"}
    assert set(answer["error"]) == {"code", "message", "status"}
    assert answer["error"]["code"] == response.status_code
    assert response.headers["request-id"].startswith("req_")
    return response.status_code, answer["error"]["status"], answer["error"]["message"]


@pytest.mark.parametrize("prefix", ["/vertex/v1", "/v1"])
@pytest.mark.parametrize("called", [HAIKU, "claude-3-5-haiku", "claude-3-5-haiku%4020241022", "senryu-mini"])
@pytest.mark.parametrize("colon", [":", "%3A"])
def test_a_message(url: str, prefix: str, called: str, colon: str) -> None:
    message = post(url, f"{called}{colon}rawPredict", prefix).json()
    assert message["id"].startswith("msg_")
    assert message["type"] == "message"
    assert message["model"] == ("senryu-mini" if "mini" in called else "claude-3-5-haiku-20241022")
    assert message["content"] == [{"type": "text", "text": "Hello, 漢字 world"}]
    assert message["usage"]["input_tokens"] == 6


def test_the_body_says_whether_it_streams(url: str) -> None:
    response = post(url, f"{HAIKU}:streamRawPredict", stream=True)
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    events = [json.loads(line.removeprefix("data: ")) for line in response.text.splitlines() if line.startswith("data: ")]
    assert [events[0]["type"], events[-1]["type"]] == ["message_start", "message_stop"]
    assert post(url, f"{HAIKU}:streamRawPredict", stream=False).json()["type"] == "message"


def test_counting(url: str) -> None:
    asked = {**body(), "model": HAIKU}
    del asked["max_tokens"]
    for name in ("count-tokens:rawPredict", "count-tokens%3ArawPredict"):
        response = httpx.post(
            f"{url}/vertex/v1/{ANTHROPIC}/{name}", json=asked, headers={"authorization": f"Bearer {KEY}"}, timeout=60
        )
        assert (response.status_code, response.json()) == (200, {"input_tokens": 6})
        asked.pop("anthropic_version", None)  # Google's examples of a count do not have it
    del asked["model"]
    response = httpx.post(
        f"{url}/v1/{ANTHROPIC}/count-tokens:rawPredict", json=asked, headers={"authorization": f"Bearer {KEY}"}, timeout=60
    )
    assert message_of(response) == "model: Field required"


def test_versions_decide_the_rules(url: str) -> None:
    for version in ("vertex-2023-10-16", "2023-06-01"):
        assert post(url, anthropic_version=version, temperature=0).status_code == 200
    assert post(url, anthropic_version="2026-10-21").status_code == 200
    refused = post(url, anthropic_version="2026-10-21", temperature=0)
    assert message_of(refused) == "temperature: Extra inputs are not permitted"
    for wrong in ("bedrock-2023-05-31", None, 3):
        assert message_of(post(url, anthropic_version=wrong)) == (
            "anthropic_version: Input should be 'vertex-2023-10-16', '2023-06-01' or '2026-10-21'"
        )
    asked = body()
    del asked["anthropic_version"]
    response = httpx.post(
        f"{url}/v1/{ANTHROPIC}/{HAIKU}:rawPredict", json=asked, headers={"x-api-key": KEY, "anthropic-version": "2023-06-01"}
    )
    assert message_of(response) == "anthropic_version: Field required"


def test_betas_in_the_body_and_in_the_header(url: str) -> None:
    schema = {"type": "object", "properties": {}, "additionalProperties": False}
    asked = {"output_format": {"type": "json_schema", "schema": schema}}
    name = "structured-outputs-2025-11-13"
    assert message_of(post(url, **asked)) == "output_format: Extra inputs are not permitted"
    with serving(scripted_model(says("{}"))) as other:
        assert post(other, anthropic_beta=[name], **asked).json()["content"][0]["text"] == "{}"
        assert post(other, headers={"anthropic-beta": name}, **asked).status_code == 200
    assert "`unheard-of`" in message_of(post(url, anthropic_beta=["unheard-of"]))
    assert message_of(post(url, anthropic_beta=name)) == "anthropic_beta: Input should be a valid list"
    assert message_of(post(url, anthropic_beta=[3])) == "anthropic_beta.0: Input should be a valid string"


def test_the_model_stands_in_the_address_alone(url: str, lenient: str) -> None:
    assert message_of(post(url, model=HAIKU)) == "model: Extra inputs are not permitted"
    response = post(lenient, model="another")
    assert response.json()["model"] == "claude-3-5-haiku-20241022"
    assert response.headers["senryu-ignored"] == "model"


def test_refusals_of_the_request_are_in_the_messages_api_s_words(url: str) -> None:
    assert message_of(post(url, max_tokens=8193)) == (
        "max_tokens: 8193 > 8192, which is the maximum allowed number of output tokens for claude-3-5-haiku-20241022"
    )
    for stream in (False, True):
        assert message_of(post(url, stream=stream, messages=[])) == "messages: at least one message is required"


@pytest.mark.parametrize("where", ["message", "result"])
def test_nothing_is_fetched_from_elsewhere(url: str, where: str) -> None:
    def asked(source: dict[str, Any]) -> dict[str, Any]:
        document = {"type": "document", "source": source}
        if where == "message":
            return {"messages": [{"role": "user", "content": [document]}]}
        call = {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {}}
        result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [document]}
        said = [("user", "Hi"), ("assistant", [call]), ("user", [result])]
        return {"messages": [{"role": role, "content": content} for role, content in said]}

    place = "messages.0.content.0" if where == "message" else "messages.2.content.0.tool_result.content.0"
    refused = message_of(post(url, **asked({"type": "file", "file_id": "file_1"})))
    assert refused.startswith(f"{place}.document.source: uploaded files are not offered at this address.")
    refused = message_of(post(url, **asked({"type": "url", "url": "https://example.com/a.pdf"})))
    assert refused.startswith(f"{place}.document.source: this server fetches nothing.")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (f"{ANTHROPIC}/claude-9@x:rawPredict", f"Publisher Model `{ANTHROPIC}/claude-9@x` was not found."),
        (f"{ANTHROPIC}/{HAIKU}:predict", f"Not found: POST /vertex/v1/{ANTHROPIC}/{HAIKU}:predict"),
        (f"{ANTHROPIC}/{HAIKU}", f"Not found: POST /vertex/v1/{ANTHROPIC}/{HAIKU}"),
        (f"{ANTHROPIC}/:rawPredict", "Not found: POST "),
        ("projects/p/locations/l/publishers/google/models/gemini:rawPredict", "Publisher `google` is not served here"),
        ("projects/p/locations/l/batchPredictionJobs", "Batch prediction is not offered at this address."),
        ("files", "Not found: POST /vertex/v1/files"),
        ("messages/batches", "Not found: POST /vertex/v1/messages/batches"),
    ],
)
def test_addresses_are_refused_in_google_s_shape(url: str, path: str, message: str) -> None:
    response = httpx.post(f"{url}/vertex/v1/{path}", json=body(), headers={"authorization": f"Bearer {KEY}"}, timeout=60)
    status, name, text = google_of(response)
    assert (status, name) == (404, "NOT_FOUND")
    assert text.startswith(message)


def test_credentials(url: str) -> None:
    path = f"{url}/v1/{ANTHROPIC}/{HAIKU}:rawPredict"
    for headers, words in (({}, "is missing"), ({"authorization": "Bearer wrong"}, "had invalid")):
        status, name, text = google_of(httpx.post(path, json=body(), headers=headers))
        assert (status, name) == (401, "UNAUTHENTICATED")
        assert words in text
        assert "Bearer KEY" in text
    with serving(scripted_model(says("Hello"))) as open_server:
        for headers in ({}, {"authorization": "Bearer any-token"}):
            answer = httpx.post(f"{open_server}/v1/{ANTHROPIC}/{HAIKU}:rawPredict", json=body(), headers=headers, timeout=60)
            assert answer.status_code == 200
        elsewhere = httpx.post(
            f"{open_server}/v1/{ANTHROPIC}/{HAIKU}:rawPredict", json=body(), headers={"origin": "https://example.com"}
        )
        assert google_of(elsewhere)[:2] == (403, "PERMISSION_DENIED")


def test_bodies_over_30_mb(url: str) -> None:
    path, headers = f"{url}/v1/{ANTHROPIC}/{HAIKU}:rawPredict", {"authorization": f"Bearer {KEY}"}
    limit = 30 * 1024 * 1024
    response = httpx.post(path, content=b" " * (limit + 1), headers=headers, timeout=60)
    assert (response.status_code, response.json()["error"]["type"]) == (413, "request_too_large")
    within = httpx.post(path, content=b" " * (limit - 2) + b"{}", headers=headers, timeout=60)
    assert message_of(within) == "anthropic_version: Field required"


def test_the_client_of_the_sdk(client: anthropic.AnthropicVertex) -> None:
    asked: Any = {"model": HAIKU, "max_tokens": 64, "messages": [{"role": "user", "content": "Hi"}]}
    message = client.messages.create(**asked)
    assert (message.content[0].text, message.model) == ("Hello, 漢字 world", "claude-3-5-haiku-20241022")
    assert str(message._request_id).startswith("req_")
    with client.messages.stream(**asked) as stream:
        assert "".join(stream.text_stream) == "Hello, 漢字 world"
    assert client.messages.count_tokens(model=HAIKU, messages=asked["messages"]).input_tokens == 6
    beta = client.beta.messages.create(**asked, betas=["context-1m-2025-08-07"])
    assert beta.content[0].text == "Hello, 漢字 world"
    with pytest.raises(anthropic.BadRequestError, match="max_tokens: 8193 > 8192"):
        client.messages.create(**{**asked, "max_tokens": 8193})
    with pytest.raises(anthropic.NotFoundError, match="Publisher Model `projects/some-project/"):
        client.messages.create(**{**asked, "model": "claude-9"})
    with (
        client.with_options(access_token="wrong") as stranger,
        pytest.raises(anthropic.AuthenticationError, match="invalid authentication"),
    ):
        stranger.messages.create(**asked)
