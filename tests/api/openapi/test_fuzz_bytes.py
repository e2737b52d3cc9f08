"""Bytes that no client sends, at every address: cut, damaged, random bodies, wrong content types, odd headers, odd addresses.

None is answered 5xx, none breaks a stream, and none leaves a page behind.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from changes import changes, put
from everything import BEDROCK, TAKEN, VERSION
from in_process import Application, application

from postgres import new_database
from senryu.service.limits import Limits
from serving import says, scripted_model

GET = (
    "/health", "/openapi.json", "/v1/models", "/v1/models/x", "/v1/models/%00", "/openai/v1/models", "/api/v1/models",
    "/api/v1/key", "/api/v1/generation", "/v1/files", "/v1/files/x", "/v1/files/%00", "/v1/messages/batches",
    "/v1/messages/batches/x", "/v1/messages/batches/%00", "/v1/messages/batches/x/results", "/model/x",
    "/v1/projects/p/locations/l/batchPredictionJobs", "/nowhere",
)  # fmt: skip
PARAMETERS = ("limit", "before_id", "after_id", "page", "ids[]", "id", "X-Amz-Signature", "é")
ODD = (
    "", "0", "-1", "1_000", "٣", "9" * 400, "page_", "page_MTo=", "page_//8=", "msgbatch_x", "gen-x", "\x00", "%", "💥",
    "a" * 5000,
)  # fmt: skip
KINDS = (
    "application/json", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "", "\xff",
    "multipart/form-data; boundary=x", 'multipart/form-data; boundary="', "application/vnd.amazon.eventstream",
    "application/json; charset=utf-16",
)  # fmt: skip
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "ODD")
VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 10**400, 1e308, 0.1, "", " ", "\0", "\ufdd0", "<|end|>", "a" * 20_000, "system", "tool", "1h",
    [], {}, [[]], [None] * 300, {"$ref": "#"}, {"type": "object", "$ref": "#"}, {"type": "object", "pattern": "(a+)+$"},
    {"type": "object", "properties": {"x": {"type": "string", "pattern": "("}}}, {"type": ["object", "null"], "enum": []},
)  # fmt: skip
HEADERS = (
    "anthropic-version", "anthropic-beta", "authorization", "x-api-key", "content-length", "origin", "senryu-cost", "accept",
    "x-forwarded-host", "x-forwarded-proto", "x-amz-date", "date", "X-Amzn-Bedrock-Service-Tier",
    "X-Amzn-Bedrock-GuardrailIdentifier", "access-control-request-headers",
)  # fmt: skip
SAID = (
    "", "x", "2023-06-01", "2026-10-21", ",,,", "a" * 5000, "9" * 5000, "\xe9\xff", "Bearer", "Bearer x", "Basic eA==",
    "http://127.0.0.1", "http://[", "null", "true", "99999999999999999999", "AWS4-HMAC-SHA256 ",
    "AWS4-HMAC-SHA256 Credential=a/20261127/us-west-2/bedrock/aws4_request, SignedHeaders=host;x-amz-date, Signature=0",
    "AWS4-HMAC-SHA256 Credential=AKID/x/us-west-2/bedrock/aws4_request, SignedHeaders=host;date;x-amz-date, Signature=\xe9",
    "AWS4-ECDSA-P256-SHA256 Credential=/", "20261127T000000Z", "00010101T000000Z", "Thu, 01 Jan 1970 00:00:00 GMT",
    "Fri, 31 Dec 9999 23:59:59 -2359",
)  # fmt: skip
FORM = (
    b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\nContent-Type: text/plain\r\n\r\nHi\r\n'
    b'--x\r\nContent-Disposition: form-data; name="expires_in_seconds"\r\n\r\n3600\r\n--x--\r\n'
)
STREAMED = (f"{BEDROCK}/converse-stream", f"{BEDROCK}/invoke-with-response-stream")


SERVERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "lenient": {"profile": "lenient"},
    "keyed": {"aws_keys": {"AKID": "secret"}, "api_key": "x"},
    "postgresql": {"database": ""},
}


@pytest.fixture(scope="module", params=SERVERS)
def app(request: pytest.FixtureRequest) -> Iterator[Application]:
    how = SERVERS[request.param]
    if "database" in how:
        how = {"database": new_database(request.getfixturevalue("postgres"))}
    model = scripted_model(says("Hello"), check=True, limits=Limits(4096, 32))
    with application(model, **how) as app:
        yield app
        assert app.rests()


class Draw:
    """Requests by chance, the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.bodies = [(taken.path, body) for taken in TAKEN for body in taken.bodies]
        converse = [body for path, body in self.bodies if path.endswith("/converse")]
        invoked = [body for path, body in self.bodies if path.endswith("/invoke")]
        self.bodies += [(STREAMED[0], body) for body in converse] + [(STREAMED[1], body) for body in invoked]
        self.places = [[at for at, _ in changes(body)] for _, body in self.bodies]

    def request(self) -> tuple[str, str, dict[str, Any]]:
        """(method, path, the rest)."""
        chance, body = self.chance, b""
        what = chance.random()
        if what < 0.15:
            method, path = "GET", chance.choice(GET)
        elif what < 0.25:
            method, path, body = "POST", "/v1/files", self.damaged(FORM)
        else:
            number = chance.randrange(len(self.bodies))
            (path, value), method = self.bodies[number], "POST"
            if chance.random() < 0.5:
                value = put(value, chance.choice(self.places[number]), chance.choice(VALUES))
            body = json.dumps(value).encode()
            body = body if chance.random() < 0.3 else self.damaged(body)
        if chance.random() < 0.1:
            path = "/" + quote(self.damaged(path.encode()[1:]), safe="/:@?=&")
        if chance.random() < 0.1:
            method = chance.choice(METHODS)
        query = {chance.choice(PARAMETERS): chance.choice(ODD) for _ in range(chance.choice((0, 0, 0, 1, 2)))}
        return method, path, {"content": body, "headers": self.headers(), "params": query or None}

    def damaged(self, body: bytes) -> bytes:
        """Cut, mixed, repeated, replaced or left alone."""
        chance = self.chance
        at = chance.randrange(len(body) + 1)
        match chance.randrange(6):
            case 0:
                return body[:at]
            case 1:
                return chance.randbytes(chance.randrange(200))
            case 2:
                return body[:at] + chance.randbytes(chance.randrange(1, 4)) + body[at + chance.randrange(4) :]
            case 3:
                return body[:at] + chance.choice((b"[" * 3000, b"\\ud800", b"\x00", b"1e999", b"NaN", b'"\xff"')) + body[at:]
            case 4:
                return body[: at // 2] + body[at:]
        return body

    def headers(self) -> dict[str, Any]:
        chance = self.chance
        headers: dict[str, Any] = {**VERSION, "x-api-key": "x", "content-type": chance.choice(KINDS).encode("latin-1")}
        for _ in range(chance.choice((0, 0, 1, 2))):
            headers[chance.choice(HEADERS)] = chance.choice(SAID).encode("latin-1")
        return headers


def fuzz(app: Application, seed: int, count: int) -> dict[int, int]:
    """How often each status was answered."""
    draw, statuses = Draw(seed), dict[int, int]()
    for number in range(count):
        method, path, how = draw.request()
        response = app.ask(method, path, **how)
        assert response.status_code < 500, (seed, number, method, path, how, response.text)
        if response.status_code >= 400:
            assert response.headers["content-type"] == "application/json", (seed, number, method, path)
        statuses[response.status_code] = statuses.get(response.status_code, 0) + 1
    assert app.rests()
    return statuses


def test_bytes_that_no_client_sends(app: Application) -> None:
    statuses = fuzz(app, seed=1, count=1000)
    assert {200, 400, 404} <= set(statuses), statuses


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, 3])
def test_many_more_of_them(app: Application, seed: int) -> None:
    print(seed, fuzz(app, seed, count=10_000))
