"""From prompts to training rows: answers, critiques and revisions, comparisons; each step a JSONL that can be read and resumed.

In the folder: prompts, answers, critiques, revisions, comparisons .jsonl, then sft.jsonl, preference.jsonl and the same in
control/ (see `control`), settings.json and report.json. A rerun goes on after the last record.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from senryu.train.constitution.control import shuffled
from senryu.train.constitution.document import Constitution, ConstitutionError, Principle
from senryu.train.constitution.filters import reason_to_drop
from senryu.train.constitution.journal import Journal, Record, settle, write_rows
from senryu.train.constitution.judge import Answer, Critique, Judge, Prompt
from senryu.train.constitution.training import Outcome, Pair, preference_rows, sft_rows
from senryu.train.generators.refusal import declines

ANSWERED_AT_ONCE = 256
HELPERS = ("smalltalk", "tools", "support", "extraction", "arithmetic")


@dataclass(frozen=True)
class Plan:
    """How the data is made.

    rounds: critiques and revisions of one answer, each by a principle that it was not held against yet. compared: principles
    that a comparison is the mean of. margin: how far from 1/2 a comparison must lie to make a pair. helpful: the least part of
    the fine-tuning rows that show help; generators of `helpers` fill it up. at_once: prompts that are judged side by side.
    """

    seed: int = 0
    rounds: int = 2
    compared: int = 3
    margin: float = 0.1
    helpful: float = 0.6
    helpers: tuple[str, ...] = HELPERS
    at_once: int = 1

    def __post_init__(self) -> None:
        if (
            self.rounds < 1
            or self.compared < 1
            or self.at_once < 1
            or not 0 <= self.margin < 0.5
            or not 0.5 <= self.helpful < 1
        ):
            raise ConstitutionError(
                "rounds, compared and at_once must be 1 or more, margin in [0, 0.5), helpful in [0.5, 1): less help than half "
                "teaches a model to refuse; change them"
            )


Progress = Callable[[str, int, int], None]
"""(step, done, of): called as a step goes on."""


def make(
    constitution: Constitution,
    judge: Judge,
    prompts: Sequence[Prompt],
    answer: Answer,
    plan: Plan,
    out: Path,
    progress: Progress = lambda step, done, of: None,
) -> dict[str, Any]:
    """All steps, then the rows; returns the report, which stands in `out`/report.json too.

    Raises ConstitutionError when `out` was made with other prompts, judge, constitution or plan.
    """
    fixed = {key: value for key, value in asdict(plan).items() if key not in ("at_once", "helpers")} | {
        "helpers": [*plan.helpers]
    }
    settle(out / "settings.json", {"constitution": _digest(asdict(constitution)), "judge": judge.name, "plan": fixed,
                                   "prompts": _digest([prompt.record() for prompt in prompts])})  # fmt: skip
    asked = {prompt.id: prompt for prompt in prompts}
    steps = {name: Journal(out / f"{name}.jsonl") for name in ("prompts", "answers", "critiques", "revisions", "comparisons")}
    steps["prompts"].add(*(asked[id].record() for id in steps["prompts"].left(asked)))
    _answers(steps["answers"], asked, answer, progress)
    work = _Judging(constitution, judge, plan)
    for name, one in (("revisions", work.revise), ("comparisons", work.compare)):
        _each(name, steps, asked, one, plan.at_once, progress)
    outcomes = [_outcome(asked[id], steps["revisions"].done[id]) for id in asked]
    pairs = [Pair(asked[id], **pair) for id in asked for pair in steps["comparisons"].done[id]["pairs"]]
    rows = {"sft": sft_rows(outcomes, plan.helpful, plan.helpers, plan.seed), "preference": preference_rows(pairs, plan.margin)}
    counts: dict[str, Any] = {}
    for name, made in rows.items():
        counts[name] = write_rows(out / f"{name}.jsonl", made)
        write_rows(out / "control" / f"{name}.jsonl", shuffled(made, plan.seed))
    report = _report(outcomes, rows, counts, steps["critiques"]) | {"constitution": constitution.name, "judge": judge.report()}
    (out / "report.json").write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf8")
    return report


def _answers(journal: Journal, asked: dict[str, Prompt], answer: Answer, progress: Progress) -> None:
    for ids in _batches(journal.left(asked), ANSWERED_AT_ONCE):
        answers = answer([asked[id] for id in ids])
        if len(answers) != len(ids):
            raise ConstitutionError(f"{len(ids)} prompts got {len(answers)} answers; a model must answer each")
        journal.add(*({"id": id, "answer": text} for id, text in zip(ids, answers)))
        progress("answers", len(journal.done), len(asked))


def _each(
    name: str,
    steps: dict[str, Journal],
    asked: dict[str, Prompt],
    one: Callable[[Prompt, dict[str, Journal]], dict[str, Record]],
    at_once: int,
    progress: Progress,
) -> None:
    """One step over all prompts that are left; the record named like the step is written last, so that it marks the end."""
    with ThreadPoolExecutor(at_once) as pool:
        for ids in _batches(steps[name].left(asked), at_once):
            for made in pool.map(lambda id: one(asked[id], steps), ids):
                for step in sorted(made, key=lambda step: step == name):
                    steps[step].add(made[step])
            progress(name, len(steps[name].done), len(asked))


def _batches(ids: Sequence[str], size: int) -> Iterable[Sequence[str]]:
    return (ids[i : i + size] for i in range(0, len(ids), size))


@dataclass(frozen=True)
class _Judging:
    """The judge's part of every step, for one prompt at a time."""

    constitution: Constitution
    judge: Judge
    plan: Plan

    def revise(self, prompt: Prompt, steps: dict[str, Journal]) -> dict[str, Record]:
        """Rounds of critique and revision, each by a newly drawn principle of those that apply to the answer as it stands."""
        first = text = steps["answers"].done[prompt.id]["answer"]
        used: set[str] = set()
        rounds, critiques = [], []
        for number in range(self.plan.rounds):
            left = [p for p in self.constitution.principles if p.id not in used]
            drawn = self._draw(self.judge.applicable(left, prompt, text), 1, f"{number} {prompt.id}")
            if not drawn:
                break
            used.add(drawn[0].id)
            critique = self.judge.critique(drawn[0], prompt, text)
            entry: Record = {"principle": drawn[0].id, "critique": critique and critique.text}
            if critique:
                critiques.append(critique)
                text = self.judge.revise(drawn[0], prompt, text, critique).strip()
                entry |= {"found": critique.found, "revision": text}
            rounds.append(entry)
        record = {"id": prompt.id, "answer": first, "revision": text, "principles": [c.principle for c in critiques]}
        record["dropped"] = self._dropped(prompt, text, critiques)
        return {"critiques": {"id": prompt.id, "rounds": rounds}, "revisions": record}

    def _dropped(self, prompt: Prompt, text: str, critiques: list[Critique]) -> str:
        if prompt.unsafe and not prompt.reference and not declines(text):
            return "unseen"  # the prompt's maker knows better than the judge: never train on help with it
        return reason_to_drop(text, critiques)

    def compare(self, prompt: Prompt, steps: dict[str, Journal]) -> dict[str, Record]:
        """The answer to be trained on against the model's first one, and against the answer to the prompt's twin."""
        own = steps["revisions"].done[prompt.id]
        target = _target(prompt, own)
        rivals = {"first": own["answer"]}
        twin = steps["prompts"].done.get(prompt.twin)
        if twin is not None:
            kept = steps["revisions"].done[prompt.twin]
            rivals["twin"] = twin.get("reference") or ("" if kept["dropped"] else kept["revision"])
        pairs = [
            {"a": target, "b": rival, "rival": name, **self._verdict(prompt, target, rival)}
            for name, rival in rivals.items()
            if target and rival and rival.strip() != target.strip()
        ]
        return {"comparisons": {"id": prompt.id, "pairs": pairs}}

    def _verdict(self, prompt: Prompt, a: str, b: str) -> Record:
        """The mean over drawn principles that apply to either answer; a hard constraint that tells them apart decides alone."""
        ids = {p.id for text in (a, b) for p in self.judge.applicable(self.constitution.principles, prompt, text)}
        fitting = [p for p in self.constitution.principles if p.id in ids]
        hard = [p for p in fitting if p.hard]
        drawn = hard + self._draw(
            [p for p in fitting if not p.hard], max(self.plan.compared - len(hard), 0), f"compare {prompt.id}"
        )
        each = {p.id: self.judge.compare(p, prompt, a, b) for p in drawn}
        deciding = [each[p.id] for p in hard if abs(each[p.id] - 0.5) > self.plan.margin] or list(each.values())
        return {"principles": each, "probability": sum(deciding) / len(deciding) if deciding else 0.5}

    def _draw(self, principles: Sequence[Principle], count: int, what: str) -> list[Principle]:
        """Up to `count` different ones, by their weights; the same for the same seed."""
        draw, left = random.Random(f"{self.plan.seed} {what}"), list(principles)
        drawn: list[Principle] = []
        while left and len(drawn) < count:
            drawn.append(draw.choices(left, [p.weight for p in left])[0])
            left.remove(drawn[-1])
        return drawn


def _target(prompt: Prompt, revision: Record) -> str:
    """What the model is to say: the known right answer, else its revision, "" if that is dropped."""
    return prompt.reference or ("" if revision["dropped"] else str(revision["revision"]))


def _outcome(prompt: Prompt, revision: Record) -> Outcome:
    return Outcome(prompt, revision["answer"], _target(prompt, revision), tuple(revision["principles"]), revision["dropped"])


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]


def _report(outcomes: Sequence[Outcome], rows: dict[str, list[Record]], counts: Record, critiques: Journal) -> dict[str, Any]:
    """Counts that a reader checks first: what was criticised, dropped, refused before and after, and how much of it is help."""
    broken = Counter(r["principle"] for c in critiques.done.values() for r in c["rounds"] if r["critique"])
    refused: dict[str, Any] = {}
    for name, unsafe in (("unsafe", True), ("benign", False)):
        those = [o for o in outcomes if o.prompt.unsafe is unsafe and o.prompt.category != "injection"]
        refused[name] = {"prompts": len(those), "before": sum(declines(o.first) for o in those),
                         "after": sum(declines(o.target) for o in those if o.target)}  # fmt: skip
    shown = sum(row["role"] == "helpful" for row in rows["sft"])
    return {
        "prompts": len(outcomes),
        "revised": sum(bool(o.principles) for o in outcomes),
        "critiques": dict(broken.most_common()),
        "dropped": dict(Counter(o.dropped for o in outcomes if o.dropped and not o.prompt.reference)),
        "refused": refused,
        "rows": counts,
        "helpful_share": round(shown / max(len(rows["sft"]), 1), 4),
    }
