"""One request's state inside the engine: its tokens, how far they are computed, the pages that hold their K/V."""

from __future__ import annotations

import math
from collections.abc import Sequence as Ids
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np

from senryu.engine.interface import FinishReason, TokenRequest

if TYPE_CHECKING:
    from senryu.engine.grammar import Matcher
    from senryu.engine.guess import Guess
    from senryu.engine.node import Node

SEED_MASK = (1 << 64) - 1
HOTTEST = 1e6  # temperatures above are refused, they only flatten what is flat already
SMALLEST_TOP_P = 1e-7  # top_p 0 keeps one token, and so does this; kernels take float32 above 0
LARGEST_TOP_K = (1 << 31) - 1
SALT_BYTES = 16
ONE = range(1)


class Sequence:
    """Tokens [0, computed) have K/V in `pages`; [computed, length) are known and wanted; the rest is still to be sampled.

    A sequence whose `length - computed` is 1 decodes, more than 1 prefills: there is no other difference between the two.
    A step may compute `drafted` more tokens, guesses that stand in `tokens` behind the known ones; those that prove right are
    known then, and the K/V of the others is overwritten. `sampled`: how many drafts stand before each sample that it takes;
    there is none where the next draft is certain.
    Pages [0, depth) are in the prefix tree (`node` is the last of them) and may be shared; [depth, held) are its own.
    """

    __slots__ = (
        "announce", "arrival", "breakpoints", "cached", "computed", "deadline", "depth", "drafted", "finish", "guess", "held",
        "length", "matcher", "need", "node", "page_size", "pages", "paused", "priority", "prompt", "salt", "sampled",
        "seed", "stop_ids", "temperature", "tokens", "top_k", "top_p",
    )  # fmt: skip

    def __init__(self, request: TokenRequest, page_size: int, matcher: Matcher | None = None) -> None:
        """matcher: of the request's grammar.

        Raises ValueError for an empty prompt, ids beyond int32, `max_tokens` < 1, and for sampling parameters, breakpoints, a
        priority or a deadline out of range.
        """
        sampling = request.sampling
        if not request.ids:
            raise ValueError("the prompt is empty: at least one token id is needed")
        if request.max_tokens < 1:
            raise ValueError(f"max_tokens is {request.max_tokens}: at least 1 is needed")
        if not (0 <= sampling.temperature <= HOTTEST and 0 <= sampling.top_p <= 1 and sampling.top_k >= 0):
            raise ValueError(f"out of range (0 <= temperature <= {HOTTEST:g}, 0 <= top_p <= 1, 0 <= top_k): {sampling}")
        self.prompt = len(request.ids)
        self.tokens = np.empty(self.prompt + request.max_tokens, np.int32)
        try:
            self.tokens[: self.prompt] = request.ids
        except OverflowError as error:
            raise ValueError(f"a token id is no 32-bit number: {error}") from error
        self.salt = blake2b(request.salt, digest_size=SALT_BYTES).digest()  # of one length: salt + ids reads one way only
        self.page_size = page_size
        self.breakpoints = self._pages_to_pin(request)
        self.announce = bool(request.breakpoints)  # who asked is still to be told what was cached
        if request.priority not in ("interactive", "batch"):
            raise ValueError(f'priority is {request.priority!r}: choose "interactive" or "batch"')
        self.priority = request.priority
        if request.deadline is not None and math.isnan(request.deadline):
            raise ValueError("deadline is not a number: give seconds of time.monotonic(), or None")
        self.deadline = request.deadline
        self.arrival = -1  # the scheduler numbers requests as they come
        self.paused = False  # has given its pages back once: what it takes from the tree again is no gift any more
        self.temperature = sampling.temperature
        self.top_p = max(sampling.top_p, SMALLEST_TOP_P)
        self.top_k = min(sampling.top_k, LARGEST_TOP_K)
        self.seed = sampling.seed & SEED_MASK
        self.matcher = matcher
        self.stop_ids = matcher.stop_ids if matcher else request.stop_ids
        self.length = self.prompt
        self.computed = 0
        self.drafted = 0
        self.sampled: Ids[int] = ONE
        self.guess: Guess | None = None
        self.cached = 0  # prompt tokens taken from the prefix tree instead of being computed
        # The last sampled token is never fed back, so its K/V needs no room.
        self.need = -(-(len(self.tokens) - 1) // page_size)
        self.pages = np.zeros(self.need, np.int32)
        self.held = 0
        self.node: Node | None = None
        self.depth = 0
        self.finish: FinishReason | None = None

    def append(self, token: int) -> None:
        """Take the sampled token that follows the known ones; sets `finish` when it is the last."""
        self.tokens[self.length] = token
        self.length += 1
        if token in self.stop_ids:
            self.finish = "stop"
        elif self.length == len(self.tokens):
            self.finish = "length"

    def propose(self, drafts: list[int], sampled: Ids[int]) -> None:
        """Let the next step compute `drafts` too. A draft i that is not in `sampled` (0 to len(drafts), rising) is certain."""
        self.drafted, self.sampled = len(drafts), sampled
        self.tokens[self.length : self.length + self.drafted] = drafts

    def accept(self, drawn: list[int]) -> list[int]:
        """Take the tokens that were drawn, one for each of `sampled`, and the certain drafts before them, as long as drafts
        were right: one that differs from what was drawn in its place makes void all that was drawn behind it.

        Returns the tokens taken.
        """
        taken: list[int] = []
        for i, token in zip(self.sampled, drawn):
            while len(taken) < i:
                taken.append(int(self.tokens[self.length]))
                self.append(taken[-1])
            right = i < self.drafted and token == self.tokens[self.length]
            self.append(token)
            taken.append(token)
            if self.finish or not right:
                break
        self.computed = self.length - 1
        self.drafted, self.sampled = 0, ONE
        return taken

    def key(self, page: int, tokens: int | None = None) -> bytes:
        """The name of a page in the prefix tree, under the page before it: its token ids, after the salt on page 0.

        tokens: only the first so many of the page, the name of a page that is not full; all by default.
        """
        start = page * self.page_size
        ids = self.tokens[start : start + (self.page_size if tokens is None else tokens)].tobytes()
        return ids if page else self.salt + ids

    def _pages_to_pin(self, request: TokenRequest) -> dict[int, float]:
        """Full pages of a prefix -> seconds to keep it."""
        found: dict[int, float] = {}
        for point in request.breakpoints:
            if not 0 < point.offset <= self.prompt or not 0 < point.ttl < math.inf:
                raise ValueError(f"out of range (0 < offset <= {self.prompt}, 0 < ttl < infinity): {point}")
            pages = point.offset // self.page_size
            if pages:
                found[pages] = max(point.ttl, found.get(pages, 0.0))
        return found
