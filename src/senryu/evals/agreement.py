"""What the engine's number formats cost against the fp32 definition, over real text: perplexity, next tokens, divergence.

python -m senryu.evals agreement --model mini --data DATA
"""

from __future__ import annotations

import json
import lzma
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from senryu.kernels.batch import Batch
from senryu.kernels.pack import FORMATS
from senryu.model.program import Program
from senryu.model.spec import ModelSpec
from senryu.model.transformer import Float32Weights, forward

CHUNK = 256  # rows of one step, all of them sampled
MOST = 1024  # tokens taken of one text


VARIANTS: dict[str, dict[str, Any]] = {format: {"format": format, "kv": "float32"} for format in FORMATS}
VARIANTS |= {f"{format}-kv8": {"format": format, "kv": "int8"} for format in FORMATS}
"""What can be compared, by name: the options of `Program` that make it. kv8 is with K/V in int8, as a server has them."""


@dataclass(slots=True)
class Agreement:
    """Sums over tokens; `same` counts equal next tokens, `divergence` is KL(fp32 || variant), nats are -ln p of the text."""

    tokens: int = 0
    scored: int = 0  # tokens but each text's first
    same: int = 0
    divergence: float = 0.0
    exact_nats: float = 0.0
    nats: float = 0.0

    @property
    def share(self) -> float:
        """Of next tokens that are the same."""
        return self.same / self.tokens

    @property
    def kl(self) -> float:
        """Mean, in nats."""
        return self.divergence / self.tokens

    @property
    def exact_perplexity(self) -> float:
        return math.exp(self.exact_nats / self.scored)

    @property
    def perplexity(self) -> float:
        return math.exp(self.nats / self.scored)

    @property
    def delta(self) -> float:
        """How much the perplexity is above that of fp32, in per cent."""
        return 100 * (self.perplexity / self.exact_perplexity - 1)

    def add(self, ids: np.ndarray, p: np.ndarray, q: np.ndarray) -> None:
        """One text: ids [n], log probabilities of fp32 and of the variant, float64 [n, vocab]."""
        self.tokens += len(ids)
        self.scored += len(ids) - 1
        self.same += int((p.argmax(1) == q.argmax(1)).sum())
        self.divergence += float((np.exp(p) * (p - q)).sum())
        following = (np.arange(len(ids) - 1), ids[1:])
        self.exact_nats -= float(p[following].sum())
        self.nats -= float(q[following].sum())


def read_texts(path: Path, most: int) -> Iterator[str]:
    """The first texts of a file: of .jsonl.xz rows their text, input, or every turn of a conversation; else the file itself."""
    if path.suffix != ".xz":
        yield path.read_text(encoding="utf8")
        return
    with lzma.open(path, "rt", encoding="utf8") as lines:
        for _, line in zip(range(most), lines):
            row: dict[str, Any] = json.loads(line)
            turns = row.get("messages", [{"content": row.get("text", row.get("input", ""))}])
            yield "\n".join(t["content"] for t in turns if isinstance(t["content"], str))


def program_logits(program: Program, ids: np.ndarray) -> np.ndarray:
    """float32 [tokens, vocab]: what the engine's path computes for every token of `ids`, in steps of CHUNK rows."""
    pages = np.arange(-(-len(ids) // program.page_size), dtype=np.int32)[None]
    parts = []
    for start in range(0, len(ids), CHUNK):
        rows = np.arange(start, min(start + CHUNK, len(ids)), dtype=np.int32)
        n = len(rows)
        program.step(
            Batch(
                tokens=ids[rows].astype(np.int32),
                positions=rows,
                row_start=np.array([0, n], np.int32),
                page_table=pages,
                sample_rows=np.arange(n, dtype=np.int32),
                temperature=np.zeros(n, np.float32),
                top_p=np.ones(n, np.float32),
                top_k=np.zeros(n, np.int32),
                seeds=np.zeros(n, np.uint64),
            )
        )
        parts.append(program.logits[:n].copy())
    return np.concatenate(parts)


def agreement(
    spec: ModelSpec, weights: Float32Weights, programs: Mapping[str, Program], texts: Iterable[np.ndarray]
) -> dict[str, Agreement]:
    """Compare each program over texts of token ids [tokens]; the programs' pools must hold MOST tokens."""
    results = {name: Agreement() for name in programs}
    for ids in texts:
        ids = ids[:MOST]
        exact = _log_softmax(forward(spec, weights, ids))
        for name, program in programs.items():
            results[name].add(ids, exact, _log_softmax(program_logits(program, ids)))
    return results


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    result: np.ndarray = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return result
