"""The table of errors: every row is used, every use has a row."""

from __future__ import annotations

import re
from pathlib import Path

from senryu.errors import ERRORS, SenryuError

SOURCES = [
    path.read_text() for path in (Path(__file__).parents[1] / "src" / "senryu").rglob("*.py") if path.name != "errors.py"
]
TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    503: "api_error",  # of /health alone
    504: "timeout_error",
    529: "overloaded_error",
    0: "start_error",
}


def test_codes_used_and_defined_are_the_same() -> None:
    used = {code for text in SOURCES for code in re.findall(r'(?:SenryuError|Unreadable)\(\s*"(\w+)"', text)}
    assert used == set(ERRORS)


def test_status_and_type_agree() -> None:
    assert {(rule.status, rule.type) for rule in ERRORS.values()} <= set(TYPES.items())


def test_an_error_carries_its_row() -> None:
    error = SenryuError("extra", path="foo{0}")
    assert (error.code, error.status, error.type) == ("extra", 400, "invalid_request_error")
    assert error.message == str(error) == "foo{0}: Extra inputs are not permitted"
