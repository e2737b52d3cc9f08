"""Helpers of the engine's tests: run a scheduler step by step, and what a request answers when it is alone."""

from __future__ import annotations

import random
import zlib
from dataclasses import replace

from senryu.engine.draft import Drafter
from senryu.engine.fake import FakeProgram
from senryu.engine.interface import Sampling, TokenRequest
from senryu.engine.scheduler import Scheduler
from senryu.engine.sequence import Sequence
from senryu.engine.step import BatchFiller, Runner


class Bench:
    """A scheduler over a program without a thread: every step is asked for, and checked before and after."""

    def __init__(self, runner: Runner, *, pages: int | None = None, **options) -> None:
        """pages: how many of the program's pages may be used; all by default. options: the scheduler's."""
        self.runner = runner
        pages = runner.pages if pages is None else pages
        limits = {name: getattr(runner, name) for name in ("max_rows", "max_sequences", "max_sampled")}
        self.scheduler = Scheduler(pages=pages, page_size=runner.page_size, store=runner, **limits, **options)
        self.filler = BatchFiller(max_pages=pages, vocab=runner.spec.vocab, **limits)
        self.expired: list[Sequence] = []
        self.outputs: dict[Sequence, list[int]] = {}
        self.proofs: dict[Sequence, list[int]] = {}  # a checksum of the logits that each token was drawn from

    def add(self, request: TokenRequest) -> Sequence:
        sequence = Sequence(request, self.runner.page_size)
        self.scheduler.add(sequence)
        self.outputs[sequence], self.proofs[sequence] = [], []
        return sequence

    def step(self, prefill_rows: int = 64) -> list[tuple[Sequence, list[int]]]:
        """One step; returns who got which tokens."""
        plan = self.scheduler.plan(prefill_rows)
        self.scheduler.check()
        self.expired += plan.expired
        if not plan.rows:
            assert self.restoring() or not self.scheduler.busy
            return []
        sampled = self.runner.step(self.filler.fill(plan))
        # the numpy path, for CPUs without compiled kernels, promises the last bits of its logits no more than BLAS does
        logits = self.runner.logits if getattr(self.runner, "kernels", "numpy") not in ("numpy", "fp32") else None
        outputs = self.scheduler.commit(plan, sampled)
        self.scheduler.check()
        starts = [sum(plan.samples[:i]) for i, samples in enumerate(plan.samples) if samples]
        for start, (sequence, tokens) in zip(starts, outputs, strict=True):
            self.outputs[sequence] += tokens
            for i, token in enumerate(tokens, start):
                self.proofs[sequence].append(token if logits is None else zlib.crc32(logits[i].tobytes()))
        return outputs

    def restoring(self) -> bool:
        """Whether all that runs waits for pages from disk."""
        tree = self.scheduler.tree
        names = [(one.node or tree.root, tree.next_page(one)) for one in self.scheduler.running]
        return bool(names) and all(name and tree.spill.known(node.digest_below(name)) for node, name in names)

    def finish(self, prefill_rows: int = 64) -> None:
        while self.scheduler.busy:
            self.step(prefill_rows)

    def answer(self, sequence: Sequence) -> tuple[list[int], list[int]]:
        """Tokens, and checksums of their logits."""
        return self.outputs[sequence], self.proofs[sequence]


class Oracle(Drafter):
    """Drafts up to ten tokens for each sequence: its true answer, in which some tokens are wrong."""

    def __init__(self, truth: dict[tuple[int, ...], list[int]], vocab: int, seed: int = 0, error_rate: float = 0.2) -> None:
        """truth: prompt -> answer; other prompts get random drafts."""
        super().__init__()
        self.truth, self.vocab, self.error_rate = truth, vocab, error_rate
        self.random = random.Random(seed)

    def draft(self, sequences, room: int) -> None:
        for sequence in sequences:
            ids = tuple(sequence.tokens[: sequence.prompt].tolist())
            answer = self.truth.get(ids, [self.random.randrange(self.vocab) for _ in range(sequence.length + 10)])
            drafts = [
                self.random.randrange(self.vocab) if self.random.random() < self.error_rate else token
                for token in answer[sequence.length - sequence.prompt :]
            ]
            most = min(self.random.randint(0, 10), room, len(sequence.tokens) - sequence.length - 1, len(drafts))
            sequence.propose(drafts[:most], range(most + 1))
            room -= most


def request(ids, max_tokens=8, *, seed=None, stop=(), salt=b"", **more) -> TokenRequest:
    """Greedy without a seed."""
    sampling = Sampling(temperature=0.0) if seed is None else Sampling(temperature=1.0, top_p=0.95, seed=seed)
    return TokenRequest(tuple(ids), max_tokens, sampling, frozenset(stop), salt, **more)


def solo(wanted: TokenRequest) -> list[int]:
    """What the fake answers to a request alone on a fresh pool, its prompt computed in one step."""
    pages = (len(wanted.ids) + wanted.max_tokens) // FakeProgram.page_size + 1
    bench = Bench(FakeProgram(pages=pages, max_rows=len(wanted.ids) + 1))
    sequence = bench.add(replace(wanted, deadline=None))
    bench.finish(len(wanted.ids))
    return bench.outputs[sequence]
