"""AWS Signature Version 4, as a server checks it: an Authorization header -> what it claims, and whether that is signed right.

    canonical request   method, path (encoded once more), query in order, signed headers, SHA-256 of the body
    string to sign      algorithm, time, date/region/service/aws4_request, SHA-256 of the canonical request
    key                 HMAC of date, region, service and "aws4_request" in turn, from "AWS4" + secret

Refusals are worded as AWS words them.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from urllib.parse import quote

from starlette.datastructures import Headers

from senryu.errors import SenryuError

ALGORITHM = "AWS4-HMAC-SHA256"
SERVICE, END = "bedrock", "aws4_request"
SKEW = timedelta(minutes=5)
STAMP = "%Y%m%dT%H%M%SZ"
PARTS = ("Credential", "SignedHeaders", "Signature")
SHOWN = 128  # characters of a caller's own words that an error repeats


@dataclass(frozen=True, slots=True)
class Claim:
    """What an Authorization header says. `signed`: names of headers, in lower case; `stamp`: when it was signed."""

    key_id: str
    date: str
    region: str
    signed: tuple[str, ...]
    signature: str
    stamp: str


def is_signed(headers: Headers) -> bool:
    """Whether a request is signed, by this version or another of the algorithm."""
    return headers.get("authorization", "").startswith("AWS4-")


def claimed_key(headers: Headers) -> str:
    """The access key id that a request names, unchecked; "" without one."""
    found = re.search(r"Credential=([^/,\s]+)/", headers.get("authorization", ""))
    return found[1] if found else ""


def read_claim(headers: Headers, now: datetime) -> Claim:
    """Raises SenryuError for a header that is incomplete, of another service, or signed at another time than `now`."""
    algorithm, _, rest = headers["authorization"].partition(" ")
    if algorithm != ALGORITHM:
        raise SenryuError("aws_incomplete", why=f"Unsupported AWS 'algorithm': '{algorithm[:SHOWN]}'. Sign with {ALGORITHM}.")
    given = {name.strip(): value.strip() for name, _, value in (part.partition("=") for part in rest.split(","))}
    missing = [f"Authorization header requires '{name}' parameter." for name in PARTS if not given.get(name)]
    stamp = _stamp(headers)
    if not stamp:
        missing.append("Authorization header requires existence of either a 'X-Amz-Date' or a 'Date' header.")
    if missing:
        raise SenryuError("aws_incomplete", why=" ".join(missing))
    scope = given["Credential"].split("/")
    if len(scope) != 5:
        why = "Credential must have exactly 5 slash-delimited elements, e.g. keyid/date/region/service/term, "
        raise SenryuError("aws_incomplete", why=f"{why}got '{given['Credential'][:SHOWN]}'")
    key_id, date, region, service, end = scope
    signed = tuple(given["SignedHeaders"].lower().split(";"))
    if "host" not in signed:
        raise SenryuError("aws_incomplete", why="'Host' must be a 'SignedHeader' in the AWS Authorization header.")
    if (dated := "x-amz-date" if "x-amz-date" in headers else "date") not in signed:
        raise SenryuError("aws_incomplete", why=f"'{dated}' must be a 'SignedHeader' in the AWS Authorization header.")
    if service != SERVICE or end != END:
        raise SenryuError("aws_invalid", why=f"Credential should be scoped to correct service: '{SERVICE}'.")
    _check_time(stamp, date, now)
    return Claim(key_id, date, region, signed, given["Signature"], stamp)


def canonical_request(method: str, path: bytes, query: bytes, headers: Headers, signed: Sequence[str], body_hash: str) -> str:
    """What is signed. path, query: as they were sent; body_hash: SHA-256 in hexadecimal."""
    kept: list[str] = []
    for segment in path.decode("latin-1").split("/"):
        if segment == "..":
            del kept[-1:]
        elif segment and segment != ".":
            kept.append(segment)
    tail = "/" if path.endswith(b"/") and kept else ""
    pairs = sorted(tuple(pair.partition("=")[::2]) for pair in query.decode("latin-1").split("&") if pair)
    values = (",".join(" ".join(value.split()) for value in headers.getlist(name)) for name in signed)
    return "\n".join(
        (
            method,
            quote("/" + "/".join(kept) + tail, safe="/~"),
            "&".join(f"{name}={value}" for name, value in pairs),
            *(f"{name}:{value}" for name, value in zip(signed, values)),
            "",
            ";".join(signed),
            body_hash,
        )
    )


def sign(claim: Claim, secret: str, canonical: str) -> str:
    """The signature that the claim should have."""
    key = f"AWS4{secret}".encode()
    for part in (claim.date, claim.region, SERVICE, END):
        key = hmac.digest(key, part.encode(), "sha256")
    scope = f"{claim.date}/{claim.region}/{SERVICE}/{END}"
    text = "\n".join((ALGORITHM, claim.stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()))
    return hmac.new(key, text.encode(), "sha256").hexdigest()


def check_signature(claim: Claim, secret: str, canonical: str) -> None:
    """Raises SenryuError("aws_mismatch"), in a time that does not tell how much was right."""
    if not hmac.compare_digest(sign(claim, secret, canonical).encode(), claim.signature.encode()):
        raise SenryuError("aws_mismatch")


def _stamp(headers: Headers) -> str:
    """When the request was signed, in the form of X-Amz-Date; "" where it does not say."""
    if stamp := headers.get("x-amz-date"):
        return stamp
    try:
        moment = parsedate_to_datetime(headers.get("date", ""))
        return moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC).strftime(STAMP)
    except (ValueError, OverflowError):  # an offset may lead past the last year
        return ""


def _check_time(stamp: str, date: str, now: datetime) -> None:
    try:
        signed = datetime.strptime(stamp, STAMP).replace(tzinfo=UTC)
    except ValueError:
        why = f"Date must be in ISO-8601 'basic format'. Got '{stamp[:SHOWN]}'."
        raise SenryuError("aws_incomplete", why=why) from None
    if date != stamp[:8]:
        why = "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP"
        raise SenryuError("aws_invalid", why=f"{why}: '{date[:SHOWN]}' != '{stamp[:8]}', from '{stamp}'.")
    clock, early, late = now.strftime(STAMP), (now - SKEW).strftime(STAMP), (now + SKEW).strftime(STAMP)
    if signed < now - SKEW:
        raise SenryuError("aws_invalid", why=f"Signature expired: {stamp} is now earlier than {early} ({clock} - 5 min.)")
    if signed > now + SKEW:
        raise SenryuError(
            "aws_invalid", why=f"Signature not yet current: {stamp} is still later than {late} ({clock} + 5 min.)"
        )
