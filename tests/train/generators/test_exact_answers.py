"""The answers in generated rows are what another computation gives: sums, records, policies, needles, values in texts."""

from __future__ import annotations

import datetime
import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from itertools import chain, islice
from typing import Any

import jsonschema
import pytest
from test_generators import blocks, each, some

from senryu.train.generators import Row
from senryu.train.generators.arithmetic import evaluate
from senryu.train.generators.common import banks
from senryu.train.generators.retrieval import KINDS, SHORTEST, over_one_text
from senryu.train.generators.tools import ROUNDS, SCENARIOS, SIZES


def said(row: Row, role: str) -> str:
    return "\n".join(m["content"] for m in row["messages"] if m["role"] == role and isinstance(m["content"], str))


# Arithmetic


def check_sum(row: Row) -> None:
    calls, final = list(blocks(row, "tool_use")), row["messages"][-1]["content"]
    assert re.findall(r"-?\d+", final)[-1] == row["answer"]
    if not row["expression"]:
        assert not calls
        numbers = [int(n) for n in re.findall(r"\d+", said(row, "user"))]
        assert int(row["answer"]) in (max(numbers), sum(numbers))
        return
    (call,) = calls
    (expression,) = call["input"].values()
    value = eval(expression)
    assert expression == row["expression"]
    assert value == int(value) >= 0
    assert str(int(value)) == row["answer"] == next(blocks(row, "tool_result"))["content"]
    asked = Counter(re.findall(r"\d+", said(row, "user")))
    assert asked == Counter(re.findall(r"\d+", expression))


test_sums_are_right = each("arithmetic", check_sum)


def test_digits_and_calls_can_be_asked_for() -> None:
    for row in some("arithmetic", 3, count=80, digits=2, called=True):
        assert row["expression"]
        assert all(len(n) <= 2 for n in re.findall(r"\d+", row["expression"]))
    assert not any(row["expression"] for row in some("arithmetic", 3, count=20, called=False))
    assert {len(re.findall("[-+*/]", row["expression"])) for row in some("arithmetic", 3, count=80)} == {0, 1, 2}


@pytest.mark.parametrize(
    ("expression", "value"),
    [("2 + 3 * 4", "14"), ("(2+3)*4", "20"), ("7/2", "3.5"), ("1/3", "0.3333"), ("-3 - -5", "2"), (" 0.1+0.2", "0.3")],
)
def test_the_calculator_calculates(expression: str, value: str) -> None:
    assert evaluate(expression) == value


@pytest.mark.parametrize(
    "expression",
    ["", "2 +", "1/0", "2 ** 9", "__import__('os')", "a + 1", "True + 1", "1" * 201, "(" * 90, "'a' * 3", "1e999", "9j"],
)
def test_the_calculator_refuses_all_else(expression: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        evaluate(expression)


# Retrieval

VALUE = r"[A-Z]{2}-\d{4}|\d{5,}"


def check_needle(row: Row) -> None:
    text, said = row["text"], [message["content"] for message in row["messages"]]
    assert said[-1] == row["answer"]
    assert text in said[0]
    sentences = re.split(r"(?<=\.)\s+", text)
    for question, answer in zip([said[0].replace(text, ""), *said[2::2]], said[1::2], strict=True):
        kind = row["kind"]
        if kind == "many":
            kind = "variables" if re.search(r"\b[A-Z]{4}\b", question) else "needles"
        assert answer == FINDERS[kind](question, sentences, answer)


def find_needles(question: str, sentences: list[str], answer: str) -> str:
    """The values in the order of their keys in the question; each stands once."""
    text = " ".join(sentences)
    assert all(text.count(value) == 1 for value in answer.split(", "))
    holding = [s for s in sentences if re.search(VALUE, s)]
    values = {_key(s, question): re.findall(VALUE, s)[-1] for s in holding}
    return ", ".join(values[key] for key in sorted(filter(None, values), key=question.index))


def find_variable(question: str, sentences: list[str], answer: str) -> str:
    links = {m[0]: m[1] for s in sentences if len(m := re.findall(r"\b[A-Z]{4}\b|\b\d{4,}\b", s)) == 2}
    value = re.findall(r"\b[A-Z]{4}\b", question)[-1]
    for _ in range(5):
        value = links.get(value, value)
    return value


def find_last(question: str, sentences: list[str], answer: str) -> str:
    values = [re.findall(r"[A-Z]{2}-\d{4}", s) for s in sentences if _key(s, question)]
    return [value for found in values for value in found][-1]


def find_count(question: str, sentences: list[str], answer: str) -> str:
    """A sentence counts when who and what are asked for."""
    phrases = [re.sub(r"^(Then|Again|Once more|A little later) ", "", s).rstrip(".") for s in sentences]
    return str(sum(phrase in question for phrase in phrases if _key(phrase, question)))


def find_clause(question: str, sentences: list[str], answer: str) -> str:
    (name,) = re.findall(r"(?:Clause|Section|Condition|Paragraph|Provision|Rule) \d+", question)
    (clause,) = [s.partition(": ")[2] for s in sentences if s.startswith(f"{name}:")]
    return clause


def find_pair(question: str, sentences: list[str], answer: str) -> str:
    (key,) = re.findall(r"[A-Z]{2}-\d{4}", question)
    (line,) = [line for line in "".join(sentences).splitlines() if key in line]
    return re.findall(r"\d{5,}", line)[-1]


def _key(sentence: str, question: str) -> str:
    """The name or address of the sentence that the question asks for; "" if there is none."""
    found = re.findall(r"[A-Z]\w+ [A-Z]\w+(?: \d+ in \w+)?", sentence)
    return next((key for key in found if key in question), "")


FINDERS = {"needle": find_needles, "needles": find_needles, "variables": find_variable, "last": find_last,
           "count": find_count, "quote": find_clause, "pairs": find_pair}  # fmt: skip

test_what_is_asked_for_is_found = each("retrieval", check_needle, count=8)


def test_every_kind_is_drawn_and_can_be_asked_for() -> None:
    assert {row["kind"] for row in some("retrieval", 1, count=100)} == set(KINDS) == {*FINDERS, "many"}
    for kind in KINDS:
        assert {row["kind"] for row in some("retrieval", 1, count=5, kind=kind)} == {kind}
    with pytest.raises(ValueError, match="kind = 'sonnet' is unknown; use one of needle, "):
        some("retrieval", 1, kind="sonnet")


def test_many_questions_are_asked_in_one_conversation() -> None:
    short, long = (some("retrieval", 1, count=1, chars=chars, exactly=True, kind="many")[0] for chars in (SHORTEST, 16_000))
    assert len(short["messages"]) == 2 * 2
    assert len(long["messages"]) == 2 * (32 + 4 + 4)
    check_needle(long)


def test_a_text_is_as_long_as_it_is_asked_to_be() -> None:
    for chars in (SHORTEST, 2000, 60_000):
        for row in some("retrieval", 2, "test", 14, chars=chars, exactly=True):
            assert chars - 130 < len(row["text"]) <= chars
    lengths = [len(row["text"]) for row in some("retrieval", 2, count=60, chars=20_000)]
    assert min(lengths) < 1500
    assert max(lengths) > 10_000
    with pytest.raises(ValueError, match="chars = 100"):
        some("retrieval", 1, chars=100)


def test_needles_lie_anywhere() -> None:
    rows = some("retrieval", 5, count=200, chars=4000, exactly=True, kind="needle")
    depths = [row["text"].index(row["answer"]) / 4000 for row in rows]
    assert min(depths) < 0.05
    assert max(depths) > 0.9


def test_the_rows_of_the_evaluation_stay_as_they_are() -> None:
    """Figures of earlier models stay comparable."""
    rows = some("retrieval", 20_261_127, "test", 5, chars=4000, exactly=True, kind="needle")
    digest = hashlib.sha256(json.dumps([row["messages"] for row in rows]).encode()).hexdigest()
    assert digest == "5e180e59404a5a70bbac18069c7be60749966b8228d0ed8487c1a53a5990cc1f"


def test_a_long_text_hardly_says_anything_twice() -> None:
    (row,) = some("retrieval", 1, "test", 1, chars=600_000, exactly=True, kind="needle")
    sentences = re.split(r"(?<=\.)\s+", row["text"])
    assert len(sentences) > 8_000
    assert len(set(sentences)) > 0.85 * len(sentences)


def test_documents_can_be_the_filler_and_hold_no_value_by_chance() -> None:
    prose = "".join(f"It is {n} now in the city. " for n in range(1000, 99_999, 7))
    rows = some("retrieval", 1, "test", 40, chars=20_000, exactly=True, kind="variables", documents=[prose])
    for row in rows:
        check_needle(row)
        assert row["text"].count("now in the city") > 500
    with pytest.raises(ValueError, match="documents for the filler are empty"):
        some("retrieval", 1, documents=["", " "], kind="needle")


DEPTHS = (0.0, 0.25, 0.5, 1.0)


def test_many_questions_over_one_text_begin_alike_and_have_their_needles_where_they_were_asked_for() -> None:
    rows, other = islice(over_one_text(3, chars=30_000, depths=DEPTHS), 2)
    text, prompts = rows[0]["text"], [row["messages"][0]["content"] for row in rows]
    assert 29_870 < len(text) <= 30_000
    (before,) = {prompt.partition(text)[0] for prompt in prompts}  # the same prompt up to the text's end
    questions = [prompt.removeprefix(before + text) for prompt in prompts]
    assert Counter(row["kind"] for row in rows) == {"needle": 4, "needles": 4, "variables": 4}
    for row, depth in zip(rows, DEPTHS):
        assert row["depth"] == depth
        assert abs(text.index(row["answer"]) / len(text) - depth) < 0.03
    sentences = re.split(r"(?<=\.)\s+", text)
    for row, question in zip(rows, questions):
        assert row["answer"] == row["messages"][-1]["content"] == FINDERS[row["kind"]](question, sentences, row["answer"])
        assert row["answer"] == ", ".join(row["values"])
        assert set(row["values"]) < set(row["planted"])
    assert other[0]["messages"] != rows[0]["messages"]
    with pytest.raises(ValueError, match=r"too short for 4 needles and 4 chains; use \d+ or more"):
        next(over_one_text(3, chars=500, depths=DEPTHS))


# Extraction


def check_extraction(row: Row) -> None:
    answer, text = json.loads(row["messages"][-1]["content"]), row["messages"][0]["content"]
    jsonschema.validate(answer, row["schema"])
    assert json.dumps(row["schema"], ensure_ascii=False) in text
    assert list(answer) == list(row["schema"]["properties"])
    body = text.split("\n\n", 1)[1]
    for value in _leaves(answer):
        assert _stands_in(value, body), value


def _leaves(value: Any) -> list[Any]:
    if isinstance(value, dict | list):
        return [leaf for inner in (value.values() if isinstance(value, dict) else value) for leaf in _leaves(inner)]
    return [] if value is None or isinstance(value, bool) else [value]


def _stands_in(value: Any, body: str) -> bool:
    if isinstance(value, float):
        return f"{value:.2f}" in body
    if re.fullmatch(r"\d{4}-\d\d-\d\d", str(value)):
        day = datetime.date.fromisoformat(value)
        return f"{day.year}" in body and str(day.day) in body and any(day.strftime(f) in body for f in ("%B", "%b", "%m"))
    if re.fullmatch(r"\d\d:\d\d", str(value)):
        hour, minute = value.split(":")
        return re.search(rf"\b0?{int(hour)}[:.h]{minute}\b", body) is not None
    return str(value) in body


test_extracted_values_stand_in_the_text = each("extraction", check_extraction)


NAMES = banks("extraction", "train")["names"]


def test_absent_values_are_null_and_a_total_is_the_sum_of_its_lines() -> None:
    rows = some("extraction", 4, count=300)
    answers = [json.loads(row["messages"][-1]["content"]) for row in rows]
    assert sum(None in answer.values() for answer in answers) > 50
    checked = 0
    for answer in answers:
        total, lines = (next((answer[n] for n in NAMES[part] if answer.get(n)), None) for part in ("total", "items"))
        if total and lines:
            assert sum(math.prod(v for v in line.values() if not isinstance(v, str)) for line in lines) == pytest.approx(total)
            checked += 1
    assert checked > 5


# Support


def check_support(row: Row) -> None:
    """The policy once more, from the plain values of the case and the record that the row shows."""
    case = row["case"]
    role_of = {name: role for role, name in case["tools"].items()}
    calls = [(role_of[c["name"]], c["input"]) for c in blocks(row, "tool_use")]
    results = [json.loads(b["content"]) for b in blocks(row, "tool_result")]
    if case["wish"] == "person":
        assert [role for role, _ in calls] == ["escalate"]
        return
    assert calls[0] == ("lookup", {case["keys"]["order"]: case["number"]})
    assert case["number"] in said(row, "user")
    if case["number"] not in case["database"]:
        assert len(calls) == 1
        assert set(results[0]) <= {"error", "trouble"}
        return
    record = case["database"][case["number"]]
    assert results[0] == record
    assert [role for role, _ in calls[1:]] == [role for role in [case["role"]] if role]
    wanted = expected(case["policy"], case["wish"], record)
    assert case["role"] == wanted
    arguments = calls[-1][1]
    if wanted == "refund":
        assert arguments[case["keys"]["amount"]] == plain(record)["price"]
    if wanted == "address":
        assert arguments[case["keys"]["address"]] in said(row, "user")
    if wanted in ("refund", "address", "cancel"):
        assert arguments[case["keys"]["order"]] == case["number"]
    system = row["system"]
    assert case["policy"]["today"] in system
    assert f"{case['policy']['days']} days" in system
    assert f"{case['policy']['limit']} euros" in system


def plain(record: dict[str, Any]) -> dict[str, Any]:
    """A record of either split by the keys of the training split."""
    keys = {"stage": "status", "goods": "item", "cost": "price", "reduced": "on_sale", "handed_over": "delivered_on"}
    values = {"in_warehouse": "processing", "on_the_road": "shipped", "handed_over": "delivered"}
    record = {keys.get(key, key): value for key, value in record.items()}
    return record | {"status": values.get(record["status"], record["status"])}


def expected(policy: dict[str, Any], wish: str, record: dict[str, Any]) -> str:
    order = plain(record)
    if wish in ("cancel", "address"):
        return wish if order["status"] == "processing" else ""
    if wish == "status" or order["status"] != "delivered" or (order["on_sale"] and not policy["sale_refunds"]):
        return ""
    since = datetime.date.fromisoformat(policy["today"]) - datetime.date.fromisoformat(order["delivered_on"])
    if since > datetime.timedelta(days=policy["days"]):
        return ""
    return "escalate" if order["price"] > policy["limit"] else "refund"


test_support_does_what_the_policy_says = each("support", check_support)


def test_support_has_every_outcome() -> None:
    found = Counter((row["case"]["wish"], row["case"]["role"]) for row in some("support", 1, count=600))
    assert {("refund", r) for r in ("", "refund", "escalate")} <= set(found)
    assert {(w, r) for w in ("cancel", "address") for r in ("", w)} <= set(found)
    asked_back = [row for row in some("support", 1, count=300) if isinstance(row["messages"][1]["content"], str)]
    assert 20 < len(asked_back) < 120


# Tools


def rounds(row: Row) -> Iterator[Row]:
    """The row cut into its requests, each with its `scenario`."""
    ends = [at for at, _ in row["scenarios"][1:]] + [None]
    for (first, scenario), end in zip(row["scenarios"], ends):
        yield {**row, "scenario": scenario, "messages": row["messages"][first:end]}


def check_tools(row: Row) -> None:
    for each_round in rounds(row):
        check_round(each_round)


def check_round(row: Row) -> None:
    calls, asked = list(blocks(row, "tool_use")), said(row, "user")
    results = [json.loads(b["content"]) for b in blocks(row, "tool_result")]
    assert len(row["tools"]) in SIZES
    match row["scenario"]:
        case "irrelevant":
            assert not calls
        case "call":
            assert len(calls) == 1
        case "calls":
            assert len(row["messages"][1]["content"]) == len(calls)  # all in one message
            assert len(calls) in (2, 3)
        case "missing":
            assert isinstance(row["messages"][1]["content"], str)
            assert len(calls) == 1
        case "error":
            assert calls[0]["name"] == calls[1]["name"]
            changed = {k for k, v in calls[1]["input"].items() if calls[0]["input"][k] != v}
            problem = next(iter(results[0].values()))
            assert all(calls[1]["input"][k] in problem for k in changed)
            assert len(changed) <= 1
            calls = calls[:1]
    for call in calls:
        for value in _leaves(call["input"]):
            assert str(value) in asked
    if row["scenario"] != "irrelevant":
        assert all(v in row["messages"][-1]["content"] for r in results[-len(calls) :] for v in r.values())


test_arguments_come_from_what_was_asked = each("tools", check_tools)


def test_tools_have_every_scenario_and_type() -> None:
    rows = some("tools", 9, count=500)
    assert {scenario for row in rows for _, scenario in row["scenarios"]} == set(SCENARIOS)
    assert {len(row["tools"]) for row in rows} == set(SIZES)
    assert {len(row["scenarios"]) for row in rows} == {n for counts in ROUNDS.values() for n in counts}
    assert all(len(row["scenarios"]) == 1 for row in some("tools", 9, split="test", count=50))
    kinds = Counter(p["type"] for row in rows for t in row["tools"] for p in t["input_schema"]["properties"].values())
    assert set(kinds) == {"string", "integer", "number", "boolean", "array", "object"}
    assert any("enum" in p for row in rows for t in row["tools"] for p in t["input_schema"]["properties"].values())
    assert {len(row["tools"]) for row in some("tools", 9, count=40, size=20)} == {20}


def test_an_irrelevant_request_fits_no_tool() -> None:
    for row in chain(*map(rounds, some("tools", 2, count=400))):
        if row["scenario"] == "irrelevant":
            words = set(re.findall(r"\w+", row["messages"][0]["content"].lower()))
            for each_tool in row["tools"]:
                verb, noun = re.findall(r"[A-Z]?[a-z]+", each_tool["name"])[:2]
                assert not {verb, noun.lower()} <= words


def test_a_missing_argument_is_not_in_the_first_request() -> None:
    for row in chain(*map(rounds, some("tools", 2, count=300))):
        if row["scenario"] == "missing":
            schema = {t["name"]: t["input_schema"] for t in row["tools"]}
            call = next(blocks(row, "tool_use"))
            question = row["messages"][1]["content"].lower()
            flat = {k: re.sub(r"_|(?=[A-Z])", " ", k).lower() for k in schema[call["name"]]["required"]}
            assert any(words in question for words in flat.values())
