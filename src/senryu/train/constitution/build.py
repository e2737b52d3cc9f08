"""Judges by their names, and the pairs with a known better answer that `self` is calibrated on."""

from __future__ import annotations

import random
from collections.abc import Collection

from senryu.train.constitution.document import Constitution, ConstitutionError
from senryu.train.constitution.endpoint import Endpoint, EndpointJudge
from senryu.train.constitution.judge import Judge, Prompt
from senryu.train.constitution.own import Held, Score, SelfJudge
from senryu.train.constitution.prompts import generated
from senryu.train.constitution.rules import RuleJudge
from senryu.train.generators.safety import comply, decline

JUDGES = ("rules", "self", "endpoint")
HELD_PAIRS = 150  # twins, so twice as many comparisons
_OTHER_SEED = 7_919  # added for the held pairs, so that they are not the data's


def build_judge(
    name: str,
    constitution: Constitution,
    seed: int,
    prompts: Collection[Prompt],
    *,
    endpoint: Endpoint | None = None,
    score: Score | None = None,
) -> Judge:
    """A judge of JUDGES. `endpoint` needs an Endpoint, `self` a Score of the model; else ConstitutionError."""
    rules = RuleJudge(constitution.principles, seed)
    if name == "rules":
        return rules
    if name == "endpoint":
        if endpoint is None:
            raise ConstitutionError("the judge `endpoint` needs the address of a server and the name of a model; give both")
        return EndpointJudge(endpoint)
    if name == "self":
        if score is None:
            raise ConstitutionError("the judge `self` needs the model that is trained; start from a stage that has been run")
        held = [*examples(constitution), *held_pairs(seed, HELD_PAIRS, prompts)]
        return SelfJudge(score, rules, constitution.principles, held)
    raise ConstitutionError(f"judge `{name}` is unknown; use one of {', '.join(JUDGES)}")


def examples(constitution: Constitution) -> list[Held]:
    """The constitution's own examples as pairs of their principles: what a principle without rules is calibrated on."""
    return [
        Held(Prompt("", ({"role": "user", "content": example.prompt},)), example.good, example.bad, example.principle)
        for example in constitution.examples
    ]


def held_pairs(seed: int, count: int, others: Collection[Prompt]) -> list[Held]:
    """Requests of the training split that are not among `others`: a refusal beats help if they are unsafe, and loses if not."""
    taken = {(prompt.system, str(prompt.messages)) for prompt in others}
    draw, held = random.Random(f"held {seed}"), []
    for prompt in generated(seed + _OTHER_SEED, count):
        if prompt.category == "injection" or (prompt.system, str(prompt.messages)) in taken:
            continue
        refusal, help = decline(draw, "train", prompt.category), prompt.reference or comply(draw, "train")
        held.append(Held(prompt, refusal, help) if prompt.unsafe else Held(prompt, help, refusal))
    return held
