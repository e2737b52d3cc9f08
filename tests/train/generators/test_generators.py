"""Rows made by code: reproducible, of the template's form, valid by their schemas, with a test split of its own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, cast

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from senryu.model.template import ChatTemplate
from senryu.train.chat import TEMPLATE, to_messages, to_tools
from senryu.train.generators import GENERATORS, Row, Split
from senryu.train.generators.common import banks
from senryu.train.vocabulary import IDS, contains_special

EXACT = [name for name in GENERATORS if name != "smalltalk"]
SPLITS: tuple[Split, ...] = ("train", "test")
CHAT = ChatTemplate(TEMPLATE.read_text(encoding="utf8"), IDS)
seeds = st.integers(0, 2**32)


def some(name: str, seed: int, split: Split = "train", count: int = 5, **options: Any) -> list[Row]:
    return list(islice(GENERATORS[name](seed, split, **options), count))


def blocks(row: Row, kind: str) -> Iterator[dict[str, Any]]:
    for message in row["messages"]:
        if isinstance(message["content"], list):
            yield from (block for block in message["content"] if block["type"] == kind)


def texts(row: Row) -> list[str]:
    """Everything that is said in a row, and what stands in its tools."""
    said = [row.get("system", ""), *(t["description"] for t in row.get("tools", ()))]
    said += [m["content"] for m in row["messages"] if isinstance(m["content"], str)]
    return said + [block["content"] for block in blocks(row, "tool_result")]


def names(row: Row) -> set[str]:
    """Names of tools and of properties, at any depth, and the values of enums."""
    found = {t["name"] for t in row.get("tools", ())}
    left: list[Any] = [row.get("schema"), *(t["input_schema"] for t in row.get("tools", ()))]
    while left:
        node = left.pop()
        if isinstance(node, dict):
            found |= set(node.get("properties", ())) | {value for value in node.get("enum", ()) if value}
            left += [*node.get("properties", {}).values(), node.get("items")]
    return found


@pytest.mark.parametrize("name", EXACT)
@settings(max_examples=15, deadline=None)
@given(seed=seeds, split=st.sampled_from(SPLITS))
def test_a_row_is_a_conversation_that_the_template_renders(name: str, seed: int, split: Split) -> None:
    for row in some(name, seed, split):
        messages = to_messages(row)
        assert not contains_special(json.dumps(row, ensure_ascii=False))
        text = "".join(CHAT.render(messages, tools=to_tools(row)))
        assert messages[-1]["role"] == "assistant"
        assert messages[-1]["content"] in text
        roles = [message["role"] for message in row["messages"]]
        assert roles == [("user", "assistant")[i % 2] for i in range(len(roles))]
        assert all(text and "{" not in re.sub(r"\{.*\}", "", text) for text in texts(row) if text)  # no place left unfilled


@pytest.mark.parametrize("name", EXACT)
@settings(max_examples=15, deadline=None)
@given(seed=seeds, split=st.sampled_from(SPLITS))
def test_calls_are_valid_and_answered_in_order(name: str, seed: int, split: Split) -> None:
    for row in some(name, seed, split):
        schemas = {t["name"]: t["input_schema"] for t in row.get("tools", ())}
        assert len(schemas) == len(row.get("tools", ()))
        for schema in schemas.values():
            jsonschema.Draft202012Validator.check_schema(schema)
        for call in blocks(row, "tool_use"):
            jsonschema.validate(call["input"], schemas[call["name"]])
        assert [b["id"] for b in blocks(row, "tool_use")] == [b["tool_use_id"] for b in blocks(row, "tool_result")]


@pytest.mark.parametrize("name", GENERATORS)
def test_the_seed_says_it_all(name: str) -> None:
    assert some(name, 7, count=30) == some(name, 7, count=30)
    assert some(name, 7, count=30) != some(name, 8, count=30)


def test_rows_are_the_same_in_another_process() -> None:
    code = "from senryu.train.generators import GENERATORS as g; print(*(next(r(3, 'train')) for r in g.values()), sep='\\n')"
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True) for _ in range(2)]
    assert runs[0].stdout == runs[1].stdout != ""


def test_generators_need_no_torch() -> None:
    code = "import sys, senryu.train.generators; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


# The test split


def phrases(value: Any) -> Iterator[str]:
    """Every string of a bank, keys of inner tables left out."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from phrases(inner)


BANKS = ("words", *(name for name in EXACT))
STRUCTURE = re.compile(r"(parts|words)$")  # what these name is no text: the parts of a layout, kinds of words


def wordings(bank: str, split: Split) -> set[str]:
    def without(table: dict[str, Any]) -> dict[str, Any]:
        kept = {k: v for k, v in table.items() if not STRUCTURE.fullmatch(k)}
        return {k: without(v) if isinstance(v, dict) else v for k, v in kept.items()}

    return set(phrases(without(banks(bank, split)))) - {"{x}", "{e}", "{r}"}


def test_no_phrase_word_or_name_is_in_both_banks() -> None:
    """Across all generators together."""
    train, test = ({text.lower() for bank in BANKS for text in wordings(bank, split)} for split in SPLITS)
    assert not train & test
    assert len(test) > 400


@pytest.mark.parametrize("name", EXACT)
def test_rows_of_the_test_split_share_no_name_and_no_phrase_with_training(name: str) -> None:
    """By what is written in the rows: names in their schemas, and whole wordings with anything in their places."""
    rows = {split: some(name, 11, split, 400) for split in SPLITS}
    seen = {split: set().union(*map(names, rows[split])) for split in SPLITS}
    assert not seen["train"] & seen["test"]
    said = {split: "\n".join("\n".join(texts(row)) for row in rows[split]) for split in SPLITS}
    used = 0
    for split, other in (SPLITS, SPLITS[::-1]):
        for wording in wordings(name, split):
            if len(re.sub(r"\{[^}]*\}|\W", "", wording)) >= 10:  # letters enough to be told from others
                pattern = re.sub(r"\\\{.*?\\\}", "[^.\n]{1,40}", re.escape(wording))
                used += bool(re.search(pattern, said[split]))
                assert not re.search(rf"\b{pattern}", said[other]), wording
    assert used > 10


@pytest.mark.parametrize("name", EXACT)
def test_no_question_of_the_test_split_is_asked_in_training(name: str) -> None:
    asked = [{m["content"] for row in some(name, 1, split, 1500) for m in row["messages"][:1]} for split in SPLITS]
    assert not asked[0] & asked[1]


def test_smalltalk_holds_nothing_back_and_says_so() -> None:
    with pytest.raises(ValueError, match="no test split"):
        next(GENERATORS["smalltalk"](1, "test"))
    assert len(some("smalltalk", 1, count=14_500)) == 14_500  # goes on after the distinct ones of a seed


Check = Callable[[Row], None]


def each(name: str, check: Check, count: int = 6, **options: Any) -> Callable[[], None]:
    """`check` over rows of many seeds and both splits."""

    @settings(max_examples=25, deadline=None)
    @given(seed=seeds, split=st.sampled_from(SPLITS))
    def run(seed: int, split: Split) -> None:
        for row in some(name, seed, split, count, **options):
            check(row)

    return cast("Callable[[], None]", run)
