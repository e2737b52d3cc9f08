"""InvokeModel and its stream: the Messages API in AWS's clothes, under every name of the model; errors as AWS names them."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import anthropic
import httpx
import numpy as np
import pytest

from aws import read_stream
from senryu.engine.interface import TokenRequest
from senryu.kernels.batch import Batch
from serving import END, SPECIALS, TOKENIZER, says, scripted_model, serving

MODEL = "anthropic.claude-3-5-haiku-20241022-v1:0"
HAIKU = "claude-3-5-haiku-20241022"
ACCOUNT = "arn:aws:bedrock:us-east-1:123456789012"
CALL = SPECIALS.index("<|call|>")
BODY: dict[str, Any] = {
    "anthropic_version": "bedrock-2023-05-31",
    "max_tokens": 64,
    "messages": [{"role": "user", "content": "Hi"}],
}
TOOL = {"name": "look", "input_schema": {"type": "object", "properties": {"at": {"type": "string"}}, "required": ["at"]}}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    def reply(request: TokenRequest) -> list[int]:
        if "call" in TOKENIZER.decode(request.ids):
            return [CALL, *TOKENIZER.encode('{"name": "look", "arguments": {"at": "漢"}}'), END]
        return [*TOKENIZER.encode("Hello, 漢字"), END]

    with serving(scripted_model(reply)) as url:
        yield url


def post(url: str, operation: str = "invoke", to: str = MODEL, headers: Any = None, **fields: Any) -> httpx.Response:
    body = {name: value for name, value in {**BODY, **fields}.items() if value is not None}
    return httpx.post(f"{url}/model/{to}/{operation}", json=body, headers=headers, timeout=60)


def refusal(response: httpx.Response, status: int = 400, kind: str = "ValidationException") -> str:
    assert (response.status_code, response.headers["x-amzn-errortype"]) == (status, kind), response.text
    assert set(response.json()) == {"message"}
    return str(response.json()["message"])


def chunks(response: httpx.Response) -> list[dict[str, Any]]:
    """Events of the Messages API out of the chunks of a stream."""
    read = read_stream(response)
    assert {kind for kind, _ in read} == {"chunk"}
    return [json.loads(base64.b64decode(value["bytes"])) for _, value in read]


def joined(events: list[dict[str, Any]]) -> list[Any]:
    """Pieces of one text or input as one: where they are cut depends on the time that steps take."""
    whole: list[Any] = []
    for event in events:
        delta = event.get("delta", {})
        piece = delta.get("text", delta.get("partial_json"))
        if piece is None:
            whole.append(event)
        elif whole and isinstance(whole[-1], tuple):
            whole[-1] = (event["index"], delta["type"], whole[-1][2] + piece)
        else:
            whole.append((event["index"], delta["type"], piece))
    return whole


def test_a_message(url: str) -> None:
    response = post(url)
    message = response.json()
    assert (message["type"], message["model"], message["content"]) == (
        "message",
        HAIKU,
        [{"type": "text", "text": "Hello, 漢字"}],
    )
    counts = {name: response.headers[f"x-amzn-bedrock-{name}-token-count"] for name in ("input", "output")}
    assert counts == {"input": str(message["usage"]["input_tokens"]), "output": str(message["usage"]["output_tokens"])}
    assert response.headers["x-amzn-bedrock-cache-read-input-token-count"] == "0"
    assert int(response.headers["x-amzn-bedrock-invocation-latency"]) >= 0
    assert response.headers["x-amzn-requestid"].startswith("req_")
    assert response.headers["content-type"] == "application/json"


@pytest.mark.parametrize("text", ["Hi", "call"])
def test_a_stream_is_that_of_the_messages_api(url: str, text: str) -> None:
    asked = {"messages": [{"role": "user", "content": text}], "tools": [TOOL]}
    response = post(url, "invoke-with-response-stream", **asked)
    assert response.headers["x-amzn-bedrock-content-type"] == "application/json"
    events = chunks(response)
    metrics = events[-1].pop("amazon-bedrock-invocationMetrics")
    native = httpx.post(
        f"{url}/bedrock/anthropic/v1/messages",
        json={"model": HAIKU, "max_tokens": 64, **asked, "stream": True},
        headers={"anthropic-version": "2023-06-01"},
    )
    expected = [json.loads(line[6:]) for line in native.text.splitlines() if line.startswith("data: ")]
    expected = [event for event in expected if event["type"] != "ping"]
    own = [events[0]["message"], expected[0]["message"]]
    for message in own:
        assert message.pop("id").startswith("msg_")
    for event in (*events, *expected):
        event.get("content_block", {}).pop("id", None)
    assert joined(events) == joined(expected)
    usage = events[-2]["usage"]
    assert (metrics["inputTokenCount"], metrics["outputTokenCount"]) == (
        events[0]["message"]["usage"]["input_tokens"],
        usage["output_tokens"],
    )
    assert (metrics["cacheReadInputTokenCount"], metrics["cacheWriteInputTokenCount"]) == (0, 0)
    assert 0 <= metrics["firstByteLatency"] <= metrics["invocationLatency"]


@pytest.mark.parametrize("prefix", ["", "/bedrock"])
@pytest.mark.parametrize(
    "model",
    [
        MODEL,
        MODEL.replace(":", "%3A"),
        f"us.{MODEL}",
        "senryu-mini",
        f"arn:aws:bedrock:us-east-1::foundation-model/{MODEL}",
        f"{ACCOUNT}:inference-profile%2Fus.{MODEL}".replace(":", "%3A"),
    ],
)
def test_names_of_the_model(url: str, prefix: str, model: str) -> None:
    assert post(url + prefix, to=model).json()["content"][0]["text"] == "Hello, 漢字"


def test_models_that_are_not_here(url: str) -> None:
    gone = (404, "ResourceNotFoundException")
    assert refusal(post(url, to="anthropic.claude-9-v1:0"), *gone) == "model: anthropic.claude-9-v1:0"
    assert refusal(post(url, to=f"{ACCOUNT}:application-inference-profile%2Fabc"), *gone) == "model: abc"
    assert refusal(post(url, "invoke-with-response-stream", to="x"), *gone) == "model: x"
    for arn in (f"{ACCOUNT}:prompt%2FABC", "arn:aws:sagemaker:us-east-1:123456789012:endpoint%2Fx", "arn:x"):
        assert refusal(post(url, to=arn)) == "The provided model identifier is invalid."


def test_versions_and_betas_stand_in_the_body(url: str) -> None:
    assert refusal(post(url, anthropic_version=None)) == "anthropic_version: Field required"
    assert refusal(post(url, anthropic_version="2020-01-01")).startswith("anthropic_version: Input should be 'bedrock-2023")
    assert post(url, temperature=0.5).status_code == 200
    assert post(url, anthropic_version="2026-10-21").status_code == 200
    new = post(url, anthropic_version="2026-10-21", temperature=0.5)
    assert refusal(new) == "temperature: Extra inputs are not permitted"
    assert post(url, anthropic_beta=["structured-outputs-2025-11-13"]).status_code == 200
    assert "`nonsense`" in refusal(post(url, anthropic_beta=["nonsense"]))
    assert refusal(post(url, anthropic_beta="x")) == "anthropic_beta: Input should be a valid list"


@pytest.mark.parametrize("name", ["model", "stream", "cache_control"])
def test_fields_that_bedrock_has_elsewhere_or_not_at_all(url: str, name: str) -> None:
    value = {"model": MODEL, "stream": True, "cache_control": {"type": "ephemeral"}}[name]
    assert refusal(post(url, **{name: value})) == f"{name}: Extra inputs are not permitted"


def test_headers_are_echoed_or_refused(url: str) -> None:
    echoed = {"X-Amzn-Bedrock-PerformanceConfig-Latency": "optimized", "X-Amzn-Bedrock-Service-Tier": "flex"}
    for operation in ("invoke", "invoke-with-response-stream"):
        response = post(url, operation, headers=echoed)
        assert {name: response.headers[name] for name in echoed} == echoed
    wrong = post(url, headers={"X-Amzn-Bedrock-PerformanceConfig-Latency": "fast"})
    assert refusal(wrong) == "X-Amzn-Bedrock-PerformanceConfig-Latency: Input should be 'standard' or 'optimized'"
    guarded = post(url, headers={"X-Amzn-Bedrock-GuardrailIdentifier": "abc"})
    assert refusal(guarded).startswith("X-Amzn-Bedrock-GuardrailIdentifier: guardrails are not supported")


def test_what_is_wrong_with_a_body(url: str) -> None:
    assert refusal(post(url, max_tokens=8193)).startswith("max_tokens: 8193 > 8192")
    where = f"{url}/model/{MODEL}/invoke"
    assert refusal(httpx.post(where, content=b"{")).startswith("The request body is not valid JSON")
    large = httpx.post(where, content=b" " * 25_000_001)
    assert refusal(large, 413, "RequestEntityTooLargeException") == "Request exceeds the maximum size"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/model-invocation-job"),
        ("GET", "/bedrock/model-invocation-jobs"),
        ("GET", "/foundation-models"),
        ("GET", "/inference-profiles/x"),
        ("POST", "/guardrail/g/version/1/apply"),
        ("GET", f"/model/{MODEL}/invoke"),
        ("POST", f"/bedrock/model/{MODEL}/invoke-with-bidirectional-stream"),
        ("POST", "/bedrock/x"),
    ],
)
def test_the_rest_of_bedrock_is_not_here(url: str, method: str, path: str) -> None:
    message = refusal(httpx.request(method, url + path), 404, "UnknownOperationException")
    assert message.startswith(f"{method} {path} is not part of this server. Of Amazon Bedrock it has InvokeModel, ")
    assert message.endswith("POST /v1/messages/batches.") == ("job" in path)


def test_other_doors_stay_as_they_are(url: str) -> None:
    response = httpx.get(url + "/models")
    assert (response.status_code, response.json()["error"]["type"]) == (404, "not_found_error")
    assert "x-amzn-requestid" not in response.headers


def test_tokens_are_counted_as_they_are_used(url: str) -> None:
    used = post(url).json()["usage"]["input_tokens"]
    body = base64.b64encode(json.dumps(BODY).encode()).decode()
    where = f"{url}/model/{MODEL}/count-tokens"
    assert httpx.post(where, json={"input": {"invokeModel": {"body": body}}}).json() == {"inputTokens": used}
    wrong = httpx.post(where, json={"input": {"invokeModel": {"body": "?"}}})
    assert refusal(wrong) == "input.invokeModel.body: Invalid base64 data"
    assert refusal(httpx.post(where, json={"input": {}})).startswith("input: exactly one of these members should be set: invo")


def test_a_stream_that_fails_midway_ends_with_an_exception(caplog: pytest.LogCaptureFixture) -> None:
    model = scripted_model(says("Hello"))
    program = model.engine.program  # type: ignore[attr-defined]
    step = program.step

    def fail_once(batch: Batch) -> np.ndarray:
        program.step = step
        raise ArithmeticError("not on this CPU")

    with serving(model) as url:
        program.step = fail_once
        (kind, _), failed = read_stream(post(url, "invoke-with-response-stream"))
        assert kind == "chunk"
        assert failed == ("internalServerException", {"message": "Internal server error"})
        program.step = fail_once
        assert refusal(post(url), 500, "InternalServerException") == "Internal server error"
        assert chunks(post(url, "invoke-with-response-stream"))[-1]["type"] == "message_stop"


def test_a_deadline_that_passes_is_a_model_timeout() -> None:
    model = scripted_model(seconds_per_step=0.005)
    generate = model.engine.generate
    engine: Any = model.engine
    engine.generate = lambda request: generate(replace(request, deadline=time.monotonic() + 0.05))
    with serving(model) as url:
        assert "deadline" in refusal(post(url, max_tokens=8000), 408, "ModelTimeoutException")
        kind, value = read_stream(post(url, "invoke-with-response-stream", max_tokens=8000))[-1]
        assert (kind, "deadline" in value["message"]) == ("modelStreamErrorException", True)


def test_uploaded_files_are_not_offered(url: str) -> None:
    document = {"type": "document", "source": {"type": "file", "file_id": "file_1"}}
    response = post(url, messages=[{"role": "user", "content": [document]}])
    assert "uploaded files are not offered at this address" in refusal(response, 400, "ValidationException")


def test_the_lenient_profile_says_what_it_passed_over() -> None:
    with serving(scripted_model(says("ok")), profile="lenient") as url:
        asked = {"model": "x", "thinking": {"type": "adaptive"}, "cache_control": {"type": "ephemeral"}}
        for operation in ("invoke", "invoke-with-response-stream"):
            response = post(url, operation, **asked)
            assert response.status_code == 200
            assert response.headers["senryu-ignored"] == "model, thinking"


def test_the_sdks_client(url: str) -> None:
    """Its streams need botocore, so they are tested where that is: among the clients."""
    with serving(scripted_model(says("Hello")), api_key="secret") as base:
        how: dict[str, Any] = {"aws_region": "us-east-1", "max_retries": 0}
        ask: dict[str, Any] = {"model": MODEL, "max_tokens": 9, "messages": BODY["messages"]}
        with anthropic.AnthropicBedrock(base_url=base, api_key="secret", **how) as client:
            assert client.messages.create(**ask).content[0].text == "Hello"  # type: ignore[union-attr]
            with pytest.raises(anthropic.NotFoundError):
                client.messages.create(**{**ask, "model": "anthropic.claude-9"})
            with pytest.raises(anthropic.BadRequestError, match="8193 > 8192"):
                client.messages.create(**{**ask, "max_tokens": 8193})
        with (
            anthropic.AnthropicBedrock(base_url=base, api_key="wrong", **how) as client,
            pytest.raises(anthropic.PermissionDeniedError),
        ):
            client.messages.create(**ask)
