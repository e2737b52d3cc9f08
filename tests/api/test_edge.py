"""What every request meets: keys, versions, origins, addresses, sizes, and one envelope for every refusal."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import unquote

import httpx
import pytest

from serving import says, scripted_model, serving

BODY = {"model": "senryu-mini", "max_tokens": 5, "messages": [{"role": "user", "content": "Hi"}]}
VERSION = {"anthropic-version": "2023-06-01"}


@pytest.fixture(scope="module")
def open_server() -> Iterator[str]:
    with serving(scripted_model(says("Hello"))) as url:
        yield url


@pytest.fixture(scope="module")
def keyed_server() -> Iterator[str]:
    with serving(scripted_model(says("Hello")), api_key="secret") as url:
        yield url


def post(url: str, path: str = "/v1/messages", **options: object) -> httpx.Response:
    return httpx.post(url + path, **{"json": BODY, "headers": VERSION, "timeout": 60, **options})  # type: ignore[arg-type]


def assert_error(response: httpx.Response, status: int, kind: str, message: str) -> None:
    assert response.status_code == status
    assert response.headers["content-type"] == "application/json"
    assert response.headers["request-id"].startswith("req_")
    assert response.json() == {
        "type": "error",
        "error": {"type": kind, "message": message},
        "request_id": response.headers["request-id"],
    }


def test_every_answer_has_its_own_request_id(open_server: str) -> None:
    ids = {post(open_server).headers["request-id"] for _ in range(3)}
    assert len(ids) == 3


@pytest.mark.parametrize("headers", [{"x-api-key": "secret"}, {"authorization": "Bearer secret"}])
def test_the_right_key_in_either_header(keyed_server: str, headers: dict[str, str]) -> None:
    assert post(keyed_server, headers={**VERSION, **headers}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"x-api-key": "wrong"},
        {"authorization": "Bearer wrong"},
        {"x-api-key": "wrong", "authorization": "Bearer secret"},
        {"x-api-key": "sécret".encode().decode("latin-1")},
    ],
)
def test_a_wrong_key(keyed_server: str, headers: dict[str, str]) -> None:
    encoded = {name: value.encode("latin-1") for name, value in headers.items()}
    response = post(keyed_server, headers={**{k: v.encode() for k, v in VERSION.items()}, **encoded})
    assert_error(response, 401, "authentication_error", "invalid x-api-key")


@pytest.mark.parametrize("headers", [{}, {"authorization": "Basic c2VjcmV0"}, {"x-api-key": ""}])
def test_a_missing_key(keyed_server: str, headers: dict[str, str]) -> None:
    assert_error(post(keyed_server, headers=headers), 401, "authentication_error", "x-api-key header is required")


@pytest.mark.parametrize("headers", [{}, {"x-api-key": "anything"}, {"authorization": "Bearer anything"}])
def test_without_a_key_any_or_none_will_do(open_server: str, headers: dict[str, str]) -> None:
    assert post(open_server, headers={**VERSION, **headers}).status_code == 200


def test_health_needs_no_key(keyed_server: str) -> None:
    response = httpx.get(keyed_server + "/health")
    assert response.status_code == 200
    assert response.json()["status"] == "ok"


def test_versions(open_server: str) -> None:
    for path in ("/v1/messages", "/v1/messages/count_tokens"):
        assert_error(post(open_server, path, headers={}), 400, "invalid_request_error", "anthropic-version: header is required")
    assert_error(
        post(open_server, headers={"anthropic-version": "2024-10-22"}),
        400,
        "invalid_request_error",
        'anthropic-version: "2024-10-22" is not a valid version',
    )
    assert post(open_server, headers={"anthropic-version": "2026-10-21"}).status_code == 200
    response = post(open_server, headers={"anthropic-version": "2026-10-21"}, json={**BODY, "temperature": 1})
    assert_error(response, 400, "invalid_request_error", "temperature: Extra inputs are not permitted")
    assert post(open_server, json={**BODY, "temperature": 1}).status_code == 200


def test_known_betas_and_queries_do_not_matter(open_server: str) -> None:
    headers = {**VERSION, "anthropic-beta": "prompt-caching-2024-07-31,context-1m-2025-08-07"}
    assert post(open_server, "/v1/messages?beta=true", headers=headers).status_code == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/v1/messages"),
        ("POST", "/v1/models"),
        ("POST", "/v1/messages/"),
        ("PATCH", "/v2"),
        ("POST", "/health"),
        ("GET", "/v1/models/a%0Ab"),
        ("TRACE", "/nowhere%0D%0A"),
    ],
)
def test_unknown_addresses_and_methods(open_server: str, method: str, path: str) -> None:
    response = httpx.request(method, open_server + path, headers=VERSION)
    assert_error(response, 404, "not_found_error", f"Not found: {method} {unquote(path)}")


def test_unknown_model(open_server: str) -> None:
    assert_error(post(open_server, json={**BODY, "model": "claude-9"}), 404, "not_found_error", "model: claude-9")


def test_bodies_over_32_mb(open_server: str) -> None:
    big = b" " * (32 * 1024 * 1024 + 1)
    for content in (big, iter([big[:-1], b"  "])):
        response = post(open_server, json=None, content=content)
        assert_error(response, 413, "request_too_large", "Request exceeds the maximum size")


def test_a_large_body_within_the_limit_is_read(open_server: str) -> None:
    content = b" " * 32_000_000 + b'{"model": "m"}'
    response = post(open_server, json=None, content=content)
    assert_error(response, 400, "invalid_request_error", "max_tokens: Field required")


def test_browsers_of_this_machine(open_server: str) -> None:
    origin = {"origin": "http://localhost:3000"}
    preflight = httpx.options(
        open_server + "/v1/messages",
        headers={**origin, "access-control-request-method": "POST", "access-control-request-headers": "x-api-key,content-type"},
    )
    assert preflight.status_code == 204
    assert preflight.headers["access-control-allow-origin"] == "*"
    assert preflight.headers["access-control-allow-headers"] == "x-api-key,content-type"
    assert "POST" in preflight.headers["access-control-allow-methods"]
    assert post(open_server, headers={**VERSION, **origin}).headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-origin" not in post(open_server).headers


@pytest.mark.parametrize("origin", ["https://example.com", "http://[", "null"])
def test_pages_of_elsewhere_need_a_key(open_server: str, keyed_server: str, origin: str) -> None:
    elsewhere = {**VERSION, "origin": origin}
    response = post(open_server, headers=elsewhere)
    assert response.status_code == 403
    assert response.json()["error"]["type"] == "permission_error"
    assert origin in response.json()["error"]["message"]
    assert post(keyed_server, headers={**elsewhere, "x-api-key": "secret"}).status_code == 200
    assert httpx.options(keyed_server + "/v1/messages", headers=elsewhere).status_code == 204
