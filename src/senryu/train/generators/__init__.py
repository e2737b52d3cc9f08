"""Training rows with exact answers, made by code: each kind by its name, from a seed, with templates held back for testing.

Rows are in the data bundle's form. What the split "test" is made of (names, schemas, phrasings) never occurs in "train".
Nothing here needs torch, or anything else of Senryu: training, evaluation and rewards use it alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from senryu.train.generators import arithmetic, copying, extraction, retrieval, safety, smalltalk, support, tools
from senryu.train.generators.common import Row, Split

__all__ = ["GENERATORS", "Row", "Split"]

GENERATORS: dict[str, Callable[..., Iterator[Row]]] = {
    "arithmetic": arithmetic.rows,
    "copying": copying.rows,
    "extraction": extraction.rows,
    "retrieval": retrieval.rows,
    "safety": safety.rows,
    "smalltalk": smalltalk.rows,
    "support": support.rows,
    "tools": tools.rows,
}
