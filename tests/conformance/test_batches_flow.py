"""Reference 1.9 and 4: message batches from their creation to their results."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import pytest
from asking import HAIKU, USER, V2023, V2026, Asked, body

from senryu.engine.interface import TokenRequest
from serving import TOKENIZER, scripted_model, serving

PATH = "/v1/messages/batches"
COUNTS = {"processing": 0, "succeeded": 0, "errored": 0, "canceled": 0, "expired": 0}


def request(name: str = "r0", **fields: Any) -> dict[str, Any]:
    return {"custom_id": name, "params": body(**fields)}


def create(asked: Asked, *requests: Any, version: str = V2023) -> dict[str, Any]:
    response = asked.post({"requests": list(requests)}, PATH, version)
    assert response.status_code == 200, response.text
    made: dict[str, Any] = response.json()
    return made


def ended(asked: Asked, id: str) -> dict[str, Any]:
    for _ in range(3000):
        batch: dict[str, Any] = asked.get(f"{PATH}/{id}").json()
        if batch["processing_status"] == "ended":
            return batch
        time.sleep(0.02)
    raise AssertionError(batch)


def results(asked: Asked, *requests: Any, version: str = V2023) -> dict[str, Any]:
    batch = ended(asked, create(asked, *requests, version=version)["id"])
    lines = httpx.get(batch["results_url"], headers={"anthropic-version": V2023}).text.splitlines()
    assert len(lines) == len(requests)
    return {line["custom_id"]: line["result"] for line in map(json.loads, lines)}


def refused(asked: Asked, *requests: Any) -> str:
    return asked.refusal({"requests": list(requests)}, path=PATH)


@pytest.fixture(scope="module")
def busy() -> Iterator[Asked]:
    """A server of slow answers that never end by themselves, one after the other."""

    def reply(request: TokenRequest) -> list[int]:
        return TOKENIZER.encode("x") * request.max_tokens

    with serving(scripted_model(reply, seconds_per_step=0.02, drafts=False), batch_concurrency=1) as url:
        yield Asked(url)


def test_a_batch(asked: Asked) -> None:
    made = create(asked, request("a"), request("b"))
    assert made["id"].startswith("msgbatch_")
    assert (made["type"], made["processing_status"]) == ("message_batch", "in_progress")
    assert made["request_counts"] == {**COUNTS, "processing": 2}
    for name in ("ended_at", "archived_at", "cancel_initiated_at", "results_url"):
        assert made[name] is None
    assert ended(asked, made["id"])["request_counts"] == {**COUNTS, "succeeded": 2}


def test_a_result_is_a_message_of_the_batch_tier(asked: Asked) -> None:
    one = results(asked, request())["r0"]
    assert one["type"] == "succeeded"
    assert (one["message"]["type"], one["message"]["model"]) == ("message", HAIKU)
    assert one["message"]["usage"]["service_tier"] == "batch"


def test_parameters_are_validated_later_each_by_itself(asked: Asked) -> None:
    found = results(
        asked, request("good"), request("bad", temperature=2), request("field", foo=1), {"custom_id": "none", "params": {}}
    )
    assert found["good"]["type"] == "succeeded"
    messages = {name: one["error"]["error"]["message"] for name, one in found.items() if one["type"] == "errored"}
    assert messages == {
        "bad": "temperature: range: 0..1",
        "field": "foo: Extra inputs are not permitted",
        "none": "model: Field required",
    }
    assert found["bad"]["error"]["type"] == "error"
    assert found["bad"]["error"]["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("fields", [{"stream": True}, {"max_tokens": 0}, {"speed": "fast"}])
def test_what_a_batch_does_not_allow(asked: Asked, fields: dict[str, Any]) -> None:
    assert results(asked, request(**fields))["r0"]["type"] == "errored"


def test_the_version_of_the_batch_is_that_of_its_requests(asked: Asked) -> None:
    assert results(asked, request(temperature=1), version=V2023)["r0"]["type"] == "succeeded"
    assert results(asked, request(temperature=1), version=V2026)["r0"]["error"]["error"]["message"] == (
        "temperature: Extra inputs are not permitted"
    )


@pytest.mark.parametrize("name", ["", "a b", "x" * 65, "é"])
def test_ids_of_requests(asked: Asked, name: str) -> None:
    assert refused(asked, request(name)) == "requests.0.custom_id: String should match pattern '^[a-zA-Z0-9_-]{1,64}$'"


def test_ids_of_requests_are_unique(asked: Asked) -> None:
    assert "requests.1.custom_id" in refused(asked, request("a"), request("a"))


def test_the_results_url_is_on_the_host_that_was_asked(asked: Asked) -> None:
    """SDKs follow it as it is."""
    batch = ended(asked, create(asked, request())["id"])
    assert batch["results_url"] == f"{asked.url}{PATH}/{batch['id']}/results"
    with httpx.Client(base_url=asked.url, headers={"anthropic-version": V2023, "host": "models.example:8080"}) as client:
        assert client.get(f"{PATH}/{batch['id']}").json()["results_url"].startswith("http://models.example:8080/v1/")
        forwarded = {"x-forwarded-proto": "https", "x-forwarded-host": "models.example"}
        assert (
            client.get(f"{PATH}/{batch['id']}", headers=forwarded)
            .json()["results_url"]
            .startswith("https://models.example/v1/")
        )


def test_a_list_is_in_pages_newest_first(asked: Asked) -> None:
    ids = [create(asked, request())["id"] for _ in range(3)]
    page = asked.get(f"{PATH}?limit=2").json()
    assert [batch["id"] for batch in page["data"]] == ids[:0:-1]
    assert page["has_more"]
    assert asked.get(f"{PATH}?limit=1&after_id={ids[1]}").json()["first_id"] == ids[0]
    assert asked.get(f"{PATH}?limit=1&before_id={ids[1]}").json()["first_id"] == ids[2]
    for limit in (0, 1001):
        assert asked.get(f"{PATH}?limit={limit}").status_code == 400


def test_cancel(busy: Asked) -> None:
    made = create(busy, *(request(f"r{i}", max_tokens=100) for i in range(3)))
    path = f"{PATH}/{made['id']}"
    assert busy.get(f"{path}/results").status_code == 400
    assert httpx.delete(busy.url + path, headers={"anthropic-version": V2023}).status_code == 400
    canceled = busy.post(None, f"{path}/cancel").json()
    assert canceled["processing_status"] in ("canceling", "ended")
    assert canceled["cancel_initiated_at"]
    counts = ended(busy, made["id"])["request_counts"]
    assert counts["canceled"] >= 2  # what runs may end
    assert counts["succeeded"] + counts["canceled"] == 3


def test_delete(asked: Asked) -> None:
    made = create(asked, request())
    ended(asked, made["id"])
    gone = httpx.delete(f"{asked.url}{PATH}/{made['id']}", headers={"anthropic-version": V2023})
    assert gone.json() == {"id": made["id"], "type": "message_batch_deleted"}
    response = asked.get(f"{PATH}/{made['id']}")
    assert (response.status_code, response.json()["error"]["type"]) == (404, "not_found_error")


def test_the_sdk_reads_results(asked: Asked) -> None:
    with anthropic.Anthropic(base_url=asked.url, api_key="k", max_retries=0) as client:
        params: Any = {"model": "senryu-mini", "max_tokens": 8, "messages": [USER]}
        batch = client.messages.batches.create(requests=[{"custom_id": "a", "params": params}])
        for _ in range(3000):
            if client.messages.batches.retrieve(batch.id).processing_status == "ended":
                break
            time.sleep(0.02)
        (one,) = client.messages.batches.results(batch.id)
        assert (one.custom_id, one.result.type) == ("a", "succeeded")
