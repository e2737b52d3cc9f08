"""Doors: what tells the wire shapes apart before a route is found: whose an address is, and how a refusal looks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.responses import Response

from senryu.api.ratelimits import claude_rates
from senryu.api.wire import envelope, json_response
from senryu.errors import SenryuError
from senryu.service.rates import Standing


def speaks_claude(headers: Headers) -> bool:
    """Whether the caller is a client of the Claude API, at an address that others use too."""
    return "anthropic-version" in headers or "x-api-key" in headers


def sent_key(headers: Headers) -> str:
    """The caller's key, "" without one; x-api-key wins over a bearer token."""
    if key := headers.get("x-api-key"):
        return key
    scheme, _, token = headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


@dataclass(frozen=True, slots=True)
class Door:
    """One wire shape at the border.

    owns: whether a path is its own. shares: whether a path that others use too is asked in its shape, by the headers.
    refusal: an error as its clients expect it; takes the request's id. id_header: where they look for that id.
    signed: whether these headers carry a credential that only the whole request proves: then its routes check it, and set
    `request.state.tenant`.
    rates: what is left of a caller's rates, as headers.
    """

    name: str
    owns: Callable[[str], bool]
    refusal: Callable[[SenryuError, str], Response]
    id_header: str = "request-id"
    signed: Callable[[Headers], bool] = lambda headers: False
    shares: Callable[[str, Headers], bool] = lambda path, headers: False
    rates: Callable[[Mapping[str, Standing]], Mapping[str, str]] = lambda standing: {}


def _refusal(error: SenryuError, request_id: str) -> Response:
    return json_response(envelope(error, request_id), error.status)


# The Claude API: every address that is nobody else's
MESSAGES = Door("messages", lambda path: True, _refusal, rates=claude_rates)


def door_of(doors: Sequence[Door], path: str, headers: Headers) -> Door:
    """The first door that owns the path, or shares it with this caller; MESSAGES where there is none."""
    return next((door for door in doors if door.owns(path) or door.shares(path, headers)), MESSAGES)
