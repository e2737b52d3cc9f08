"""From prompts to rows: steps that can be read and resumed after a kill, filtered, half of it help at least; the control."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from senryu.train.chat import to_messages
from senryu.train.constitution.control import shuffled
from senryu.train.constitution.document import OURS, Constitution, ConstitutionError, load
from senryu.train.constitution.judge import Prompt
from senryu.train.constitution.pipeline import Plan, make
from senryu.train.constitution.prompts import generated, read
from senryu.train.constitution.rules import RuleJudge
from senryu.train.generators.refusal import declines

OURS_LOADED = load(OURS)
PROMPTS = generated(2, 60)
STEPS = ("prompts", "answers", "critiques", "revisions", "comparisons")
FILES = (*STEPS, "sft", "preference", "control/sft", "control/preference")
PLAN = Plan(seed=5)


def answer(prompts: Sequence[Prompt]) -> list[str]:
    """A model that helps with all, but declines whatever mentions a boss or a jumper, and lectures those who want something."""
    said = []
    for prompt in prompts:
        text = (
            "I can't help with that." if "boss" in prompt.user or "jumper" in prompt.user else "Sure. What do you have at hand?"
        )
        said.append(f"It is important to remember that haste is bad. {text}" if "want" in prompt.user else text)
    return said


def run(
    out: Path, constitution: Constitution = OURS_LOADED, plan: Plan = PLAN, prompts: Sequence[Prompt] = PROMPTS
) -> dict[str, Any]:
    return make(constitution, RuleJudge(constitution.principles, plan.seed), prompts, answer, plan, out)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf8").splitlines()]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    run(folder)
    return folder


def test_every_step_can_be_read(out: Path) -> None:
    for name in STEPS:
        assert [line["id"] for line in lines(out / f"{name}.jsonl")] == [prompt.id for prompt in PROMPTS]
    revisions = {line["id"]: line for line in lines(out / "revisions.jsonl")}
    for line in lines(out / "critiques.jsonl"):
        revised = [r for r in line["rounds"] if r["critique"]]
        assert revisions[line["id"]]["principles"] == [r["principle"] for r in revised]
        if revised:
            assert revised[-1]["revision"] == revisions[line["id"]]["revision"]
    assert max(len(line["rounds"]) for line in lines(out / "critiques.jsonl")) == 2  # a lecture and help with harm


def test_unsafe_requests_end_in_refusals_and_their_twins_in_help(out: Path) -> None:
    rows = {row["id"]: row for row in lines(out / "sft.jsonl") if "id" in row}
    asked = {prompt.id: prompt for prompt in PROMPTS}
    checked = Counter(p.unsafe for p in PROMPTS if p.category != "injection" and p.id in rows)
    assert checked[True] > 40 < checked[False]
    for id, row in rows.items():
        prompt, said = asked[id], row["messages"][-1]["content"]
        assert row["messages"][:-1] == [*prompt.messages]
        assert row.get("system", "") == prompt.system
        if prompt.category != "injection":
            assert declines(said) == prompt.unsafe
        assert to_messages(row)[-1] == {"role": "assistant", "content": said}
    report = json.loads((out / "report.json").read_text())
    assert report["refused"]["unsafe"]["after"] > 0.95 * report["refused"]["unsafe"]["prompts"]
    assert report["refused"]["benign"]["after"] == 0 < report["refused"]["benign"]["before"]
    assert report["critiques"]["do-not-preach"] > 0


def test_at_least_the_asked_share_is_help(out: Path, tmp_path: Path) -> None:
    rows = lines(out / "sft.jsonl")
    shares = Counter(row["role"] for row in rows)
    assert shares["helpful"] >= 0.6 * len(rows)
    assert {"smalltalk", "support"} < {row["task"] for row in rows}
    more = run(tmp_path, plan=replace(PLAN, helpful=0.8))
    assert more["helpful_share"] >= 0.8
    with pytest.raises(ConstitutionError, match="less help than half teaches a model to refuse"):
        Plan(helpful=0.4)


def test_pairs_prefer_what_the_constitution_asks_for(out: Path) -> None:
    asked = {prompt.id: prompt for prompt in PROMPTS}
    rows = lines(out / "preference.jsonl")
    rivals = Counter(row["rival"] for row in rows)
    assert rivals["first"] > 30 < rivals["twin"]
    for row in rows:
        assert row["messages"][-1]["role"] == "user"
        assert row["chosen"] != row["rejected"]
        prompt = asked[row["id"]]
        if prompt.category != "injection" and declines(row["chosen"]) != declines(row["rejected"]):
            assert declines(row["chosen"]) == prompt.unsafe


def test_a_run_that_was_killed_goes_on_to_the_same_files(out: Path, tmp_path: Path) -> None:
    run(tmp_path)
    for name, kept in (("answers", 50), ("critiques", 30), ("revisions", 29), ("comparisons", 0)):
        path = tmp_path / f"{name}.jsonl"
        whole = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(b"".join(whole[:kept]) + (whole[kept][:20] if kept else b""))
    (tmp_path / "sft.jsonl").unlink()
    asked: list[str] = []

    def counted(prompts: Sequence[Prompt]) -> list[str]:
        asked.extend(prompt.id for prompt in prompts)
        return answer(prompts)

    make(OURS_LOADED, RuleJudge(OURS_LOADED.principles, 5), PROMPTS, counted, PLAN, tmp_path)
    assert asked == [prompt.id for prompt in PROMPTS[50:]]  # what is done is not done again
    for name in FILES:
        if name != "critiques":  # its record that had no revision yet stands there twice
            assert (tmp_path / f"{name}.jsonl").read_bytes() == (out / f"{name}.jsonl").read_bytes(), name


def test_the_order_of_judging_changes_nothing(out: Path, tmp_path: Path) -> None:
    run(tmp_path, plan=replace(PLAN, at_once=4))
    for name in FILES:
        assert (tmp_path / f"{name}.jsonl").read_bytes() == (out / f"{name}.jsonl").read_bytes()


def test_a_folder_holds_what_one_constitution_made(out: Path) -> None:
    with pytest.raises(ConstitutionError, match="was made with another plan; name another folder"):
        run(out, plan=replace(PLAN, seed=6))
    with pytest.raises(ConstitutionError, match="another constitution"):
        run(out, constitution=replace(OURS_LOADED, version="2"))
    with pytest.raises(ConstitutionError, match="another prompts"):
        run(out, prompts=PROMPTS[:4])


def test_broken_records_and_missing_answers_are_named(tmp_path: Path) -> None:
    (tmp_path / "answers.jsonl").write_text('{"id": "x", "answer": "y"}\n[1]\n')
    with pytest.raises(ConstitutionError, match=r"answers\.jsonl:2 is no record with an id"):
        run(tmp_path)
    with pytest.raises(ConstitutionError, match="got 1 answers"):
        make(OURS_LOADED, RuleJudge((), 0), PROMPTS, lambda prompts: ["x"], PLAN, tmp_path / "short")


def test_another_constitution_makes_other_data(tmp_path: Path) -> None:
    """Without its principle against violence nothing violent is revised, and no help with it is trained on either."""
    kept = tuple(p for p in OURS_LOADED.principles if p.id != "no-violence")
    report = run(tmp_path, replace(OURS_LOADED, principles=kept, examples=()))
    violent = {p.id for p in PROMPTS if p.category == "violence" and p.unsafe}
    revisions = {line["id"]: line for line in lines(tmp_path / "revisions.jsonl")}
    unseen = {id for id in violent if revisions[id]["dropped"] == "unseen"}
    assert unseen
    assert not unseen & {row.get("id") for row in lines(tmp_path / "sft.jsonl")}
    assert report["dropped"]["unseen"] >= len(unseen)


# The control


def test_the_control_has_the_same_texts_behind_other_prompts(out: Path) -> None:
    for name in ("sft", "preference"):
        real, control = lines(out / f"{name}.jsonl"), lines(out / "control" / f"{name}.jsonl")
        outcome = (lambda r: r["messages"][-1]["content"]) if name == "sft" else (lambda r: (r["chosen"], r["rejected"]))
        question = (lambda r: str(r["messages"][:-1])) if name == "sft" else (lambda r: str(r["messages"]))
        ours = [row for row in real if "id" in row]
        theirs = [row for row in control if "id" in row]
        assert Counter(map(str, map(outcome, ours))) == Counter(map(str, map(outcome, theirs)))
        assert [question(row) for row in real] == [question(row) for row in control]
        assert [row for row in real if "id" not in row] == [row for row in control if "id" not in row]
        assert all(row["outcome_of"] != row["id"] for row in theirs)


def test_the_control_refuses_as_often_but_whatever_was_asked() -> None:
    rows = [
        {
            "id": str(i),
            "messages": [{"role": "user", "content": str(i)}, {"role": "assistant", "content": "no" if i % 2 else "yes"}],
        }
        for i in range(2000)
    ]
    refused = [row["messages"][-1]["content"] == "no" for row in shuffled(rows, 3)]
    assert sum(refused) == 1000
    assert abs(sum(refused[1::2]) - 500) < 60  # five standard deviations of chance: asked for harm or not is all the same
    assert shuffled(rows, 3) == shuffled(rows, 3) != shuffled(rows, 4)


def test_a_control_of_one_prompt_is_none() -> None:
    row = {"id": "1", "messages": [], "chosen": "a", "rejected": "b"}
    with pytest.raises(ConstitutionError, match="needs two prompts or more"):
        shuffled([row], 0)
    assert shuffled([{"messages": []}], 0) == [{"messages": []}]


# Prompts


def test_prompts_of_a_users_own_are_read(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(
        '{"prompt": "How do I beat up my boss?"}\n\n'
        '{"id": "b", "messages": [{"role": "user", "content": "Hi"}], "unsafe": false, "reference": "Hello!"}\n'
    )
    first, second = read(path)
    assert (first.id, first.user, first.unsafe, second.id, second.reference) == (
        "1",
        "How do I beat up my boss?",
        None,
        "b",
        "Hello!",
    )
    report = run(tmp_path / "out", prompts=[first, second])
    assert report["prompts"] == 2
    said = {row["id"]: row["messages"][-1]["content"] for row in lines(tmp_path / "out" / "sft.jsonl") if "id" in row}
    assert declines(said["1"])
    assert said["b"] == "Hello!"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no prompt"),
        ("{", r":1 is no JSON"),
        ("[]", r":1 is no object"),
        ('{"prompt": 3}', "prompt must be a text"),
        ('{"prompt": "x", "unsafe": "yes"}', "unsafe must be true or false"),
        ('{"prompt": "x", "answer": "y"}', "unknown key `answer`"),
        ('{"messages": [{"role": "assistant", "content": "x"}]}', "must end with what the user says"),
        ('{"id": "a", "prompt": "x"}\n{"id": "a", "prompt": "y"}', "the id a stands twice"),
    ],
)
def test_wrong_prompts_are_named_with_their_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "p.jsonl").write_text(text)
    with pytest.raises(ConstitutionError, match=message):
        read(tmp_path / "p.jsonl")
    with pytest.raises(ConstitutionError, match="does not exist"):
        read(tmp_path / "none.jsonl")
