"""Commands print results on stdout alone, in the form that the reader can use."""

from __future__ import annotations

import json

import pytest

from senryu.cli.chat import read_prompt
from senryu.cli.output import CompileProgress, print_json, print_table


def asker(*lines: str):
    """A terminal on which these lines are typed, then the end of input."""
    rest = iter(lines)

    def ask(prompt: str) -> str:
        try:
            return next(rest)
        except StopIteration:
            raise EOFError from None

    return ask


@pytest.mark.parametrize(
    ("typed", "read"),
    [
        (["hello"], "hello"),
        (["one \\", "two \\", "three"], "one \ntwo \nthree"),
        (['"""', "first", "", "second", '"""'], "first\n\nsecond"),
        ([], None),
        (['"""', "never closed"], None),
    ],
)
def test_a_message_may_have_many_lines(typed: list[str], read: str | None) -> None:
    assert read_prompt(asker(*typed)) == read


def test_tables_in_a_pipe_are_tab_separated(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("name", "size"), [["mini", 6], ["big", 700]])
    assert capsys.readouterr().out == "mini\t6\nbig\t700\n"


def test_json_is_one_document(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": ["ü", 1]})
    assert json.loads(capsys.readouterr().out) == {"a": ["ü", 1]}


def test_progress_stays_off_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    progress = CompileProgress()
    for i in range(3):
        progress(f"kernel {i}", i, 2)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("first start only") == 1
    assert "2 kernels compiled" in printed.err
