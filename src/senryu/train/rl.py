"""Learning from rewards: groups of answers to one prompt, each judged against its group, with RLOO's or GRPO's baseline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from senryu.train.answers import AnswerRows, log_probs, pack_answers, sums
from senryu.train.checkpoint import Progress
from senryu.train.net import Net
from senryu.train.objective import Loss, Part
from senryu.train.pack import IGNORED, document_numbers, targets
from senryu.train.recipe import RecipeError, StageRecipe
from senryu.train.rewards import Rewards, Task, combine
from senryu.train.sampler import Sampled, draw
from senryu.train.vocabulary import END

REPLAYED = 4  # a batch's tokens over those of its replayed rows


@dataclass(frozen=True)
class RlOptions:
    """What the stage has beside the keys of all stages: the table [rl.options]. A step has batch_tokens / sequence answers.

    task, model, length, repetition: weights of what code can check, of the reward model, of penalties (`rewards.py`).
    """

    baseline: str = "rloo"  # or "grpo"
    group: int = 8  # answers to one prompt
    max_tokens: int = 128  # of an answer
    temperature: float = 1.0
    kl: float = 0.03  # how dear it is to move away from the reference
    updates: int = 1  # steps between two rollouts
    clip: float = 0.2  # of probability ratios, where updates > 1
    replay: float = 0.1  # weight of the loss of fine-tuning rows
    task: float = 1.0
    model: float = 0.0
    length: float = 0.1
    repetition: float = 0.2

    def __post_init__(self) -> None:
        if self.baseline not in ("rloo", "grpo"):
            raise RecipeError(f'[rl.options]: baseline = "{self.baseline}" is unknown; use rloo or grpo')
        if self.group < 2 or self.max_tokens < 1 or self.updates < 1 or self.temperature <= 0 or not 0 < self.clip < 1:
            raise RecipeError(
                "[rl.options]: group must be at least 2, max_tokens and updates 1, temperature above 0, clip in (0, 1)"
            )
        rewards = (self.task, self.model, self.length, self.repetition)
        if min(*rewards, self.kl, self.replay) < 0 or not any(rewards):
            raise RecipeError("[rl.options]: weights must not be negative, and one of task, model, length, repetition above 0")

    @property
    def weights(self) -> dict[str, float]:
        """What each component counts; penalties count against an answer."""
        every = {"task": self.task, "model": self.model, "length": -self.length, "repetition": -self.repetition}
        return {name: weight for name, weight in every.items() if weight}

    def prompts(self, stage: StageRecipe) -> int:
        """Prompts of a step. Raises RecipeError where groups do not fill it, or prompts have no room."""
        answers = stage.batch_tokens // stage.sequence
        if answers % self.group or self.max_tokens >= stage.sequence:
            raise RecipeError(
                f"[rl]: group = {self.group} must divide the {answers} answers of a step (batch_tokens / sequence), and "
                f"max_tokens = {self.max_tokens} leave room for a prompt in sequence = {stage.sequence}; change one of them"
            )
        return answers // self.group


def advantages(rewards: np.ndarray, baseline: str) -> np.ndarray:
    """How much better than its group each answer is, rewards [groups, answers].

    rloo: less the mean of the others (Ahmadian et al. 2024, arXiv 2402.14740). grpo: less the group's mean, over its deviation
    (Shao et al. 2024, arXiv 2402.03300).
    """
    centred = rewards - rewards.mean(1, keepdims=True)
    if baseline == "rloo":
        return centred * (rewards.shape[1] / (rewards.shape[1] - 1))
    return centred / (rewards.std(1, keepdims=True) + 1e-4)


@dataclass
class Group:
    """The answers to one prompt."""

    prompt: list[int]
    answers: list[Sampled]
    advantages: np.ndarray  # [answers]
    components: np.ndarray  # [answers, components], as they were given; nan where one does not judge


@dataclass
class Rollouts:
    """The objective: answers drawn from the net itself, more likely where they are better than their group's.

    Every `updates` steps the net answers the prompts of so many steps; each step then takes its share. All follows from the
    progress and the seed; only a run that is resumed between two rollouts answers anew. rewards: with the options' weights.
    replay: fine-tuning rows uint16 [n, length], whose loss is mixed in.
    """

    stage: StageRecipe
    options: RlOptions
    tasks: Callable[[int, int], list[Task]]  # (first number, count) -> the prompts
    rewards: Rewards
    reference: Net
    seed: int
    replay: np.ndarray | None = None
    _ready: dict[int, list[Group]] = field(default_factory=dict)  # by step

    def batch(self, net: Net, progress: Progress, part: Part) -> list[Tensor]:
        """Rows of this process's answers (see `AnswerRows.tensors`); float32 log-probabilities of their tokens as drawn,
        advantages [answers], components [answers, components]; then, with replay, tokens, documents, targets, its weight."""
        stage, options = self.stage, self.options
        self.reference.to(net.model.norm.weight.device)  # where the loop has taken the net
        prompts = options.prompts(stage)
        if progress.step not in self._ready:
            steps = range(progress.step, progress.step + options.updates - progress.step % options.updates)
            self._ready = self._answer(net, steps, progress.row, prompts, part)
        groups = self._ready.pop(progress.step)
        replayed = self._replayed(progress, part)
        progress.row += prompts
        rows = pack_answers([[(g.prompt, a.ids)] for g in groups for a in g.answers], stage.sequence)
        drawn = _in_rows([a.log_probs for g in groups for a in g.answers], rows)
        judged = [np.concatenate([g.advantages for g in groups]), np.concatenate([g.components for g in groups])]
        return [*rows.tensors(slice(None)), drawn, *(torch.from_numpy(a.astype(np.float32)) for a in judged), *replayed]

    def _answer(self, net: Net, steps: range, row: int, prompts: int, part: Part) -> dict[int, list[Group]]:
        """Groups for the steps whose prompts begin at number `row`, answered in one go."""
        options = self.options
        numbers = [row + n * prompts + i for n in range(len(steps)) for i in range(prompts)[part.of(prompts)]]
        tasks = [task for number in numbers for task in self.tasks(number, 1) * options.group]
        drawn = draw(
            net,
            [task.prompt for task in tasks],
            max_tokens=options.max_tokens,
            temperature=options.temperature,
            seed=self.seed,
            stop_ids=(END,),
            numbers=[number * options.group + i for number in numbers for i in range(options.group)],
        )
        components = self.rewards.components(tasks, [answer.ids for answer in drawn])
        shaped = {name: values.reshape(-1, options.group) for name, values in components.items()}
        gains = advantages(combine(shaped, options.weights), options.baseline)
        table = np.stack(list(shaped.values()), -1)
        parts = [slice(i * options.group, (i + 1) * options.group) for i in range(len(gains))]
        groups = [Group(tasks[p.start].prompt, drawn[p], *worth) for p, *worth in zip(parts, gains, table)]
        share = len(groups) // len(steps)
        return {step: groups[n * share : (n + 1) * share] for n, step in enumerate(steps)}

    def _replayed(self, progress: Progress, part: Part) -> list[Tensor]:
        """This process's replayed rows, and what their mean loss counts so that the processes' mean is that of all rows."""
        if self.replay is None or not self.options.replay:
            return []
        count = max(1, self.stage.batch_tokens // REPLAYED // self.replay.shape[1])
        rows = self.replay[np.arange(progress.step * count, (progress.step + 1) * count) % len(self.replay)]
        wanted = targets(rows, assistant_only=True)
        mine = np.arange(part.rank, max(count, part.world), part.world)
        own, said = rows[mine % count], np.where(mine[:, None] < count, wanted[mine % count], IGNORED)
        weight = self.options.replay * part.world * (said >= 0).sum() / max((wanted >= 0).sum(), 1)
        return [torch.as_tensor(a) for a in (own.astype(np.int64), document_numbers(own), said, np.float32(weight))]

    def loss(self, net: Net, batch: list[Tensor]) -> Loss:
        """Mean over answers. A token counts its advantage times the ratio to its probability as drawn, clipped if `updates` > 1
        (Schulman et al. 2017, arXiv 1707.06347), less `kl` times k3 to the reference (Schulman 2020, "Approximating KL
        divergence"); rloo divides an answer's sum by max_tokens, the same for all, grpo by its length."""
        options = self.options
        rows, (drawn, gains, components), replayed = batch[:4], batch[4:7], batch[7:]
        values, places = log_probs(net, rows, options.temperature)
        with torch.no_grad():
            base, _ = log_probs(self.reference, rows, options.temperature)
        count = len(gains)
        old = values.detach() if options.updates == 1 else drawn
        ratio, gain = (values - old).exp(), gains[places]
        better = torch.minimum(ratio * gain, ratio.clamp(1 - options.clip, 1 + options.clip) * gain)
        kl = torch.expm1(base - values) - (base - values)
        lengths = sums(torch.ones_like(values), places, count)
        divisor = torch.full_like(lengths, options.max_tokens) if options.baseline == "rloo" else lengths
        total = (sums(options.kl * kl - better, places, count) / divisor).mean()
        figures = {"kl": float(kl.detach().mean()), "length": float(lengths.mean())}
        weights = torch.tensor(list(options.weights.values()), device=gains.device)
        figures["reward"] = float((components.nan_to_num() @ weights).mean())
        for name, each in zip(options.weights, components.nan_to_num().unbind(1)):
            figures[f"reward_{name}"] = float(each.mean())
        figures["judged"] = float((~components.isnan()).all(1).float().mean())  # by all; else a component counts as 0
        if options.updates > 1:
            figures["clipped"] = float(((ratio - 1).abs() > options.clip).float().mean())
        if replayed:
            tokens, document, wanted, weight = replayed
            replay, entropy = net.loss(tokens, document, wanted, self.stage.z_loss)
            total, figures["replay"] = total + weight * replay, float(entropy * weight / options.replay)
        return Loss(total, count, figures)


def _in_rows(values: list[list[float]], rows: AnswerRows) -> Tensor:
    """Values of each answer's tokens, float32 [n], in the order in which `log_probs` gives them."""
    owners = rows.owner[rows.targets >= 0]
    _, places = np.unique(owners, return_index=True)
    return torch.tensor([value for number in owners[np.sort(places)] for value in values[number]], dtype=torch.float32)
