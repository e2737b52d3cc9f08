"""Batches over sockets: created, listed, canceled, deleted, their results; what is refused at once and what is a result."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import httpx
import pytest

from senryu.engine.interface import TokenRequest
from serving import END, TOKENIZER, idle, says, scripted_model, serving

HEADERS = {"anthropic-version": "2023-06-01"}
PATH = "/v1/messages/batches"


@contextmanager
def client(model: Any = None, **settings: Any) -> Iterator[httpx.Client]:
    with (
        serving(model or scripted_model(says("Hello")), **settings) as url,
        httpx.Client(base_url=url, headers=HEADERS, timeout=60) as one,
    ):
        yield one


def params(text: str = "Hi", **fields: Any) -> dict[str, Any]:
    return {"model": "claude-3-5-haiku-latest", "max_tokens": 100, "messages": [{"role": "user", "content": text}], **fields}


def of(*all_params: Any) -> dict[str, Any]:
    return {"requests": [{"custom_id": f"r{index}", "params": each} for index, each in enumerate(all_params)]}


def create(http: httpx.Client, *all_params: Any) -> dict[str, Any]:
    answer = http.post(PATH, json=of(*all_params))
    assert answer.status_code == 200, answer.text
    return answer.json()


def ended(http: httpx.Client, id: str) -> dict[str, Any]:
    for _ in range(3000):
        batch = http.get(f"{PATH}/{id}").json()
        if batch["processing_status"] == "ended":
            return batch
        time.sleep(0.02)
    raise AssertionError(batch)


def results(http: httpx.Client, batch: dict[str, Any]) -> dict[str, dict[str, Any]]:
    answer = http.get(batch["results_url"], headers={"accept": "application/binary"})
    assert answer.headers["content-type"] == "application/x-jsonl"
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert len({line["custom_id"] for line in lines}) == len(lines)
    return {line["custom_id"]: line["result"] for line in lines}


def error(answer: httpx.Response) -> tuple[int, str, str]:
    body = answer.json()
    assert body["request_id"] == answer.headers["request-id"]
    return answer.status_code, body["error"]["type"], body["error"]["message"]


def never_ends(request: TokenRequest) -> list[int]:
    return TOKENIZER.encode("x") * request.max_tokens


def test_a_batch_from_its_creation_to_its_deletion() -> None:
    with client() as http:
        made = create(http, params(), params("Ho"))
        assert list(made) == [
            "id", "type", "processing_status", "request_counts", "created_at", "expires_at", "ended_at",
            "cancel_initiated_at", "archived_at", "results_url",
        ]  # fmt: skip
        assert made["id"].startswith("msgbatch_")
        assert (made["type"], made["processing_status"], made["results_url"]) == ("message_batch", "in_progress", None)
        assert made["request_counts"] == {"processing": 2, "succeeded": 0, "errored": 0, "canceled": 0, "expired": 0}
        done = ended(http, made["id"])
        assert done["request_counts"] == {"processing": 0, "succeeded": 2, "errored": 0, "canceled": 0, "expired": 0}
        assert done["results_url"] == f"{str(http.base_url).rstrip('/')}{PATH}/{made['id']}/results"
        assert done["created_at"] < done["ended_at"] < done["expires_at"]
        message = results(http, done)["r1"]["message"]
        assert message["content"] == [{"type": "text", "text": "Hello"}]
        assert message["model"] == "claude-3-5-haiku-20241022"
        assert message["usage"]["service_tier"] == "batch"
        assert http.delete(f"{PATH}/{made['id']}").json() == {"id": made["id"], "type": "message_batch_deleted"}
        gone = (404, "not_found_error", f"Message Batch not found: {made['id']}")
        for method, path in (("GET", ""), ("GET", "/results"), ("POST", "/cancel"), ("DELETE", "")):
            assert error(http.request(method, f"{PATH}/{made['id']}{path}")) == gone


def test_a_results_answer_is_the_messages_answer_but_for_tier_and_id() -> None:
    with client() as http:
        alone = http.post("/v1/messages", json=params("Ho")).json()
        message = results(http, ended(http, create(http, params("Ho"))["id"]))["r0"]["message"]
    assert message["id"] != alone["id"]
    alone["usage"]["service_tier"] = "batch"
    assert {**message, "id": ""} == {**alone, "id": ""}


WRONG = {
    "text": params(temperature="hot"),
    "field": params(foo=1),
    "model": params(model="gpt"),
    "tokens": params(max_tokens=9000),
    "none": params(max_tokens=0),
    "stream": params(stream=True),
    "speed": params(speed="fast"),
    "empty": {},
}
OF_BATCHES = {  # what a message may be, but a request of a batch may not
    "none": "max_tokens: must be greater than or equal to 1",
    "stream": "stream: answers of a batch cannot be streamed. Remove it and try again.",
}


@pytest.mark.parametrize("version", ["2023-06-01", "2026-10-21"])
def test_wrong_parameters_are_results_with_the_same_error_as_a_message(version: str) -> None:
    with client() as http:
        http.headers["anthropic-version"] = version
        batch = ended(http, create(http, params(), *WRONG.values(), params(temperature=0.5))["id"])
        got = results(http, batch)
        counts = {"processing": 0, "succeeded": 2, "errored": len(WRONG), "canceled": 0, "expired": 0}
        if version == "2026-10-21":
            counts |= {"succeeded": 1, "errored": len(WRONG) + 1}
        assert batch["request_counts"] == counts
        for index, (name, wrong) in enumerate(WRONG.items(), start=1):
            result = got[f"r{index}"]
            assert (result["type"], result["error"]["type"]) == ("errored", "error")
            if name in OF_BATCHES:
                assert result["error"]["error"] == {"type": "invalid_request_error", "message": OF_BATCHES[name]}
            else:
                assert result["error"]["error"] == http.post("/v1/messages", json=wrong).json()["error"]


TOO_LONG = "a" * 65


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "requests: Field required"),
        ({"requests": {}}, "requests: Input should be a valid list"),
        ({"requests": []}, "requests: List should have at least 1 item after validation, not 0"),
        ({**of(params()), "metadata": {}}, "metadata: Extra inputs are not permitted"),
        ({"requests": [1]}, "requests.0: Input should be a valid dictionary"),
        ({"requests": [{"params": {}}]}, "requests.0.custom_id: Field required"),
        ({"requests": [{"custom_id": "a"}]}, "requests.0.params: Field required"),
        ({"requests": [{"custom_id": "a", "params": []}]}, "requests.0.params: Input should be a valid dictionary"),
        ({"requests": [{"custom_id": "a", "params": {}, "x": 1}]}, "requests.0.x: Extra inputs are not permitted"),
        *(
            ({"requests": [{"custom_id": bad, "params": {}}]},
             "requests.0.custom_id: String should match pattern '^[a-zA-Z0-9_-]{1,64}$'")
            for bad in ("", "a b", "ä", "a\n", TOO_LONG)
        ),
        ({"requests": [{"custom_id": "a", "params": {}}, {"custom_id": "a", "params": {}}]},
         "requests.1.custom_id: 'a' is used by more than one request; each needs a custom_id of its own"),
    ],
)  # fmt: skip
def test_what_is_refused_at_once(body: Any, message: str) -> None:
    with client() as http:
        assert error(http.post(PATH, json=body)) == (400, "invalid_request_error", message)
        assert http.get(PATH).json()["data"] == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[",
        b"\xff",
        b'{"requests": [{"custom_id": "a", "params": {"x": NaN}}]}',
        b'{"requests": [{"custom_id": "a", "params": {}, "params": {}}]}',
        b'{"requests": [], "requests": [{"custom_id": "a", "params": {}}]}',
        b'{"requests": [{"custom_id": "a", "params": {"x": "\\ud800"}}]}',
        b'{"requests": [' + b"[" * 100_000 + b"]" * 100_000 + b"]}",
    ],
)
def test_json_is_as_strict_as_everywhere(body: bytes) -> None:
    with client() as http:
        status, kind, message = error(http.post(PATH, content=body, headers={"content-type": "application/json"}))
        assert (status, kind) == (400, "invalid_request_error")
        assert message.startswith("The request body is not valid JSON")


def test_the_body_may_be_larger_than_a_message_but_not_without_end() -> None:
    with client() as http:
        large = params("x" * 1_000_000, model="gpt")
        body = json.dumps(of(*[large] * 40)).encode()
        assert len(body) > 32 * 1024 * 1024
        assert error(http.post("/v1/messages", content=body))[0] == 413
        answer = http.post(PATH, content=body)
        assert answer.status_code == 200, answer.text
        done = ended(http, answer.json()["id"])
        assert done["request_counts"]["errored"] == 40
        assert results(http, done)["r39"]["error"]["error"]["message"] == "model: gpt"
        with socket.create_connection((http.base_url.host, http.base_url.port or 80), timeout=60) as raw:
            head = (
                f"POST {PATH} HTTP/1.1\r\nhost: x\r\nanthropic-version: 2023-06-01\r\ncontent-length: {(256 << 20) + 1}\r\n\r\n"
            )
            raw.sendall(head.encode())
            assert raw.recv(64).startswith(b"HTTP/1.1 413 ")


def test_more_than_100_000_requests_are_refused() -> None:
    with client() as http:
        body = {"requests": [{"custom_id": str(number), "params": {}} for number in range(100_001)]}
        assert error(http.post(PATH, json=body))[2] == (
            "requests: List should have at most 100000 items after validation, not 100001"
        )


def test_cancel_finishes_what_runs_and_leaves_the_rest() -> None:
    model = scripted_model(never_ends, seconds_per_step=0.005)
    with client(model, batch_concurrency=2) as http:
        made = create(http, *[params(max_tokens=200)] * 20)
        while not model.engine.stats().running:
            time.sleep(0.01)
        canceling = http.post(f"{PATH}/{made['id']}/cancel").json()
        assert canceling["processing_status"] == "canceling"
        assert canceling["request_counts"]["processing"] == 20
        assert canceling["cancel_initiated_at"] is not None
        assert http.post(f"{PATH}/{made['id']}/cancel").json()["cancel_initiated_at"] == canceling["cancel_initiated_at"]
        running = (400, "invalid_request_error")
        assert error(http.delete(f"{PATH}/{made['id']}"))[:2] == running
        assert error(http.get(f"{PATH}/{made['id']}/results"))[:2] == running
        done = ended(http, made["id"])
        counts = done["request_counts"]
        assert counts["succeeded"] >= 1
        assert counts["succeeded"] + counts["canceled"] == 20
        got = [result["type"] for result in results(http, done).values()]
        assert (got.count("succeeded"), got.count("canceled")) == (counts["succeeded"], counts["canceled"])
        assert error(http.post(f"{PATH}/{made['id']}/cancel"))[:2] == running
        assert idle(model)


def test_lists_are_pages_newest_first() -> None:
    with client() as http:
        assert http.get(PATH).json() == {"data": [], "has_more": False, "first_id": None, "last_id": None}
        ids = [create(http, params())["id"] for _ in range(5)][::-1]

        def page(**query: Any) -> tuple[list[str], bool]:
            body = http.get(PATH, params=query).json()
            found = [batch["id"] for batch in body["data"]]
            assert (body["first_id"], body["last_id"]) == (found[0], found[-1])
            return found, body["has_more"]

        assert page() == (ids, False)
        assert page(limit=2) == (ids[:2], True)
        assert page(limit=2, after_id=ids[1]) == (ids[2:4], True)
        assert page(limit=2, after_id=ids[2]) == (ids[3:], False)
        assert page(limit=2, before_id=ids[4]) == (ids[2:4], True)
        assert page(limit=9, before_id=ids[2]) == (ids[:2], False)
        assert error(http.get(PATH, params={"after_id": "msgbatch_x"}))[2] == "after_id: no batch has this id"
        assert error(http.get(PATH, params={"limit": 0}))[2] == "limit: Input should be greater than or equal to 1"
        assert error(http.get(PATH, params={"limit": 1001}))[2] == "limit: Input should be less than or equal to 1000"


@pytest.mark.parametrize(
    ("headers", "origin"),
    [
        ({"host": "senryu.test:9"}, "http://senryu.test:9"),
        ({"x-forwarded-proto": "https", "x-forwarded-host": "llm.example.com"}, "https://llm.example.com"),
        ({"x-forwarded-proto": "https, http", "x-forwarded-host": "a.test:8443, b"}, "https://a.test:8443"),
        ({"host": "h", "x-forwarded-proto": "javascript", "x-forwarded-host": "a/b@c"}, "http://h"),
    ],
)
def test_results_are_where_the_caller_reaches_us(headers: dict[str, str], origin: str) -> None:
    with client() as http:
        made = create(http, params())
        ended(http, made["id"])
        url = http.get(f"{PATH}/{made['id']}", headers=headers).json()["results_url"]
        assert url == f"{origin}{PATH}/{made['id']}/results"


def test_the_mount_for_hosted_services_has_batches_too() -> None:
    with client() as http:
        made = http.post("/anthropic" + PATH, json=of(params())).json()
        ended(http, made["id"])
        batch = http.get(f"/anthropic{PATH}/{made['id']}").json()
        assert batch["results_url"] == f"{str(http.base_url).rstrip('/')}/anthropic{PATH}/{made['id']}/results"
        assert len(results(http, batch)) == 1


def test_every_key_has_batches_of_its_own() -> None:
    with client() as http:
        made = http.post(PATH, json=of(params()), headers={"x-api-key": "a"}).json()
        for headers in ({"x-api-key": "b"}, {}):
            assert http.get(PATH, headers=headers).json()["data"] == []
            assert error(http.get(f"{PATH}/{made['id']}", headers=headers))[0] == 404
        assert http.get(PATH, headers={"authorization": "Bearer a"}).json()["first_id"] == made["id"]


def test_betas_of_the_creation_hold_for_its_parameters() -> None:
    asked = params(output_format={"type": "json_schema", "schema": {"type": "object", "additionalProperties": False}})
    with client() as http:
        with_beta = {"anthropic-beta": "message-batches-2024-09-24, structured-outputs-2025-11-13"}
        known = http.post(PATH, json=of(asked), headers=with_beta).json()
        assert results(http, ended(http, known["id"]))["r0"]["type"] == "succeeded"
        unknown = results(http, ended(http, create(http, asked)["id"]))["r0"]
        assert unknown["error"]["error"]["message"] == "output_format: Extra inputs are not permitted"
        assert "`foo`" in error(http.post(PATH, json=of(params()), headers={"anthropic-beta": "foo"}))[2]


def test_the_lenient_profile_holds_for_batches() -> None:
    with client(profile="lenient") as http:
        answer = http.post(PATH, json=of(params(foo=1)), headers={"anthropic-beta": "foo"})
        assert answer.headers["senryu-ignored"] == "anthropic-beta:foo"
        assert ended(http, answer.json()["id"])["request_counts"]["succeeded"] == 1


def test_results_of_many_requests_stream_whole_and_in_order() -> None:
    with client(scripted_model(lambda request: [*TOKENIZER.encode("é"), END])) as http:
        done = ended(http, create(http, *[params(f"question {number}") for number in range(450)])["id"])
        assert list(results(http, done)) == [f"r{number}" for number in range(450)]


def test_neighbours_share_their_prefix() -> None:
    seen: list[str] = []
    letters = {TOKENIZER.encode(letter)[0]: letter for letter in "XYZ"}

    def reply(request: TokenRequest) -> list[int]:
        seen.append("".join(letters.get(id, "") for id in request.ids))
        return [END]

    mixed = [params(letter, system=system) for letter in "XYZ" for system in ("XX", "YY")] * 3
    with client(scripted_model(reply), batch_concurrency=1) as http:
        ended(http, create(http, *mixed)["id"])
    assert len(seen) == len(mixed)
    assert sum(a != b for a, b in pairwise(seen)) == len(set(seen)) - 1
    assert sum(a[:2] != b[:2] for a, b in pairwise(seen)) == 1


ROUTES = [("POST", ""), ("GET", ""), ("GET", "/x"), ("GET", "/x/results"), ("POST", "/x/cancel"), ("DELETE", "/x")]


def test_every_route_wants_a_version() -> None:
    with client() as http:
        del http.headers["anthropic-version"]
        for method, path in ROUTES:
            assert error(http.request(method, PATH + path))[2] == "anthropic-version: header is required"
