"""Decides which tokens the next step computes, and when a request may start. Knows pages, not K/V; single-threaded.

One rule: a sequence has computed tokens and wanted tokens, and every step lets computed chase wanted.

- Sequences that want one token (decode) are in every step, so nobody's stream waits for somebody's prompt.
- Work on longer wants (prefill) is limited per step. Half of it goes to the sequence that has waited longest, of the tenant
  that has had least; the rest to those with the least left, tenants with less before others: short prompts overtake long
  ones, and the longest waiting always advances. Batch requests get what interactive ones leave, at most a quarter while
  any of those runs.
- Of sequences that are about to compute the same page, one does and the others take it from the tree a step later.
- A sequence whose next page is on disk waits for it, without rows; a step reads back a bounded number of bytes.
- A request starts, in the order of `Queue.head`, when all pages that it may ever need (prompt + max_tokens, less what it
  shares) can be promised beside those already promised. So a running sequence never fails to get a page, and there is no
  deadlock; who does not fit waits in the queue, and of its priority nobody passes.
- An interactive request that would fit without the batch requests pauses as many of them as it needs, the last started
  first. Nothing else is ever preempted.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from time import monotonic

import numpy as np

from senryu.engine.admission import Deadlines, Queue, Shares
from senryu.engine.draft import Drafter
from senryu.engine.interface import EngineStats, Priority
from senryu.engine.node import Node
from senryu.engine.pages import PagePool
from senryu.engine.prefix import PageStore, PrefixTree
from senryu.engine.sequence import Sequence
from senryu.engine.spill import Spill

RESTORE_BYTES = 16 << 20  # read back from disk in one step; about 10 ms
SAVE_BYTES = 4 << 20  # of pinned pages copied for the disk in one step; about 1 ms
BATCH_SHARE = 4  # beside interactive requests, batch prefill gets one part of so many


@dataclass(slots=True)
class Plan:
    """One step: rows[i] more tokens of sequences[i], of which samples[i] are sampled: none before a prompt's end, else the
    sequence's `sampled`. `prefill` counts the rows that are neither decoding nor drafts.

    work: the prefill rows weighed by their depth, see `Scheduler`. full: somebody wanted more work than the step had.
    expired: sequences that have ended because their deadline has passed. started: sequences with breakpoints that get their
    first rows, each with the tokens that need none.
    """

    sequences: list[Sequence] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    samples: list[int] = field(default_factory=list)
    prefill: int = 0
    work: float = 0.0
    full: bool = False
    expired: list[Sequence] = field(default_factory=list)
    started: list[tuple[Sequence, int]] = field(default_factory=list)


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
        store: PageStore,
        drafter: Drafter | None = None,
        spill: Spill | None = None,
        deep: float = math.inf,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """
        max_rows, max_sequences, max_sampled: what a step can carry. drafter: None for no drafts.
        deep: the depth in tokens at which computing a row costs double; a row at depth d counts as 1 + d / deep.
        spill: where evicted pages go; closed by `close`. clock: seconds, for deadlines and pins.
        """
        self.page_size = page_size
        self.max_rows = max_rows
        self.max_sampled = max_sampled
        self.drafter = drafter
        self.max_running = min(max_sequences, max_rows)  # every running sequence gets a row
        self.pool = PagePool(pages)
        self.tree = PrefixTree(self.pool, page_size, store, spill=spill, deep=deep, clock=clock)
        self.shares = Shares()
        self.queue = Queue(self.shares)
        self.running: list[Sequence] = []  # in the order in which they started
        self.promised = 0  # pages that running sequences may still take
        self._spill = spill
        self._deep = deep
        self._clock = clock
        self._deadlines = Deadlines()
        self._blocked: dict[Priority, Sequence] = {}  # who did not fit, and nothing was given back since
        self._prompt_tokens = self._cached_tokens = self._output_tokens = self._restored_tokens = self._steps = 0
        self._drafted = self._accepted = 0

    @property
    def busy(self) -> bool:
        return bool(self.running or self.queue)

    def add(self, sequence: Sequence) -> None:
        self.shares.enter(sequence.salt)
        self.queue.add(sequence)
        self._deadlines.add(sequence)

    def abort(self, sequence: Sequence) -> None:
        """Forget a sequence and free its pages; nothing happens when it has ended already."""
        if sequence in self.running:
            self._end(sequence)
        elif sequence in self.queue:
            self.queue.remove(sequence)
            self._forget(sequence)

    def plan(self, prefill_rows: float) -> Plan:
        """The next step, with work for at most `prefill_rows` (>= 1) rows beside the decode rows; its pages are taken.

        Without rows when there is nothing to compute: all that runs waits for pages from disk, and there are more of them
        to read in the next step; or the deadlines of all have passed.
        """
        self.tree.expire()
        plan = Plan(expired=self._deadlines.due(self._clock))
        for sequence in plan.expired:
            self.abort(sequence)
        self.save_pinned()
        if self.queue:
            self._start("interactive")
            self._start("batch")
        decoding: list[Sequence] = []
        waiting: dict[Priority, list[Sequence]] = {"interactive": [], "batch": []}
        most = max(1, RESTORE_BYTES // self._spill.page_bytes) if self._spill else 0
        for sequence in self.running:
            if sequence.length - sequence.computed == 1:
                decoding.append(sequence)
                continue
            restored, more = self._catch_up(sequence, most)
            most -= restored
            if not more:
                waiting[sequence.priority].append(sequence)
        if self.drafter:
            # everybody's next token comes first: no draft takes the row, or the place among the sampled, of another sequence
            self.drafter.draft(decoding, min(self.max_rows, self.max_sampled) - len(self.running))
        for sequence in decoding:
            self._grant(plan, sequence, 1 + sequence.drafted)
        if waiting["interactive"] or waiting["batch"]:
            self._plan_prefill(plan, waiting, prefill_rows)
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

    def save_pinned(self, patience: float = 0.0) -> bool:
        """Write a few pinned pages to disk; see `PrefixTree.save_pinned`. `plan` does so by itself; this is for idle times."""
        return self._spill is not None and self.tree.save_pinned(max(1, SAVE_BYTES // self._spill.page_bytes), patience)

    def close(self, *, save: bool) -> None:
        """Let go of the files on disk. save: first write there what is cached, for the next start."""
        if save:
            self.tree.save()
        if self._spill is not None:
            self._spill.close()

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
            pages_pinned=self.tree.pins.pages,
            pages_on_disk=len(self._spill) if self._spill is not None else 0,
            restored_tokens=self._restored_tokens,
            drafted=self._drafted,
            accepted=self._accepted,
        )

    def _start(self, priority: Priority) -> None:
        """Start queued sequences, as long as the next one fits."""
        while (sequence := self.queue.head(priority)) is not None and self._admit(sequence):
            self.queue.remove(sequence)
            self.running.append(sequence)
            self.shares.running[sequence.salt] += 1

    def _admit(self, sequence: Sequence) -> bool:
        """Hold the pages that `sequence` shares and promise it the others, or leave it as it was."""
        if self._blocked.get(sequence.priority) is sequence:
            return False
        cached = sequence.cached
        self.tree.adopt(sequence, trial=True)
        fresh = sequence.need - sequence.held
        if sequence.priority == "interactive":
            self._pause_batch_for(fresh)
        if len(self.running) >= self.max_running or self.promised + fresh > self.pool.available:
            self.tree.release(sequence)
            sequence.computed, sequence.cached = 0, cached
            self._blocked[sequence.priority] = sequence
            return False
        self.tree.confirm(sequence)
        self.promised += fresh
        if not sequence.paused:
            self._prompt_tokens += sequence.prompt
        self._cached_tokens += sequence.cached - cached
        return True

    def _pause_batch_for(self, fresh: int) -> None:
        """Pause batch sequences until `fresh` pages can be promised and a sequence can start, if pausing helps at all."""
        if len(self.running) < self.max_running and self.promised + fresh <= self.pool.available:
            return
        batch = [sequence for sequence in self.running if sequence.priority == "batch"]
        holders = Counter(page for sequence in batch for page in sequence.pages[: sequence.held].tolist())
        freed = sum(count == self.pool.refs[page] for page, count in holders.items())
        promised = self.promised - sum(sequence.need - sequence.held for sequence in batch)
        if len(self.running) - len(batch) >= self.max_running or promised + fresh > self.pool.available + freed:
            return
        while len(self.running) >= self.max_running or self.promised + fresh > self.pool.available:
            self._pause(batch.pop())

    def _pause(self, sequence: Sequence) -> None:
        """Back to the queue, without pages. Its full pages stay in the tree for as long as there is room."""
        self._leave(sequence)
        sequence.computed = 0
        sequence.paused = True
        self.queue.put_back(sequence)

    def _catch_up(self, sequence: Sequence, most: int) -> tuple[int, bool]:
        """Give `sequence` what others have computed since: from the tree, and `most` pages from disk."""
        held, cached = sequence.held, sequence.cached
        self.tree.adopt(sequence)
        restored, more = self.tree.restore(sequence, most) if self._spill else (0, False)
        self.promised -= sequence.held - held
        self._cached_tokens += sequence.cached - cached
        if not sequence.paused:
            self._restored_tokens += restored * self.page_size
        if sequence.held > held:
            self._blocked.clear()  # who takes what others hold leaves room
        return restored, more

    def _plan_prefill(self, plan: Plan, waiting: dict[Priority, list[Sequence]], budget: float) -> None:
        """Rows for the sequences that want more than one, interactive before batch."""
        claimed: set[tuple[Node | None, bytes]] = set()
        decode_rows = sum(plan.rows)
        plan.full = self._share(plan, waiting["interactive"], budget, claimed)
        if waiting["batch"] and not plan.full:
            alone = all(sequence.priority == "batch" for sequence in self.running)
            left = budget if alone else min(budget - plan.work, max(1, budget / BATCH_SHARE))
            if sum(plan.rows) < self.max_rows and left >= 1:
                plan.full = self._share(plan, waiting["batch"], left, claimed) and alone
        plan.prefill = sum(plan.rows) - decode_rows

    def _share(self, plan: Plan, waiting: list[Sequence], budget: float, claimed: set[tuple[Node | None, bytes]]) -> bool:
        """Grant rows to `waiting`, of one priority and in order of their start. True: somebody wanted more."""
        served, room = self.shares.served, self.max_rows - sum(plan.rows)
        oldest = min(waiting, key=lambda one: served[one.salt], default=None)
        others = (one for one in waiting if one is not oldest)
        order = sorted(others, key=lambda one: (served[one.salt], one.length - one.computed))
        ready = [one for one in ([oldest] if oldest else []) + order if self._claim(one, claimed)]
        rows = dict.fromkeys(ready, 0)
        left = budget
        for i, sequence in enumerate([*ready, *ready[:1]]):  # what others leave goes to the first once more
            price = 1 + sequence.computed / self._deep
            if not rows[sequence] and (left >= price or not i) and room:
                self._borrow(sequence)
            half = i == 0 and len(ready) > 1
            wanted = sequence.length - sequence.computed - rows[sequence]
            more = min(wanted, room, max(int((left - left // 2 if half else left) / price), int(i == 0)))
            rows[sequence] += more
            left -= more * price
            room -= more
            plan.work += more * price
            served[sequence.salt] += more * price
        for sequence, count in rows.items():
            if count:
                self._grant(plan, sequence, count)
        return any(count < sequence.length - sequence.computed for sequence, count in rows.items())

    def _borrow(self, sequence: Sequence) -> None:
        held, cached = sequence.held, sequence.cached
        self.tree.borrow(sequence, self.running)
        self.promised -= sequence.held - held
        self._cached_tokens += sequence.cached - cached

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
        if sequence.announce:
            sequence.announce = False
            plan.started.append((sequence, sequence.cached))
        while sequence.held * self.page_size < sequence.computed + rows:
            self.tree.take(sequence)
            self.promised -= 1
        plan.sequences.append(sequence)
        plan.rows.append(rows)
        plan.samples.append(len(sequence.sampled) if sequence.computed + rows >= sequence.length else 0)

    def _end(self, sequence: Sequence) -> None:
        self._leave(sequence)
        self._forget(sequence)

    def _forget(self, sequence: Sequence) -> None:
        self.shares.leave(sequence.salt)
        self._deadlines.discard(sequence)

    def _leave(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self.shares.running[sequence.salt] -= 1
        self.promised -= sequence.need - sequence.held
        self.tree.release(sequence)
        self._blocked.clear()

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
        tenants = Counter(sequence.salt for sequence in self.running)
        assert tenants == +self.shares.running, "what tenants have running is miscounted"
        assert self.shares.served.keys() == {sequence.salt for sequence in (*self.running, *self.queue)}, (
            "a tenant is forgotten"
        )

    def check_idle(self) -> None:
        """The constant-time part of `check` for when nothing runs: nothing may be live or promised."""
        if self.pool.live or self.promised:
            raise AssertionError(f"{self.pool.live} pages live and {self.promised} promised while nothing runs")
