"""GET /v1/models: pages of ModelInfo, aliases resolved."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from serving import says, scripted_model, serving

HAIKU, MINI = "claude-3-5-haiku-20241022", "senryu-mini"


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with (
        serving(scripted_model(says("Hello"), name="third")) as url,
        httpx.Client(base_url=url, headers={"anthropic-version": "2023-06-01"}, timeout=60) as client,
    ):
        yield client


def ids(client: httpx.Client, **query: Any) -> tuple[list[str], bool]:
    page = client.get("/v1/models", params=query).json()
    found = [model["id"] for model in page["data"]]
    assert (page["first_id"], page["last_id"]) == ((found[0], found[-1]) if found else (None, None))
    return found, page["has_more"]


def test_pages(client: httpx.Client) -> None:
    assert ids(client) == (["third", MINI, HAIKU], False)
    assert ids(client, limit=2) == (["third", MINI], True)
    assert ids(client, limit=2, after_id=MINI) == ([HAIKU], False)
    assert ids(client, limit=1, before_id=HAIKU) == ([MINI], True)
    assert ids(client, after_id=HAIKU) == ([], False)


def test_one_model(client: httpx.Client) -> None:
    model = client.get(f"/v1/models/{HAIKU}").json()
    assert model == client.get("/v1/models/claude-3-5-haiku-latest").json()
    assert model["created_at"] == "2024-10-22T00:00:00Z"
    assert (model["type"], model["lifecycle"], model["max_input_tokens"], model["max_tokens"]) == (
        "model",
        "active",
        200_000,
        8192,
    )
    assert "third" in model["display_name"]


@pytest.mark.parametrize(
    ("path", "status", "message"),
    [
        ("/v1/models/nobody", 404, "model: nobody"),
        ("/v1/models?limit=0", 400, "limit: Input should be greater than or equal to 1"),
        ("/v1/models?limit=1001", 400, "limit: Input should be less than or equal to 1000"),
        ("/v1/models?limit=many", 400, "limit: Input should be a valid integer"),
        ("/v1/models?after_id=nobody", 400, "after_id: no model has this id"),
    ],
)
def test_refusals(client: httpx.Client, path: str, status: int, message: str) -> None:
    response = client.get(path)
    assert (response.status_code, response.json()["error"]["message"]) == (status, message)


def test_the_version_is_required(client: httpx.Client) -> None:
    """Without any header of the Claude API the caller is one of OpenAI's."""
    for path in ("/v1/models", f"/v1/models/{MINI}"):
        response = httpx.get(client.base_url.join(path), headers={"x-api-key": "any"})
        assert response.json()["error"]["message"] == "anthropic-version: header is required"
