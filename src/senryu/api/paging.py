"""Lists in pages: `limit`, `before_id` and `after_id` in, `has_more` and the ids of both ends out."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from senryu.errors import SenryuError

MOST = 1000
WHOLE = re.compile(r"-?[0-9]{1,40}")


def page_limit(query: Mapping[str, str]) -> int:
    """How many items a page may have. Raises SenryuError for what is no number from 1 to 1,000."""
    limit = whole(query.get("limit", "20"), "limit")
    if limit < 1:
        raise SenryuError("below", path="limit", low=1)
    if limit > MOST:
        raise SenryuError("above", path="limit", high=MOST)
    return limit


def whole(sent: str, path: str) -> int:
    """A whole number in plain digits: Python's `int` would take 1_000 and other scripts' digits, too."""
    if not WHOLE.fullmatch(sent):
        raise SenryuError("not_integer", path=path)
    return int(sent)


def page_json(items: Sequence[dict[str, Any]], has_more: bool) -> dict[str, Any]:
    """A page of items that have ids."""
    return {
        "data": items,
        "has_more": has_more,
        "first_id": items[0]["id"] if items else None,
        "last_id": items[-1]["id"] if items else None,
    }
