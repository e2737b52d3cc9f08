"""Grammars: which tokens may come next so that the answer matches. The one place that knows llguidance.

A `GrammarCompiler` belongs to one model's tokenizer and turns a `Grammar` into a `Matcher`, the state of one request. Masks
are computed while the step that needs them runs, on a thread of their own: the library works without the GIL.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections import OrderedDict
from collections.abc import Sequence as Ids
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any

import numpy as np

from senryu.engine.interface import Grammar, GrammarError
from senryu.model.tokenizer import Tokenizer

log = logging.getLogger("senryu.engine")

CACHED = 64  # compiled grammars that are kept
ALL = 0xFFFFFFFF
# after the schema's own x-guidance: white space costs tokens, and a keyword must be kept to or refused
JSON_OPTIONS = {"whitespace_flexible": False, "whitespace_pattern": None, "lenient": False, "coerce_one_of": False}


class GrammarCompiler:
    """Compiles grammars over `tokenizer` for a model of `vocab` logits. Any thread."""

    def __init__(self, tokenizer: Tokenizer, vocab: int) -> None:
        self._tokenizer = tokenizer
        self._vocab = vocab
        self._compiled: OrderedDict[bytes, Any] = OrderedDict()  # by digest: matchers at their start, least recently used first
        self._lock = threading.Lock()

    def compile(self, grammar: Grammar, stop_ids: frozenset[int] = frozenset()) -> Matcher:
        """A matcher at the start of `grammar`, whose answers end with one of `stop_ids` or of the model's end ids.

        Raises GrammarError when the grammar is broken or unsupported, with the library's own reason.
        """
        key = hashlib.sha256(f"{grammar.kind}\0{grammar.source}".encode()).digest()
        with self._lock:
            start = self._compiled.get(key)
            if start is not None:
                self._compiled.move_to_end(key)
        if start is None:
            start = self._compile(grammar)
            with self._lock:
                self._compiled[key] = start
                if len(self._compiled) > CACHED:
                    self._compiled.popitem(last=False)
        possible = frozenset(token for token in stop_ids if 0 <= token < self._vocab)  # the others have no bit in a mask
        return Matcher(start.deep_copy(), self._tokenizer.eos_ids, possible)

    def _compile(self, grammar: Grammar) -> Any:
        from llguidance import LLMatcher

        try:
            match grammar.kind:
                case "json_schema":
                    source = LLMatcher.grammar_from_json_schema(grammar.source, overrides=JSON_OPTIONS)  # type: ignore[arg-type]
                case "regex":
                    source = LLMatcher.grammar_from_regex(grammar.source)
                case "lark":
                    source = LLMatcher.grammar_from_lark(grammar.source)
                case _:
                    raise GrammarError(f'grammar: the kind is "{grammar.kind}": choose json_schema, regex or lark')
        except GrammarError:
            raise
        except ValueError as error:
            raise GrammarError(f"{grammar.kind}: {error}") from error
        matcher = LLMatcher(self._library_tokenizer, source, log_level=0)
        if matcher.is_error():
            raise GrammarError(f"{grammar.kind}: {matcher.get_error()}")
        return matcher

    @cached_property
    def _library_tokenizer(self) -> Any:
        """Built when it is first needed: it takes about a second for the largest vocabularies."""
        from llguidance import LLTokenizer

        if not self._tokenizer.eos_ids:
            raise GrammarError("this model has no end token, so an answer by a grammar could not end")
        try:
            return LLTokenizer(self._tokenizer.to_json(), n_vocab=self._vocab, eos_token=sorted(self._tokenizer.eos_ids))
        except ValueError as error:
            raise GrammarError(f"this model's tokenizer cannot be used with grammars: {error}") from error


class Matcher:
    """How far one answer has matched its grammar. Used by one thread at a time.

    error: why the grammar cannot go on; its request ends with it. stop_ids: the tokens that end the answer.
    """

    def __init__(self, state: Any, eos_ids: frozenset[int], stop_ids: frozenset[int]) -> None:
        self.error: BaseException | None = None
        self.stop_ids = stop_ids | eos_ids
        self._state = state
        self._supposed = 0
        self._eos = min(eos_ids)
        self._other_stops = sorted(stop_ids - eos_ids)

    def forced(self) -> list[int]:
        """The next tokens as far as the grammar leaves no choice."""
        tokens: list[int] = self._state.compute_ff_tokens()
        return tokens

    def accepted(self, tokens: list[int]) -> int:
        """How many of `tokens` may come next, in order. Changes nothing."""
        count: int = self._state.validate_tokens(tokens)
        return count

    def suppose(self, tokens: list[int]) -> None:
        """Let `tokens`, which must be `accepted`, have come until `back`."""
        self._state.consume_tokens(tokens)
        self._supposed += len(tokens)

    def back(self) -> None:
        """Forget what was supposed."""
        if self._supposed:
            self._state.rollback(self._supposed)
            self._supposed = 0

    def consume(self, tokens: list[int]) -> None:
        """`tokens` have come. Sets `error` when they may not."""
        if not self._state.consume_tokens(tokens):
            self.error = RuntimeError(self._state.get_error())

    def fill(self, masks: np.ndarray, drafts: list[int], behind: Ids[int]) -> None:
        """masks[i], uint32 [words]: of the token that may come behind the first behind[i] (rising) of `drafts`.

        Raises when there is none. Changes nothing. The drafts must be `accepted`.
        """
        bytes_each, address = masks.shape[1] * masks.itemsize, masks.ctypes.data
        for i, count in enumerate(behind):
            if count > self._supposed:
                self.suppose(drafts[self._supposed : count])
            self._state.unsafe_compute_mask_ptr(address + i * bytes_each, bytes_each)
        self.back()
        if self._state.is_error():
            raise RuntimeError(self._state.get_error())
        if self._other_stops:
            self._allow_stops(masks)
        if not masks.any(axis=1).all():
            raise RuntimeError("the grammar leaves no token")

    def _allow_stops(self, masks: np.ndarray) -> None:
        """A stop id may come where the model's end ids may, and nowhere else: the library knows only the latter."""
        done = (masks[:, self._eos // 32] >> np.uint32(self._eos % 32)) & np.uint32(1)
        for token in self._other_stops:
            bit = np.uint32(token % 32)
            masks[:, token // 32] = masks[:, token // 32] & ~np.uint32(1 << bit) | done << bit


MaskWork = tuple[
    Matcher, int, list[int], Ids[int]
]  # the first of its rows in the masks, its drafts, and behind how many of them


class MaskThread:
    """Fills a batch's masks while its step runs."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "senryu-grammar")

    def start(self, work: list[MaskWork], masks: np.ndarray, ready: np.ndarray) -> None:
        """Sets ready[0] at the end, come what may.

        A matcher that fails gets its `error` set and masks that allow everything: its tokens must not be used.
        """
        ready[0] = 0
        self._pool.submit(self._fill, work, masks, ready)

    def _fill(self, work: list[MaskWork], masks: np.ndarray, ready: np.ndarray) -> None:
        try:
            for matcher, row, drafts, behind in work:
                rows = masks[row : row + len(behind)]
                try:
                    matcher.fill(rows, drafts, behind)
                except BaseException as error:  # the library's panics are no Exceptions
                    log.warning("a grammar failed: its request is answered with an error", exc_info=True)
                    matcher.error = error
                    rows[...] = ALL
        finally:
            ready[0] = 1

    def close(self) -> None:
        self._pool.shutdown()
