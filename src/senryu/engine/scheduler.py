"""Decides which tokens the next step computes, and when a request may start. Knows pages, not K/V; single-threaded.

One rule: a sequence has computed tokens and wanted tokens, and every step lets computed chase wanted.

- Sequences that want one token (decode) are in every step, so nobody's stream waits for somebody's prompt.
- Rows for longer wants (prefill) are limited per step. Half of them go to the sequence that has waited longest, the
  rest to those with the least left: short prompts overtake long ones, and the longest waiting always advances.
- Of sequences that are about to compute the same page, one does and the others take it from the tree a step later.
- A request starts, in order of arrival, when all pages that it may ever need (prompt + max_tokens, less what it shares)
  can be promised beside those already promised. So a running sequence never fails to get a page, none is ever
  preempted, and there is no deadlock; who does not fit waits in the queue.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np

from senryu.engine.draft import Drafter
from senryu.engine.interface import EngineStats
from senryu.engine.pages import PagePool
from senryu.engine.prefix import Node, PrefixTree
from senryu.engine.sequence import Sequence


@dataclass(slots=True)
class Plan:
    """One step: rows[i] more tokens of sequences[i], the last samples[i] of which are sampled: none before a prompt's end,
    else the last known token's row and those of drafts. `prefill` counts the rows that are neither decoding nor drafts."""

    sequences: list[Sequence] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    samples: list[int] = field(default_factory=list)
    prefill: int = 0


class Scheduler:
    """Queue, running sequences and their pages. Call `plan`, compute it, then `commit` (or `fail`) before anything else."""

    def __init__(
        self,
        *,
        pages: int,
        page_size: int,
        max_rows: int,
        max_sequences: int,
        max_sampled: int,
        drafter: Drafter | None = None,
    ) -> None:
        """max_rows, max_sequences, max_sampled: what a step can carry. drafter: None for no drafts."""
        self.page_size = page_size
        self.max_rows = max_rows
        self.max_sampled = max_sampled
        self.drafter = drafter
        self.max_running = min(max_sequences, max_rows)  # every running sequence gets a row
        self.pool = PagePool(pages)
        self.tree = PrefixTree(self.pool, page_size)
        self.queue: deque[Sequence] = deque()
        self.running: list[Sequence] = []  # in order of arrival
        self.promised = 0  # pages that running sequences may still take
        self._blocked = False  # the queue's head did not fit and no page was given back since
        self._prompt_tokens = self._cached_tokens = self._output_tokens = self._steps = 0
        self._drafted = self._accepted = 0

    @property
    def busy(self) -> bool:
        return bool(self.running or self.queue)

    def add(self, sequence: Sequence) -> None:
        self.queue.append(sequence)

    def abort(self, sequence: Sequence) -> None:
        """Forget a sequence and free its pages; nothing happens when it has ended already."""
        if sequence in self.running:
            self._end(sequence)
        elif sequence in self.queue:
            self.queue.remove(sequence)
            self._blocked = False  # it may have been the head that did not fit

    def plan(self, prefill_rows: int) -> Plan:
        """The next step, with at most `prefill_rows` (>= 1) rows beside the decode rows; its pages are taken.

        Never empty while `busy`.
        """
        while self.queue and len(self.running) < self.max_running and self._admit(self.queue[0]):
            self.running.append(self.queue.popleft())
        plan = Plan()
        decoding: list[Sequence] = []
        waiting: list[Sequence] = []
        for sequence in self.running:
            (decoding if sequence.length - sequence.computed == 1 else waiting).append(sequence)
        if self.drafter:
            # everybody's next token comes first: no draft takes the row, or the place among the sampled, of another sequence
            self.drafter.draft(decoding, min(self.max_rows, self.max_sampled) - len(self.running))
        for sequence in decoding:
            self._grant(plan, sequence, 1 + sequence.drafted)
        if waiting:
            self._plan_prefill(plan, waiting, min(prefill_rows, self.max_rows - sum(plan.rows)))
        return plan

    def commit(self, plan: Plan, sampled: np.ndarray) -> list[tuple[Sequence, list[int]]]:
        """Take in a step's result: sampled [n], a token for each sampled row of the plan, in its order.

        Returns the sequences that have caught up with their new tokens, one and as many as it had right drafts; those with
        `finish` set have ended and hold nothing any more, and so has one whose grammar failed: its matcher has `error` set
        and it has no tokens here.
        """
        outputs = []
        drawn, start = sampled.tolist(), 0
        for sequence, rows, samples in zip(plan.sequences, plan.rows, plan.samples):
            if samples:
                tokens = self._accept(sequence, drawn[start : start + samples])
                outputs.append((sequence, tokens))
            else:
                sequence.computed += rows
            start += samples
            if sequence.computed >= (sequence.depth + 1) * self.page_size:
                self.tree.insert(sequence)
        self._steps += 1
        for sequence, _ in outputs:
            if sequence.finish or (sequence.matcher and sequence.matcher.error):
                self._end(sequence)
        return outputs

    def _accept(self, sequence: Sequence, drawn: list[int]) -> list[int]:
        matcher = sequence.matcher
        if matcher and matcher.error:  # what was drawn may be anything
            return []
        self._drafted += sequence.drafted
        tokens = sequence.accept(drawn)
        self._accepted += len(tokens) - 1
        self._output_tokens += len(tokens)
        if matcher and not sequence.finish:
            matcher.consume(tokens)
        if self.drafter:
            self.drafter.learn(sequence, tokens)
        return tokens

    def fail(self, plan: Plan) -> None:
        """The step of `plan` was not computed: its sequences end. Pages that it may have half written become free."""
        for sequence in plan.sequences:
            self._end(sequence)

    def clear(self) -> list[Sequence]:
        """End everything; returns what was queued or running."""
        ended = [*self.running, *self.queue]
        for sequence in ended:
            self.abort(sequence)
        return ended

    def stats(self) -> EngineStats:
        return EngineStats(
            queued=len(self.queue),
            running=len(self.running),
            pages_total=self.pool.total,
            pages_free=len(self.pool.free),
            pages_cached=len(self.pool.cached),
            pages_live=self.pool.live,
            prompt_tokens=self._prompt_tokens,
            cached_tokens=self._cached_tokens,
            output_tokens=self._output_tokens,
            steps=self._steps,
            drafted=self._drafted,
            accepted=self._accepted,
        )

    def _admit(self, sequence: Sequence) -> bool:
        """Hold the pages that `sequence` shares and promise it the others, or leave it as it was."""
        if self._blocked:
            return False
        self.tree.adopt(sequence)
        fresh = sequence.need - sequence.held
        if self.promised + fresh > self.pool.available:
            self.tree.release(sequence)
            sequence.computed = sequence.cached = 0
            self._blocked = True
            return False
        self.promised += fresh
        self._prompt_tokens += sequence.prompt
        self._cached_tokens += sequence.cached
        return True

    def _plan_prefill(self, plan: Plan, waiting: list[Sequence], budget: int) -> None:
        decode = sum(plan.rows)
        for sequence in waiting:
            adopted = self.tree.adopt(sequence)
            self.promised -= adopted
            self._cached_tokens += adopted * self.page_size
        oldest = waiting[0]
        others = sorted(waiting[1:], key=lambda sequence: sequence.length - sequence.computed)
        claimed: set[tuple[Node | None, bytes]] = set()
        first = min(oldest.length - oldest.computed, (budget + 1) // 2 if others else budget)
        left = budget - first
        self._claim(oldest, claimed)
        grants = []
        for sequence in others:
            if left and self._claim(sequence, claimed):
                rows = min(left, sequence.length - sequence.computed)
                grants.append((sequence, rows))
                left -= rows
        self._grant(plan, oldest, min(oldest.length - oldest.computed, first + left))
        for sequence, rows in grants:
            self._grant(plan, sequence, rows)
        plan.prefill = sum(plan.rows) - decode

    def _claim(self, sequence: Sequence, claimed: set[tuple[Node | None, bytes]]) -> bool:
        """False when another sequence of this step is computing the page that this one needs next and could share."""
        page = sequence.computed // self.page_size
        if (page + 1) * self.page_size > sequence.length:
            return True  # this page will not be full soon: it is nobody else's
        claim = (sequence.node, sequence.key(page))
        if claim in claimed and self.tree.next_page(sequence) is not None:
            return False
        claimed.add(claim)
        return True

    def _grant(self, plan: Plan, sequence: Sequence, rows: int) -> None:
        while sequence.held * self.page_size < sequence.computed + rows:
            self.tree.take(sequence)
            self.promised -= 1
        plan.sequences.append(sequence)
        plan.rows.append(rows)
        plan.samples.append(1 + sequence.drafted if sequence.computed + rows >= sequence.length else 0)

    def _end(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self.promised -= sequence.need - sequence.held
        self.tree.release(sequence)
        self._blocked = False

    def check(self) -> None:
        """Raises AssertionError unless the page accounting is exact. O(pages): for tests, after every step."""
        refs = [0] * self.pool.total
        for sequence in self.running:
            pages = sequence.pages[: sequence.held].tolist()
            assert len(set(pages)) == len(pages), "a sequence holds a page twice"
            assert len(pages) * self.page_size >= sequence.computed, "computed tokens have no page"
            for page in pages:
                refs[page] += 1
            node = sequence.node or self.tree.root
            for i in range(sequence.depth - 1, -1, -1):
                assert (node.page, node.key) == (pages[i], sequence.key(i)), "a sequence left its path in the tree"
                node = node.parent or self.tree.root
            assert node is self.tree.root, "a sequence's path does not start at the root"
        self.pool.check(refs, self.tree.check())
        assert self.promised == sum(sequence.need - sequence.held for sequence in self.running), "promises differ"
        assert 0 <= self.promised <= self.pool.available, "more pages are promised than there are"
        assert all(not sequence.held for sequence in self.queue), "a queued sequence holds pages"

    def check_idle(self) -> None:
        """The constant-time part of `check` for when nothing runs: nothing may be live or promised."""
        if self.pool.live or self.promised:
            raise AssertionError(f"{self.pool.live} pages live and {self.promised} promised while nothing runs")
