"""Refusal correctness over the test split: what counts, intervals, and two models compared prompt by prompt."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from senryu.evals import __main__ as command
from senryu.evals import card, refusals
from senryu.evals.collapse import Said
from senryu.evals.refusals import Asked, Row
from senryu.train.generators.refusal import declines
from senryu.types import Text, Turn

COUNT = 40
ROWS = refusals.prompts(COUNT)
NO, YES = "I can't help with that, because it could hurt somebody.", "Sure. What do you have at hand?"


def text_of(turn: Turn) -> str:
    """The whole of a turn, to find the row that it is of."""
    return repr([m.content for m in turn.messages]) + "".join(block.text for block in turn.system)


class Answerer:
    """Answers each row of the test split by a function of it."""

    name = "m"

    def __init__(self, say: Callable[[Row], str]) -> None:
        self.say, self.turns = say, list[Turn]()
        self.rows = {text_of(turn): row for row in ROWS for turn, _ in [list(refusals.turns("m", row))[-1]]}

    async def said(self, turn: Turn) -> tuple[str, bool]:
        self.turns.append(turn)
        return self.say(self.rows[text_of(turn)]), False


def run(say: Callable[[Row], str]) -> list[Asked]:
    return asyncio.run(refusals.ask(cast("Any", Answerer(say)), ROWS))


def perfect(row: Row) -> str:
    return str(row["messages"][-1]["content"])


def test_prompts_are_different_pairs_of_the_test_split_that_never_change() -> None:
    assert refusals.prompts(COUNT) == ROWS
    kinds = Counter(row["category"] == "injection" for row in ROWS)
    assert kinds == {False: 2 * COUNT, True: 2 * COUNT // 5}
    assert len({str(row["messages"][:-1]) + row.get("system", "") for row in ROWS if row["unsafe"]}) == len(ROWS) // 2
    assert [row["unsafe"] for row in ROWS] == [True, False] * (len(ROWS) // 2)
    assert len({row["category"] for row in ROWS}) > 9


def test_a_perfect_model_is_right_in_all() -> None:
    made = refusals.figures(run(perfect))
    for name in ("refused", "answered", "correct", "both"):
        assert made[name] == {"share": 1.0, "interval": [1.0, 1.0]}
    assert made["over_refusal"]["share"] == made["secret_told"] == made["orders"]["obeyed"] == 0
    assert made["orders"]["answered"] == 1
    assert set(made["categories"].values()) == {1.0}
    assert made["pairs"] == COUNT
    assert made["collapse"]["loops"] == 0


def leaks(row: Row) -> str:
    return f"It is {row.get('secret', '')} {row.get('payload', '')}."


def test_a_model_that_helps_with_all_refuses_all_or_leaks_all() -> None:
    helps, declined, leaked = (refusals.figures(run(say)) for say in (lambda _: YES, lambda _: NO, leaks))
    assert (helps["refused"]["share"], helps["answered"]["share"], helps["correct"]["share"]) == (0, 1, 0.5)
    assert (declined["refused"]["share"], declined["answered"]["share"], declined["both"]["share"]) == (1, 0, 0)
    assert declined["over_refusal"]["share"] == 1
    assert leaked["secret_told"] == leaked["orders"]["obeyed"] == 1


@pytest.mark.parametrize("text", ["", "   ", "I am here. " * 30])
def test_silence_and_circles_are_no_answers_and_no_refusals(text: str) -> None:
    made = refusals.figures(run(lambda _: text))
    assert made["answered"]["share"] == made["over_refusal"]["share"] == made["refused"]["share"] == 0


def test_answers_are_greedy_short_and_behind_the_tools_result() -> None:
    answerer = Answerer(perfect)
    asyncio.run(refusals.ask(cast("Any", answerer), ROWS))
    assert {turn.temperature for turn in answerer.turns} == {0.0}
    assert {turn.max_tokens for turn in answerer.turns} == {refusals.ANSWER_TOKENS}
    with_tools = [turn for turn in answerer.turns if turn.tools]
    assert with_tools
    assert all(len(turn.messages) == 3 for turn in with_tools)


def test_an_interval_holds_the_mean_about_as_often_as_it_says() -> None:
    draw = np.random.default_rng(1)
    inside = 0
    for _ in range(60):
        low, high = refusals.interval((draw.random(100) < 0.3).astype(float))
        inside += low <= 0.3 <= high
    assert inside >= 52  # 57 are to be expected
    assert refusals.interval(np.array([0.0, 1.0] * 50)) == refusals.interval(np.array([0.0, 1.0] * 50))


def test_models_are_compared_prompt_by_prompt() -> None:
    real, control = run(perfect), run(lambda row: NO if row["pair"] % 2 else YES)
    made = refusals.against(real, control)
    assert made["correct"]["difference"] == pytest.approx(0.5, abs=0.01)
    assert made["correct"]["significant"]
    assert made["over_refusal"]["difference"] < 0
    assert made["over_refusal"]["within"]
    assert made["distinct_2"]["within"]
    back = refusals.against(control, real)
    assert not back["over_refusal"]["within"]
    assert not back["distinct_2"]["within"]  # two answers over and over
    same = refusals.against(real, real)
    assert not any(same[name]["significant"] for name in refusals.MEASURES)
    assert same["correct"]["interval"] == [0, 0]


def test_pairing_finds_what_two_intervals_alone_would_not() -> None:
    """A model that is right in the same prompts and in a few more."""
    first = [i for i, row in enumerate(ROWS) if row["category"] != "injection"]
    few = {ROWS[i]["pair"] for i in first[: len(first) // 5]}
    more = {ROWS[i]["pair"] for i in first[: len(first) * 2 // 5]}
    ours, theirs = (run(lambda row, right=right: perfect(row) if row["pair"] in right else YES) for right in (more, few))
    a, b = (refusals.figures(asked)["correct"]["interval"] for asked in (ours, theirs))
    assert a[0] < b[1]  # they overlap
    assert refusals.against(ours, theirs)["correct"]["significant"]


def test_the_command_prints_models_side_by_side_and_keeps_the_answers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    says = {"path:real": perfect, "path:control": lambda row: NO if row["pair"] % 2 else YES}

    async def of(_: object, ref: str, asked: list[Row]) -> list[Asked]:
        assert asked == ROWS
        return [Asked(row, Said(says[ref](row))) for row in asked]

    monkeypatch.setattr(refusals, "_of", of)
    out = tmp_path / "refusals.json"
    command.main(["refusals", "--model", "path:real", "--against", "path:control", "--pairs", str(COUNT), "--out", str(out)])
    printed = capsys.readouterr().out
    assert "| measure | path:real | path:control |" in printed
    assert "| refusal correctness (%) | 100.0 [100.0, 100.0] | 5" in printed
    assert "path:real against path:control: refusal correctness +" in printed
    assert ", significant at 95%; over-refusal -" in printed
    found = json.loads(out.read_text())
    assert len(found["answers"]["path:real"]) == len(ROWS)
    assert all(declines(a["answer"]) == a["declined"] for a in found["answers"]["path:control"])
    with pytest.raises(SystemExit, match="1 pairs are too few"):
        command.main(["refusals", "--pairs", "1", "--out", str(out)])


def test_the_card_says_what_was_measured() -> None:
    assert card.refusals_text({}) == ""
    text = card.refusals_text({"refusals": refusals.figures(run(perfect))})
    assert text.startswith("\n\nRequests that are to be declined")
    assert f"- Requests ({COUNT} pairs): 100.0 [100.0, 100.0] % of unsafe ones are declined" in text
    assert "0.0 % end in a repetition loop" in text


def test_text_and_end_of_an_answer_come_from_the_service() -> None:
    from senryu.evals.tasks import Answers
    from senryu.types import BlockStopped, Finished

    class Service:
        def __init__(self, reason: str) -> None:
            self.reason = reason

        async def run(self, _: Turn) -> Any:
            for event in (BlockStopped(Text("Hi ")), BlockStopped(Text("there")), Finished(cast("Any", self.reason))):
                yield event

    answers = Answers.__new__(Answers)
    answers._gate = asyncio.Semaphore(1)
    for reason, cut in (("max_tokens", True), ("end_turn", False)):
        answers._service = cast("Any", Service(reason))
        assert asyncio.run(answers.said(cast("Any", None))) == ("Hi there", cut)
