"""Helpers of the engine's tests: run a scheduler step by step, and read a stream to its end."""

from __future__ import annotations

from senryu.engine.fake import FakeProgram
from senryu.engine.interface import Sampling, TokenRequest
from senryu.engine.scheduler import Scheduler
from senryu.engine.sequence import Sequence
from senryu.engine.step import BatchFiller, Runner


class Bench:
    """A scheduler over a program without a thread: every step is asked for, and checked after."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.scheduler = Scheduler(
            pages=runner.pages, page_size=runner.page_size, max_rows=runner.max_rows, max_sequences=runner.max_sequences
        )
        self.filler = BatchFiller(max_rows=runner.max_rows, max_sequences=runner.max_sequences, max_pages=runner.pages)
        self.outputs: dict[Sequence, list[int]] = {}

    def add(self, request: TokenRequest) -> Sequence:
        sequence = Sequence(request, self.runner.page_size)
        self.scheduler.add(sequence)
        self.outputs[sequence] = []
        return sequence

    def step(self, prefill_rows: int = 64) -> list[tuple[Sequence, int]]:
        """One step; returns who got which token."""
        plan = self.scheduler.plan(prefill_rows)
        assert bool(plan.rows) == self.scheduler.busy
        if not plan.rows:
            return []
        self.scheduler.check()
        outputs = self.scheduler.commit(plan, self.runner.step(self.filler.fill(plan)))
        self.scheduler.check()
        for sequence, token in outputs:
            self.outputs[sequence].append(token)
        return outputs

    def finish(self, prefill_rows: int = 64) -> None:
        while self.scheduler.busy:
            self.step(prefill_rows)


def request(ids, max_tokens=8, *, seed=None, stop=(), salt=b"") -> TokenRequest:
    """Greedy without a seed."""
    sampling = Sampling(temperature=0.0) if seed is None else Sampling(temperature=1.0, seed=seed)
    return TokenRequest(tuple(ids), max_tokens, sampling, frozenset(stop), salt)


def solo(wanted: TokenRequest, **options) -> list[int]:
    """What a request answers alone on a fresh pool, its prompt computed in one step."""
    pages = (len(wanted.ids) + wanted.max_tokens) // FakeProgram.page_size + 1
    bench = Bench(FakeProgram(pages=pages, max_rows=len(wanted.ids) + 1, **options))
    sequence = bench.add(wanted)
    bench.finish(len(wanted.ids))
    return bench.outputs[sequence]
