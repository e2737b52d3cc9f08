"""How often the int8 engine would take the same next token as the fp32 definition, over real conversations.

python -m senryu.evals agreement --model nano --data DATA
"""

from __future__ import annotations

import json
import lzma
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from senryu.kernels.batch import Batch
from senryu.model.program import Program
from senryu.model.spec import ModelSpec
from senryu.model.transformer import Float32Weights, forward

CHUNK = 64  # rows of one step, all of them sampled
MOST = 1024  # tokens taken of one text


@dataclass(frozen=True, slots=True)
class Agreement:
    """`same` of `tokens` next tokens; `divergence` is the mean KL(fp32 || int8) in nats."""

    tokens: int
    same: int
    divergence: float

    @property
    def share(self) -> float:
        return self.same / self.tokens


def eval_texts(data: Path, per_file: int) -> Iterator[str]:
    """The first texts of each file in DATA/eval: inputs of label rows, and every turn of conversations."""
    for path in sorted((data / "eval").glob("*.jsonl.xz")):
        with lzma.open(path, "rt", encoding="utf8") as lines:
            for _, line in zip(range(per_file), lines):
                row: dict[str, Any] = json.loads(line)
                turns = row.get("messages", [{"content": row.get("input", "")}])
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


def agreement(spec: ModelSpec, weights: Float32Weights, program: Program, texts: Iterable[np.ndarray]) -> Agreement:
    """Compare over texts of token ids [tokens]; the program's pool must hold MOST tokens."""
    tokens = same = 0
    divergence = 0.0
    for ids in texts:
        exact = forward(spec, weights, ids[:MOST])
        fast = program_logits(program, ids[:MOST])
        tokens += len(exact)
        same += int((exact.argmax(1) == fast.argmax(1)).sum())
        p, q = _log_softmax(exact), _log_softmax(fast)
        divergence += float((np.exp(p) * (p - q)).sum())
    return Agreement(tokens, same, divergence / tokens)


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    result: np.ndarray = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return result
