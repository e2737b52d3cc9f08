"""The constitutional stage of a run's folder: the net answers, a judge criticises and revises, the revisions are trained on.

RUN/constitutional gets what every step made, as JSON lines (`constitution/pipeline.py`): the stage's mix names
constitutional/sft.jsonl, or control/sft.jsonl below it for the shuffled control, and preference stages preference.jsonl.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from senryu.train import chat
from senryu.train.constitution import document, pipeline, prompts
from senryu.train.constitution.build import JUDGES, build_judge
from senryu.train.constitution.endpoint import Endpoint
from senryu.train.constitution.judge import Prompt
from senryu.train.constitution.scoring import scorer
from senryu.train.net import Net
from senryu.train.recipe import RecipeError, build
from senryu.train.run import Run
from senryu.train.sampler import sample
from senryu.train.vocabulary import END


@dataclass(frozen=True)
class ConstitutionalOptions:
    """What the stage has beside the keys of all stages: the table [constitutional.options].

    constitution, asked: files of principles (.toml or .md) and of prompts (JSON lines), from the folder of the data; by default
    ours, and `pairs` pairs of unsafe requests and benign twins. judge: rules, self or endpoint: the server at the address
    `endpoint` with its `model`. rounds, compared, margin, helpful: of `pipeline.Plan`. max_tokens, temperature: of the answers.
    """

    constitution: str = ""
    asked: str = ""
    pairs: int = 1500
    judge: str = "rules"
    endpoint: str = ""
    model: str = ""
    rounds: int = 2
    compared: int = 3
    margin: float = 0.1
    helpful: float = 0.6
    max_tokens: int = 96
    temperature: float = 0.7

    def __post_init__(self) -> None:
        if self.judge not in JUDGES:
            raise RecipeError(f"[constitutional.options]: judge `{self.judge}` is unknown; use one of {', '.join(JUDGES)}")
        if self.judge == "endpoint" and not (self.endpoint and self.model):
            raise RecipeError("[constitutional.options]: the judge endpoint needs `endpoint`, an address, and `model`")
        if self.pairs < 1 or self.max_tokens < 1 or self.temperature < 0:
            raise RecipeError("[constitutional.options]: pairs and max_tokens must be 1 or more, temperature not negative")
        self.plan(0)

    def plan(self, seed: int) -> pipeline.Plan:
        """Raises RecipeError for values that cannot be."""
        at_once = 8 if self.judge == "endpoint" else 1
        return pipeline.Plan(seed, self.rounds, self.compared, self.margin, self.helpful, at_once=at_once)


def make_data(run: Run, net: Net, key: str = "") -> dict[str, Any]:
    """All steps of the pipeline with answers of `net`, into RUN/constitutional; goes on where it was stopped. The report.

    key: of the endpoint. Raises RecipeError (ConstitutionError among them).
    """
    options: ConstitutionalOptions = build(
        ConstitutionalOptions, run.stage("constitutional").options, "[constitutional.options]"
    )
    seed, device, tokenizer = run.recipe.seed, run.options.device, run.tokenizer()
    constitution = document.load(run.data / options.constitution if options.constitution else document.OURS)
    asked = prompts.read(run.data / options.asked) if options.asked else prompts.generated(seed, options.pairs)
    net.to(device.name).eval()

    def answer(batch: Sequence[Prompt]) -> list[str]:
        ids = [tokenizer.encode(_rendered(prompt), add_special_tokens=False).ids for prompt in batch]
        limits: dict[str, Any] = {"max_tokens": options.max_tokens, "temperature": options.temperature}
        said = sample(net, ids, seed=seed, stop_ids=(END,), at_once=len(ids) if device.kind == "cuda" else 64, **limits)
        return [tokenizer.decode(ids, skip_special_tokens=True) for ids in said]

    endpoint = Endpoint(options.endpoint, options.model, key) if options.judge == "endpoint" else None
    with device.autocast():
        judge = build_judge(options.judge, constitution, seed, asked, endpoint=endpoint, score=scorer(net, tokenizer))
        folder = run.out / "constitutional"
        return pipeline.make(constitution, judge, asked, answer, options.plan(seed), folder, run.prepared)


def _rendered(prompt: Prompt) -> str:
    row = {**prompt.row(""), "messages": list(prompt.messages)}
    return chat.render(chat.to_messages(row), chat.to_tools(row), answer=True)


def measure(run: Run, net: Net) -> dict[str, Any]:
    """The pipeline's report, for the summary."""
    return {"constitution": json.loads((run.out / "constitutional" / "report.json").read_text(encoding="utf8"))}
