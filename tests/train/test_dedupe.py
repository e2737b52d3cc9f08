"""Copies, exact and near, are found among many documents by few comparisons, the same in every process."""

from __future__ import annotations

import random
import subprocess
import sys

import numpy as np
import pytest

from senryu.train.dedupe import HASHES, Copies, MinHash, exact_key, find_copies

WORDS = [f"{a}{b}{c}" for a in "bdfgklmnprstvz" for b in "aeiou" for c in ("n", "r", "st", "l", "ck", "")]


def text(seed: int, words: int = 200) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=words))


def edited(original: str, share: float, seed: int = 0) -> str:
    """With a share of the words replaced, evenly spread."""
    words = original.split()
    every = round(1 / share)
    return " ".join("changed" + str(seed) if at % every == every - 1 else word for at, word in enumerate(words))


def jaccard(a: str, b: str) -> float:
    runs = [set(zip(*(words[i:] for i in range(5)))) for words in (a.split(), b.split())]
    return len(runs[0] & runs[1]) / len(runs[0] | runs[1])


def test_signatures_estimate_similarity() -> None:
    make = MinHash()
    for share in (0.005, 0.02, 0.05, 0.1):
        a, b = text(1, 2000), edited(text(1, 2000), share)
        same = float((make.signature(a) == make.signature(b)).mean())
        assert same == pytest.approx(jaccard(a, b), abs=4 * (0.25 / HASHES) ** 0.5)
    assert float((make.signature(text(1)) == make.signature(text(2))).mean()) < 0.05


def test_short_texts_and_scripts_without_spaces_have_signatures() -> None:
    make = MinHash()
    assert make.signature("...") is None
    assert np.array_equal(make.signature("Two words"), make.signature("two, WORDS!"))
    a, b = "春の海終日のたりのたりかな" * 3, "夏草や兵どもが夢の跡" * 3
    assert (make.signature(a) == make.signature(a + "。")).all()
    assert (make.signature(a) == make.signature(b)).mean() < 0.1


def verdicts(texts: list[str], *, near: bool = True, held_out: tuple[int, ...] = ()) -> list[str]:
    copies = Copies()
    for at, one in enumerate(texts):
        copies.add(one, near=near, held_out=at in held_out)
    return copies.judge()


def test_the_first_of_copies_stays() -> None:
    base = text(1)
    texts = [base, text(2), base.upper().replace(" ", "\n"), edited(base, 0.02), edited(base, 0.25)]
    assert verdicts(texts) == ["", "", "exact", "near", ""]
    assert verdicts(texts, near=False) == ["", "", "exact", "", ""]


def test_what_resembles_only_a_dropped_document_stays() -> None:
    base = text(1, 400)
    middle = edited(base, 0.025)
    far = " ".join("other" if at % 40 == 5 else word for at, word in enumerate(middle.split()))
    assert jaccard(base, middle) > 0.75 < jaccard(middle, far)
    assert jaccard(base, far) < 0.63
    assert verdicts([base, middle, far]) == ["", "near", ""]


def test_copies_of_held_out_documents_go_wherever_they_stand() -> None:
    base = text(1)
    texts = [edited(base, 0.02), text(2), base, base + " ", edited(base, 0.01)]
    assert verdicts(texts, held_out=(2, 4)) == ["held_out", "", "", "held_out", "near"]
    # a held-out copy of a held-out document counts as kept: a twin of it alone must go too
    first, second = text(3, 400), edited(text(3, 400), 0.025)
    twin = " ".join("other" if at % 40 == 5 else word for at, word in enumerate(second.split()))
    assert verdicts([twin, first, second], held_out=(1, 2)) == ["held_out", "", "near"]


def test_ten_thousand_documents_take_few_comparisons() -> None:
    make = MinHash()
    texts = [text(seed, 60) for seed in range(10_000)]
    copies = [edited(texts[0], 0.02, seed) for seed in range(500)] + [edited(one, 0.02) for one in texts[1:200]]
    found = find_copies([exact_key(t) for t in texts + copies], [make.signature(t) for t in texts + copies])
    assert (found.original[:10_000] == -1).all()
    assert (found.original[10_000:] >= 0).mean() > 0.97  # a similarity of 0.85; what MinHash misses is kept
    assert found.compared < 3 * len(copies)  # of 57 million pairs


def test_signatures_are_the_same_in_every_process() -> None:
    code = "from senryu.train.dedupe import MinHash; print(MinHash().signature('the same in every process')[:4].tolist())"
    others = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert others == {f"{MinHash().signature('the same in every process')[:4].tolist()}\n"}
