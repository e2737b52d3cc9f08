"""Signatures of AWS: vectors that botocore made, a twin that signs, and AWS's words for each thing that can be wrong."""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime, timedelta
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers

from aws import KEY, SECRET, signed_headers
from senryu.api.bedrock.sigv4 import canonical_request, check_signature, read_claim, sign
from senryu.errors import SenryuError

NOW = datetime(2026, 11, 22, 8, 30, 5, tzinfo=UTC)
HOST = "127.0.0.1:8484"
STAMP = "20261122T083005Z"
SCOPE = "20261122/us-west-2/bedrock/aws4_request"


def authorization(signed: str = "host;x-amz-date", scope: str = SCOPE, signature: str = "00") -> str:
    return f"AWS4-HMAC-SHA256 Credential={KEY}/{scope}, SignedHeaders={signed}, Signature={signature}"


def verify(path: str, headers: dict[str, str], body: bytes, now: datetime = NOW) -> None:
    sent, (address, _, query) = Headers(headers), path.partition("?")
    claim = read_claim(sent, now)
    digest = hashlib.sha256(body).hexdigest()
    check_signature(claim, SECRET, canonical_request("POST", address.encode(), query.encode(), sent, claim.signed, digest))


VECTORS = [  # path, headers, body, signed headers, signature: made by botocore 1.44.8
    (
        "/model/us.anthropic.claude-3-5-haiku-20241022-v1%3A0/converse",
        {"content-type": "application/json"},
        b'{"messages":[]}',
        "content-type;host;x-amz-date",
        "d1e10ef70bae76853df4a590559be720edc3a107ec0ab13ffbdfeb16cab27074",
    ),
    (
        "/bedrock/model/anthropic.claude-3-5-haiku-20241022-v1:0/invoke",
        {"x-spaced": "  a   b  "},
        b"",
        "host;x-amz-date;x-spaced",
        "89f825b31fe83ba2ed436a297134b3a1f7915fabc242e926c4aee25b1f6baa81",
    ),
    (
        "/model/arn%3Aaws%3Abedrock%3Aus-east-1%3A%3Afoundation-model%2Fanthropic.x/./count-tokens//?b=2&a=%20&a=1&c",
        {},
        "é".encode(),
        "host;x-amz-date",
        "4e348b41b8f433ae26215dcda9898a110622c15c859de24271cc10a46a589b9a",
    ),
]


@pytest.mark.parametrize(("path", "headers", "body", "signed", "signature"), VECTORS)
def test_vectors(path: str, headers: dict[str, str], body: bytes, signed: str, signature: str) -> None:
    sent = {**headers, "host": HOST, "x-amz-date": STAMP, "authorization": authorization(signed, signature=signature)}
    verify(path, sent, body)
    for change in ({"path": path + "x"}, {"body": body + b" "}, {"headers": {**sent, "host": "127.0.0.1:8485"}}):
        with pytest.raises(SenryuError) as caught:
            verify(**({"path": path, "headers": sent, "body": body} | change))  # type: ignore[arg-type]
        assert caught.value.code == "aws_mismatch"


@given(st.text("abc:.%-/3A", max_size=30), st.binary(max_size=50), st.text("a ,;=b", max_size=10))
def test_what_the_twin_signs_is_right(tail: str, body: bytes, value: str) -> None:
    url = f"http://{HOST}/model/{re.sub('/+', '/', tail).replace('.', '-').strip('/')}"
    headers = signed_headers(url, body, now=NOW, **{"x-other": " ".join(value.split())})
    parts = urlsplit(url)
    verify(parts.path, headers, body)


@pytest.mark.parametrize("date", ["Sun, 22 Nov 2026 09:30:05 +0100", "Sun, 22 Nov 2026 08:30:05 -0000"])
def test_a_date_header_will_do(date: str) -> None:
    sent = Headers({"host": HOST, "date": date, "authorization": authorization("date;host")})
    claim = read_claim(sent, NOW)
    assert claim.stamp == STAMP
    canonical = canonical_request("POST", b"/", b"", sent, claim.signed, "00")
    assert canonical == f"POST\n/\n\ndate:{date}\nhost:{HOST}\n\ndate;host\n00"
    assert len(sign(claim, SECRET, canonical)) == 64


def test_a_date_past_the_last_year_is_none() -> None:
    sent = {"x_amz_date": "", "date": "Fri, 31 Dec 9999 23:59:59 -2359", "authorization": authorization("date;host")}
    assert "requires existence of either a 'X-Amz-Date' or a 'Date'" in refusal("aws_incomplete", **sent)


def refusal(code: str, now: datetime = NOW, **headers: str) -> str:
    sent = {"host": HOST, "x_amz_date": STAMP, "authorization": authorization(), **headers}
    given = Headers({name.replace("_", "-"): value for name, value in sent.items() if value})
    with pytest.raises(SenryuError) as caught:
        read_claim(given, now)
    assert (caught.value.code, caught.value.status) == (code, 403)
    return str(caught.value)


def test_what_is_incomplete() -> None:
    assert refusal("aws_incomplete", authorization="AWS4-HMAC-SHA256 Credential=a/b") == (
        "Authorization header requires 'SignedHeaders' parameter. Authorization header requires 'Signature' parameter."
    )
    assert refusal("aws_incomplete", x_amz_date="") == (
        "Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header."
    )
    assert refusal("aws_incomplete", authorization=authorization(scope="2026/x")).endswith(f"got '{KEY}/2026/x'")
    assert "'Host' must be" in refusal("aws_incomplete", authorization=authorization("x-amz-date"))
    assert "'x-amz-date' must be" in refusal("aws_incomplete", authorization=authorization("host"))
    assert "'AWS4-ECDSA-P256-SHA256'" in refusal("aws_incomplete", authorization="AWS4-ECDSA-P256-SHA256 Credential=a")
    assert "Got 'yesterday'" in refusal("aws_incomplete", x_amz_date="yesterday")


def test_what_is_of_elsewhere() -> None:
    scoped = authorization(scope=SCOPE.replace("bedrock", "s3"))
    assert refusal("aws_invalid", authorization=scoped) == "Credential should be scoped to correct service: 'bedrock'."
    dated = authorization(scope=SCOPE.replace("22/", "21/"))
    assert "'20261121' != '20261122', from '20261122T083005Z'." in refusal("aws_invalid", authorization=dated)


@pytest.mark.parametrize("seconds", [-301, -300, 0, 300, 301])
def test_five_minutes_of_skew(seconds: int) -> None:
    """seconds: by how much our clock is ahead."""
    now = NOW + timedelta(seconds=seconds)
    if abs(seconds) <= 300:
        read_claim(Headers({"host": HOST, "x-amz-date": STAMP, "authorization": authorization()}), now)
        return
    assert refusal("aws_invalid", now) == (
        "Signature expired: 20261122T083005Z is now earlier than 20261122T083006Z (20261122T083506Z - 5 min.)"
        if seconds > 0
        else "Signature not yet current: 20261122T083005Z is still later than 20261122T083004Z (20261122T082504Z + 5 min.)"
    )
