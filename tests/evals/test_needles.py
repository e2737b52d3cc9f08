"""The needle curve: a model that finds everything, one that reads only the end, a text read once, lengths kept to."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest

from senryu.config import Settings
from senryu.engine.interface import TokenRequest
from senryu.evals import __main__ as commands
from senryu.evals import card, needles, tasks
from senryu.evals.tasks import Answers
from senryu.service.turn import Service
from senryu.types import Finished
from serving import END, TOKENIZER, Reply, scripted_model

LENGTHS = (2_000, 4_000)


def finds(share: float = 1.0, say: str = "{}") -> Reply:
    """A model that finds what stands in the last `share` of its prompt."""

    def reply(request: TokenRequest) -> list[int]:
        prompt = TOKENIZER.decode(request.ids)
        text, _, question = prompt.rpartition("\nNow reply: ")
        return [*TOKENIZER.encode(say.format(_found(text[int(len(text) * (1 - share)) :], question))), END]

    return reply


def _found(text: str, question: str) -> str:
    sentences = re.split(r"(?<=\.)\s+", text)
    if names := re.findall(r"\b[A-Z]{4}\b", question):
        links = {m[0]: m[1] for s in sentences if len(m := re.findall(r"\b[A-Z]{4}\b|\b\d{4,}\b", s)) == 2}
        value = names[-1]
        while value in links:
            value = links[value]
        return value
    values: dict[str, str] = {}
    for s in sentences:
        key = next((k for k in re.findall(r"[A-Z]\w+ [A-Z]\w+(?: \d+ in \w+)?", s) if k in question), "")
        if key and (value := re.findall(r"[A-Z]{2}-\d{4}|\d{5,}", s)):
            values[key] = value[-1]
    return ", ".join(values[key] for key in sorted(values, key=question.index))


def run(reply: Reply, tmp_path: Path, lengths: tuple[int, ...] = LENGTHS, texts: int = 1) -> dict[str, Any]:
    async def measured() -> dict[str, Any]:
        model = scripted_model(reply, pages=400)
        try:
            return await needles.measure(Answers(model, Settings(home=tmp_path)), 5_000, lengths, texts, lambda line: None)
        finally:
            await model.engine.close()

    return asyncio.run(measured())


def test_who_finds_everything_is_advertised_with_the_longest_length(tmp_path: Path) -> None:
    result = run(finds(say="It is {}, I think."), tmp_path, texts=2)
    assert result["advertised"] == 4_000
    assert [entry["tokens"] for entry in result["lengths"]] == [2_000, 4_000]
    for entry in result["lengths"]:
        assert {kind: entry[kind] for kind in needles.KINDS} == {
            "needle": {"rows": 22, "found": 1.0}, "needles": {"rows": 8, "found": 1.0}, "variables": {"rows": 8, "found": 1.0}
        }  # fmt: skip
        assert (
            entry["tokens"] - needles.ANSWER_TOKENS - 104 <= entry["prompt_tokens"] <= entry["tokens"] - needles.ANSWER_TOKENS
        )
    assert needles.sentence(result).startswith("Use it up to 4,000 tokens: there, and at every shorter length")
    assert "| 4,000 | 100 % of 22 | 100 % at 0 % | 100 % of 8 | 100 % of 8 |" in needles.table(result)


def test_who_reads_only_the_end_finds_only_what_stands_there(tmp_path: Path) -> None:
    result = run(finds(0.45), tmp_path, (4_000,))
    depths = {depth: figures["found"] for depth, figures in result["lengths"][0]["depths"].items()}
    assert depths == {"0": 0, "10": 0, "20": 0, "30": 0, "40": 0, "50": 0, "60": 1, "70": 1, "80": 1, "90": 1, "100": 1}
    assert result["advertised"] == 0
    assert "at 4,000 tokens, the shortest measured, it finds 45 % of 11 needles, and 80 % are the bar" in needles.sentence(
        result
    )


def test_a_text_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reused: list[int] = []

    class Watched(Service):
        async def run(self, *args: Any) -> Any:
            async for event in super().run(*args):
                if isinstance(event, Finished):
                    reused.append(event.usage.reused_tokens)
                yield event

    monkeypatch.setattr(tasks, "Service", Watched)
    run(finds(), tmp_path, (4_000,))
    assert reused[0] < 100  # nothing but the template's beginning, at most
    assert len(reused) == 19
    assert min(reused[1:]) > 3_700


@pytest.mark.parametrize(
    ("found", "length"),
    [((1.0, 0.9, 0.81), 32), ((1.0, 0.8, 1.0), 4), ((0.5, 1.0, 1.0), 0), ((), 0)],  # 80 % alone do not pass
)
def test_a_length_counts_only_where_all_shorter_ones_pass(found: tuple[float, ...], length: int) -> None:
    entries = [{"tokens": tokens, "needle": {"found": share}} for tokens, share in zip((4, 16, 32), found)]
    assert needles.advertised(entries[::-1]) == length


@pytest.mark.parametrize(
    ("answer", "right"),
    [("12345", True), ("The number is 12345.", True), ("123456", False), ("12345 or 777", False), ("", False), ("777", False)],
)
def test_an_answer_names_what_was_asked_for_and_nothing_else(answer: str, right: bool) -> None:
    assert needles.answered({"planted": ["12345", "777", "KX-1234"], "values": ["12345"]}, answer) == right


def test_several_values_come_in_their_order() -> None:
    row = {"planted": ["1", "KX-1234", "3"], "values": ["KX-1234", "1"]}
    assert needles.answered(row, "KX-1234, 1")
    assert not needles.answered(row, "1, KX-1234")


@pytest.mark.parametrize(
    ("length", "message"), [(6_000, "more than the model's window of 5000"), (500, "too short to hold every needle")]
)
def test_a_length_that_cannot_be_is_refused(tmp_path: Path, length: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(finds(), tmp_path, (length,))


def test_the_command_writes_figures_and_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(needles, "load_model", lambda settings, ref: scripted_model(finds(0.45), pages=400))
    out, picture = tmp_path / "needles.json", tmp_path / "needles.png"
    commands.main(["needles", "--tokens", "4000", "2000", "--out", str(out), "--plot", str(picture)])
    found = json.loads(out.read_text())
    assert [entry["tokens"] for entry in found["lengths"]] == [2000, 4000]
    assert found["model"] == "senryu-mini"
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert needles.sentence(found) in capsys.readouterr().out
    text = card.needles_text({"needles": found})
    assert needles.table(found) in text
    assert "one text of each length" in text
    assert card.needle_options({"needles": found}) == "--tokens 2000 4000 --rows 1"
    assert card.advertised({"needles": found}) == needles.sentence(found)
    assert "not measured" in card.advertised({})
    with pytest.raises(SystemExit, match="error: 900000 tokens are more than the model's window"):
        commands.main(["needles", "--tokens", "900000", "--out", str(out)])
