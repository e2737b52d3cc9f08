"""Who is served at the Bedrock addresses: signed callers, bearers, strangers; with keys of either kind and without."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from aws import KEY, SECRET, post_signed
from serving import says, scripted_model, serving

PATH = "/model/anthropic.claude-3-5-haiku-20241022-v1:0/converse"
BODY: dict[str, Any] = {
    "messages": [{"role": "user", "content": [{"text": "Hi"}]}],
    "inferenceConfig": {"maxTokens": 8},
}
LONG = {**BODY, "system": [{"text": "x" * 3000}, {"cachePoint": {"type": "default"}}]}
BEARER = {"authorization": "Bearer secret"}


@pytest.fixture(scope="module")
def both() -> Iterator[str]:
    """A server with AWS keys and a key of its own."""
    with serving(scripted_model(says("ok")), api_key="secret", aws_keys={KEY: SECRET, "AKIDOTHER": "other"}) as url:
        yield url


def refusal(response: httpx.Response, kind: str) -> str:
    assert response.status_code == 403, response.text
    assert response.headers["x-amzn-errortype"] == kind
    assert response.headers["x-amzn-requestid"].startswith("req_")
    assert set(response.json()) == {"message"}
    return str(response.json()["message"])


def test_the_right_signature_and_the_right_bearer(both: str) -> None:
    assert post_signed(both + PATH, BODY).status_code == 200
    assert post_signed(both + "/bedrock" + PATH.replace(":", "%3A"), BODY).status_code == 200
    assert post_signed(both + PATH, BODY, **{"x-amz-security-token": "session"}).status_code == 200
    assert httpx.post(both + PATH, json=BODY, headers=BEARER).status_code == 200


@pytest.mark.parametrize("operation", ["invoke", "invoke-with-response-stream", "converse", "converse-stream", "count-tokens"])
def test_every_operation_wants_credentials(both: str, operation: str) -> None:
    url = both + PATH.replace("converse", operation)
    assert "does not match" in refusal(post_signed(url, BODY, secret="wrong"), "InvalidSignatureException")
    missing = "Missing Authentication Token. Sign the request in its Authorization header (not in its query), or send this "
    assert refusal(httpx.post(url, json=BODY), "MissingAuthenticationTokenException").startswith(missing)
    wrong = httpx.post(url, json=BODY, headers={"authorization": "Bearer wrong"})
    assert refusal(wrong, "AccessDeniedException") == "Authentication failed: Please make sure your API Key is valid."


def test_wrong_signatures(both: str) -> None:
    url = both + PATH
    assert refusal(post_signed(url, BODY, key="AKIDNOBODY"), "UnrecognizedClientException") == (
        "The security token included in the request is invalid."
    )
    old = datetime.now(UTC) - timedelta(minutes=6)
    assert refusal(post_signed(url, BODY, now=old), "InvalidSignatureException").startswith("Signature expired: ")
    half = httpx.post(url, json=BODY, headers={"authorization": "AWS4-HMAC-SHA256 Credential=x"})
    assert refusal(half, "IncompleteSignatureException").startswith("Authorization header requires 'SignedHeaders'")
    presigned = httpx.post(f"{url}?X-Amz-Signature=00", json=BODY, headers=BEARER)
    assert refusal(presigned, "IncompleteSignatureException").startswith("Signatures in the query (presigned URLs)")
    assert "does not match" in refusal(post_signed(url, BODY, key="AKIDOTHER"), "InvalidSignatureException")
    both_kinds = {"x-api-key": "secret"}
    assert "does not match" in refusal(post_signed(url, BODY, secret="wrong", **both_kinds), "InvalidSignatureException")


def test_a_signature_opens_no_other_door(both: str) -> None:
    for path in ("/v1/messages", "/bedrock/anthropic/v1/messages", "/anthropic/v1/messages"):
        response = post_signed(both + path, {})
        assert (response.status_code, response.json()["error"]["type"]) == (401, "authentication_error")


def test_every_access_key_has_its_own_caches(both: str) -> None:
    def counts(**how: Any) -> tuple[int, int]:
        usage = post_signed(both + PATH, LONG, **how).json()["usage"]
        return usage["cacheReadInputTokens"], usage["cacheWriteInputTokens"]

    (read, written), again = counts(), counts()
    assert read == 0
    assert again == (written, 0)
    assert written > 3000
    assert counts(key="AKIDOTHER", secret="other") == (0, written)


def test_without_keys_any_signature_will_do_and_names_the_tenant() -> None:
    with serving(scripted_model(says("ok"))) as url:
        assert httpx.post(url + PATH, json=BODY).status_code == 200
        assert post_signed(url + PATH, LONG, key="AKIDA", secret="a").status_code == 200
        read = [
            post_signed(url + PATH, LONG, key=key, secret="b").json()["usage"]["cacheReadInputTokens"]
            for key in ("AKIDA", "AKIDB")
        ]
        assert read[0] > 3000
        assert read[1] == 0


def test_only_a_key_of_the_servers_own() -> None:
    with serving(scripted_model(says("ok")), api_key="secret") as url:
        assert "Set `aws_keys` in its config.toml" in refusal(post_signed(url + PATH, BODY), "UnrecognizedClientException")
        assert httpx.post(url + PATH, json=BODY, headers=BEARER).status_code == 200


def test_only_aws_keys() -> None:
    with serving(scripted_model(says("ok")), aws_keys={KEY: SECRET}) as url:
        assert post_signed(url + PATH, BODY).status_code == 200
        for headers in ({}, BEARER, {"x-api-key": KEY}):
            refusal(httpx.post(url + PATH, json=BODY, headers=headers), "MissingAuthenticationTokenException")
