"""How a client's script reports: one JSON line a check. Runs in the clients' environments, so it needs nothing but Python."""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable, Sequence

Check = Callable[[], object]
ACCESS_KEY = "AKIDFORTHESECHECKS"  # of AWS; its secret is the server's key


def report(checks: Sequence[tuple[str, Check]]) -> None:
    """Run all checks, whatever fails. A check's name is its column in the table; its result is shown beside it."""
    for column, check in checks:
        line: dict[str, object] = {"column": column, "check": check.__name__}
        try:
            line |= {"ok": True, "detail": str(check())[:100]}
        except Exception:
            line |= {"ok": False, "detail": traceback.format_exc()}
        print(json.dumps(line), flush=True)


def arguments() -> tuple[str, str]:
    """The server's base URL and the key that it wants."""
    return sys.argv[1], sys.argv[2]


TOPIC = "The harbour of Ithra has two piers, a crane, a lighthouse and a customs house built of grey stone. "


def long_text(words: int = 3000) -> str:
    """Text of more tokens than the least that is cached, the same at every call."""
    return TOPIC * (words // 18)
