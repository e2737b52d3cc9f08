"""Learning from rewards: groups of answers to one prompt, each judged against its group, with RLOO's or GRPO's baseline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from senryu.train.answers import AnswerRows, log_probs, of_all, pack_answers, sums
from senryu.train.checkpoint import Progress
from senryu.train.net import Net
from senryu.train.objective import Loss, Part
from senryu.train.pack import document_numbers, targets
from senryu.train.prompts import Task
from senryu.train.recipe import RlRecipe
from senryu.train.reward import RewardNet
from senryu.train.rewards import combine, overlength, read, repetition, score
from senryu.train.sampler import Sampled, draw
from senryu.train.vocabulary import END

REPLAYED = 4  # a batch's tokens over those of its replayed rows


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

    task: Task
    answers: list[Sampled]
    advantages: np.ndarray  # [answers]
    components: np.ndarray  # [answers, components], as they were given; nan where one does not judge


@dataclass
class Rollouts:
    """The objective: answers drawn from the net itself, more likely where they are better than their group's.

    Every `updates` steps the net answers the prompts of so many steps; each step then takes its share. All follows from the
    progress and the seed; only a run that is resumed between two rollouts answers anew. judge: a reward model, for
    the component `model`. replay: fine-tuning rows uint16 [n, length], whose loss is mixed in.
    """

    stage: RlRecipe
    tasks: Callable[[int, int], list[Task]]  # (first number, count) -> the prompts
    tokenizer: Tokenizer
    reference: Net
    seed: int
    judge: RewardNet | None = None
    replay: np.ndarray | None = None
    _ready: dict[int, list[Group]] = field(default_factory=dict)  # by step

    def batch(self, net: Net, progress: Progress, part: Part) -> list[Tensor]:
        """Rows of this process's answers (see `AnswerRows.tensors`); float32 log-probabilities of their tokens as drawn,
        advantages [answers], components [answers, components]; then, with replay, tokens, documents, targets, its weight."""
        stage = self.stage
        prompts = stage.batch_tokens // stage.sequence // stage.group
        if progress.step not in self._ready:
            steps = range(progress.step, progress.step + stage.updates - progress.step % stage.updates)
            self._ready = self._answer(net, steps, progress.row, prompts, part)
        groups = self._ready.pop(progress.step)
        replayed = self._replayed(progress, part)
        progress.row += prompts
        rows = pack_answers([[(g.task.prompt, a.ids)] for g in groups for a in g.answers], stage.sequence)
        drawn = _in_rows([a.log_probs for g in groups for a in g.answers], rows)
        judged = [np.concatenate([g.advantages for g in groups]), np.concatenate([g.components for g in groups])]
        return [*rows.tensors(slice(None)), drawn, *(torch.from_numpy(a.astype(np.float32)) for a in judged), *replayed]

    def _answer(self, net: Net, steps: range, row: int, prompts: int, part: Part) -> dict[int, list[Group]]:
        """Groups for the steps whose prompts begin at number `row`, answered in one go."""
        stage, mine = self.stage, part.of(prompts)
        numbers = [row + n * prompts + i for n in range(len(steps)) for i in range(prompts)[mine]]
        tasks = [self.tasks(number, 1)[0] for number in numbers]
        drawn = draw(
            net,
            [task.prompt for task in tasks for _ in range(stage.group)],
            max_tokens=stage.max_tokens,
            temperature=stage.temperature,
            seed=self.seed,
            stop_ids=(END,),
            numbers=[number * stage.group + i for number in numbers for i in range(stage.group)],
        )
        components = self._judge(tasks, drawn)
        shaped = {name: values.reshape(len(tasks), stage.group) for name, values in components.items()}
        gains = advantages(combine(shaped, self.weights()), stage.baseline)
        table = np.stack(list(shaped.values()), -1)
        groups = [
            Group(task, drawn[i * stage.group : (i + 1) * stage.group], gains[i], table[i]) for i, task in enumerate(tasks)
        ]
        share = len(groups) // len(steps)
        return {step: groups[n * share : (n + 1) * share] for n, step in enumerate(steps)}

    def weights(self) -> dict[str, float]:
        """What each component counts; penalties count against an answer."""
        stage = self.stage
        every = {"task": stage.task, "model": stage.model, "length": -stage.length, "repetition": -stage.repetition}
        return {name: weight for name, weight in every.items() if weight}

    def _judge(self, tasks: list[Task], answers: list[Sampled]) -> dict[str, np.ndarray]:
        """Every component [answers] that has a weight."""
        out = {name: np.full(len(answers), np.nan) for name in self.weights()}
        for i, answer in enumerate(answers):
            task = tasks[i // self.stage.group]
            if "task" in out and task.wanted is not None:
                out["task"][i] = score(task.check, read(answer.ids, self.tokenizer), task.wanted)
            if "length" in out:
                out["length"][i] = overlength(answer.ids, self.stage.max_tokens)
            if "repetition" in out:
                out["repetition"][i] = repetition(answer.ids)
        if "model" in out and self.judge is not None:
            asked = [[(tasks[i // self.stage.group].prompt, answer.ids)] for i, answer in enumerate(answers)]
            rows = pack_answers(asked, self.stage.sequence)
            at_once = self.stage.batch_tokens // self.stage.sequence
            out["model"] = of_all(self.judge, rows, at_once, lambda net, batch: net.scores(batch)).astype(float)
        return out

    def _replayed(self, progress: Progress, part: Part) -> list[Tensor]:
        """This process's replayed rows, and what their mean loss counts so that the processes' mean is that of all rows."""
        if self.replay is None or not self.stage.replay:
            return []
        count = max(1, self.stage.batch_tokens // REPLAYED // self.replay.shape[1])
        rows = self.replay[np.arange(progress.step * count, (progress.step + 1) * count) % len(self.replay)]
        wanted = targets(rows, assistant_only=True)
        mine = slice(part.rank, None, part.world)
        weight = self.stage.replay * part.world * (wanted[mine] >= 0).sum() / max((wanted >= 0).sum(), 1)
        parts = (rows[mine].astype(np.int64), document_numbers(rows[mine]), wanted[mine], np.float32(weight))
        return [torch.as_tensor(a) for a in parts]

    def loss(self, net: Net, batch: list[Tensor]) -> Loss:
        """Mean over answers. A token counts its advantage times the ratio to its probability as drawn, clipped if `updates` > 1
        (Schulman et al. 2017, arXiv 1707.06347), less `kl` times k3 to the reference (Schulman 2020, "Approximating KL
        divergence"); rloo divides an answer's sum by max_tokens, the same for all, grpo by its length."""
        stage = self.stage
        rows, (drawn, gains, components), replayed = batch[:4], batch[4:7], batch[7:]
        values, places = log_probs(net, rows, stage.temperature)
        with torch.no_grad():
            base, _ = log_probs(self.reference, rows, stage.temperature)
        count = len(gains)
        old = values.detach() if stage.updates == 1 else drawn
        ratio, gain = (values - old).exp(), gains[places]
        better = torch.minimum(ratio * gain, ratio.clamp(1 - stage.clip, 1 + stage.clip) * gain)
        kl = torch.expm1(base - values) - (base - values)
        lengths = sums(torch.ones_like(values), places, count)
        divisor = torch.full_like(lengths, stage.max_tokens) if stage.baseline == "rloo" else lengths
        total = (sums(stage.kl * kl - better, places, count) / divisor).mean()
        figures = {"kl": float(kl.detach().mean()), "length": float(lengths.mean())}
        weights = torch.tensor(list(self.weights().values()), device=gains.device)
        figures["reward"] = float((components.nan_to_num() * weights).sum(1).mean())
        for name, each in zip(self.weights(), components.unbind(1)):
            if not each.isnan().all():
                figures[f"reward_{name}"] = float(each.nanmean())
        if stage.updates > 1:
            figures["clipped"] = float(((ratio - 1).abs() > stage.clip).float().mean())
        if replayed and len(replayed[0]):
            tokens, document, wanted, weight = replayed
            replay, entropy = net.loss(tokens, document, wanted, stage.z_loss)
            total, figures["replay"] = total + weight * replay, float(entropy)
        return Loss(total, count, figures)


def _in_rows(values: list[list[float]], rows: AnswerRows) -> Tensor:
    """Values of each answer's tokens, float32 [n], in the order in which `log_probs` gives them."""
    owners = rows.owner[rows.targets >= 0]
    _, places = np.unique(owners, return_index=True)
    return torch.tensor([value for number in owners[np.sort(places)] for value in values[number]], dtype=torch.float32)
