"""Reference 0 and 1.1: versions, keys, betas, and the headers of every answer."""

from __future__ import annotations

from typing import Any, get_args

import anthropic
import httpx
import pytest
from anthropic.types import AnthropicBetaParam
from asking import UNVERIFIED, USER, V2023, V2026, Asked, body, said, text

from serving import says, scripted_model, serving

SAMPLING = {"temperature": 1.0, "top_p": 0.99, "top_k": 0}


def test_the_version_is_required(asked: Asked) -> None:
    response = httpx.post(asked.url + "/v1/messages", json=body())
    assert (response.status_code, response.json()["error"]["message"]) == (400, "anthropic-version: header is required")


def test_an_unknown_version(asked: Asked) -> None:
    assert asked.refusal(body(), "2024-10-22") == UNVERIFIED["version"]


@pytest.mark.parametrize("version", [V2023, V2026])
def test_both_versions_are_served(asked: Asked, version: str) -> None:
    assert asked.message(body(), version)["type"] == "message"


@pytest.mark.parametrize("field", SAMPLING)
def test_sampling_belongs_to_the_older_version(asked: Asked, field: str) -> None:
    """Even at its default."""
    value = body(**{field: SAMPLING[field]})
    assert asked.message(value)["type"] == "message"
    assert asked.refusal(value, V2026) == f"{field}: Extra inputs are not permitted"


def test_a_document_directly_in_an_assistant_message_belongs_to_the_older_version(asked: Asked) -> None:
    document = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "x"}}
    value = body(messages=[USER, {"role": "assistant", "content": [document]}, USER])
    assert asked.refusal(value, V2026) == UNVERIFIED["document in an answer"]


def test_citations_on_a_users_text_belong_to_the_older_version(asked: Asked) -> None:
    cited = {"type": "char_location", "cited_text": "c", "document_index": 0, "document_title": None, "start_char_index": 0,
             "end_char_index": 1}  # fmt: skip
    value = said([text(citations=[cited])])
    assert asked.refusal(value, V2026) == "messages.0.content.0.text.citations: Extra inputs are not permitted"
    assert asked.message(value)["type"] == "message"
    assert asked.message(said([text(citations=[])]), V2026)["type"] == "message"


def test_the_rules_of_a_version_hold_for_counting_too(asked: Asked) -> None:
    value = {"model": "senryu-mini", "messages": [USER], "temperature": 1}
    assert asked.refusal(value, V2026, "/v1/messages/count_tokens") == "temperature: Extra inputs are not permitted"


def keyed(url: str, headers: dict[str, str]) -> tuple[int, str]:
    response = httpx.post(url + "/v1/messages", json=body(), headers={"anthropic-version": V2023, **headers}, timeout=60)
    return response.status_code, response.json().get("error", {}).get("message", "")


def test_keys() -> None:
    """x-api-key wins over a bearer token."""
    with serving(scripted_model(says("x")), api_key="secret") as url:
        assert keyed(url, {"x-api-key": "secret"})[0] == 200
        assert keyed(url, {"authorization": "Bearer secret"})[0] == 200
        assert keyed(url, {"x-api-key": "secret", "authorization": "Bearer wrong"})[0] == 200
        assert keyed(url, {"x-api-key": "wrong", "authorization": "Bearer secret"}) == (401, "invalid x-api-key")
        assert keyed(url, {}) == (401, "x-api-key header is required")


def test_an_unknown_beta(asked: Asked) -> None:
    assert asked.refusal(body(), headers=[("anthropic-beta", "files-api-2025-04-14, nothing-2025-01-01")]) == (
        "Unexpected value(s) `nothing-2025-01-01` for the `anthropic-beta` header. Please consult our documentation at "
        "platform.claude.com/docs or try again without the header."
    )


def test_every_beta_of_the_sdk_is_accepted(asked: Asked) -> None:
    """Whether in one list or in many headers."""
    names = get_args(get_args(AnthropicBetaParam)[1])
    asked.message(body(), headers=[("anthropic-beta", ",".join(names))])
    asked.message(body(), headers=[("anthropic-beta", name) for name in names[:5]])


@pytest.mark.parametrize(
    "headers", [{"anthropic-workspace-id": "w"}, {"anthropic-user-profile-id": "p"}, {"x-stainless-lang": "x"}]
)
def test_headers_that_ask_for_nothing(asked: Asked, headers: dict[str, str]) -> None:
    asked.message(body(), headers=[*headers.items()])


def test_unknown_query_parameters(asked: Asked) -> None:
    for query in ("beta=true", "beta=prompt_caching"):
        assert asked.post(body(), f"/v1/messages?{query}").status_code == 200


@pytest.mark.parametrize(("value", "status"), [(body(), 200), (body(max_tokens="x"), 400), (body(model="claude-9"), 404)])
def test_every_answer_has_a_request_id(asked: Asked, value: Any, status: int) -> None:
    response = asked.post(value)
    assert response.status_code == status
    assert response.headers["request-id"].startswith("req_")


def test_the_sdk_sees_the_request_id(asked: Asked) -> None:
    with anthropic.Anthropic(base_url=asked.url, api_key="k", max_retries=0) as client:
        message = client.messages.create(model="senryu-mini", max_tokens=8, messages=[{"role": "user", "content": "Hi"}])
        assert str(message._request_id).startswith("req_")
        with pytest.raises(anthropic.NotFoundError) as caught:
            client.messages.create(model="claude-9", max_tokens=8, messages=[{"role": "user", "content": "Hi"}])
        assert str(caught.value.request_id).startswith("req_")
        assert caught.value.body["error"]["message"] == UNVERIFIED["model"]  # type: ignore[index]


def test_the_native_routes_are_also_under_anthropic(asked: Asked) -> None:
    assert asked.post(body(), "/anthropic/v1/messages").status_code == 200
    assert asked.get("/anthropic/v1/models").status_code == 200


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_browsers_may_ask_first(asked: Asked, method: str) -> None:
    headers = {"origin": "http://localhost:3000", "access-control-request-method": method}
    response = httpx.options(asked.url + "/v1/messages", headers=headers)
    assert response.status_code == 204
    assert method in response.headers["access-control-allow-methods"]
