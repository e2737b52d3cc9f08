"""The table of `make clients` leaves nothing unexplained."""

from __future__ import annotations

from typing import Any

from tests.clients.table import COLUMNS, document, failures


def passed(**changed: dict[str, Any]) -> list[dict[str, Any]]:
    """Results of a client with one check a column. changed: of a column, its spaces as underscores."""
    plain = {"ok": True, "detail": "fine"}
    return [{"column": column, "check": column, **plain, **changed.get(column.replace(" ", "_"), {})} for column in COLUMNS]


def cells(text: str, label: str) -> dict[str, str]:
    """Of one client's row in the first table."""
    head, _, *rows = (line.strip("| ").split(" | ") for line in text.split("\n\n")[0].splitlines())
    return next(dict(zip(head, row)) for row in rows if row[0] == label)


def test_what_is_lacking_has_a_note_that_says_why() -> None:
    lacking = passed(
        batches={"lacks": "a has no batches.", "by": "client"}, models={"lacks": "The server has none.", "by": "server"}
    )
    text = document({"a": ("here", lacking), "b": ("there", passed(batches={"lacks": "a has no batches.", "by": "client"}))})
    row = cells(text, "a")
    assert (row["through"], row["create"], row["batches"], row["models"]) == ("here", "ok", "lacks [1]", "not here [2]")
    assert cells(text, "b")["batches"] == "lacks [1]"
    assert "- [1] a has no batches.\n- [2] The server has none.\n" in text
    assert failures("a", lacking) == []


def test_a_column_that_was_not_reported_is_a_failure() -> None:
    results = [result for result in passed() if result["column"] != "cache"]
    assert cells(document({"a": ("here", results)}), "a")["cache"] == "FAIL"
    assert failures("a", results) == ["a: nothing reported for cache"]


def test_one_failed_check_fails_its_cell() -> None:
    results = [*passed(), {"column": "tools", "check": "runner", "ok": False, "detail": "no"}]
    assert cells(document({"a": ("here", results)}), "a")["tools"] == "FAIL"
    assert failures("a", results) == ["a: runner"]


def test_a_part_that_is_lacking_and_what_is_raised() -> None:
    lacking = {"column": "tools", "check": "runner", "ok": True, "lacks": "No runner.", "by": "client"}
    text = document({"a": ("here", [*passed(errors={"raised": "KeyError"}), lacking])})
    assert cells(text, "a")["tools"] == "ok [1]"
    assert "| a | `KeyError` | nothing | nothing |" in text
