"""The README's speed tables are made from the JSON files in docs/bench, and from nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from senryu.evals import readme
from senryu.evals.__main__ import main

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "docs" / "bench").glob("*.json"))


def test_the_readme_is_what_the_files_make() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf8")
    assert FILES
    assert readme.refreshed(text, [json.loads(file.read_text(encoding="utf8")) for file in FILES]) == text


def test_refresh_replaces_what_is_between_the_markers_only(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text(f"before\n\n{readme.BEGIN}\nold\n{readme.END}\nafter\n")
    main(["readme", *map(str, FILES), "--readme", str(page)])
    once = page.read_text()
    main(["readme", *map(str, FILES), "--readme", str(page)])
    assert page.read_text() == once
    assert once.startswith("before\n")
    assert once.endswith("\nafter\n")
    assert "old" not in once
    with pytest.raises(ValueError, match="no lines"):
        readme.refreshed("no markers", [])


def test_a_section_shows_every_subject_and_each_ratio() -> None:
    figures = [
        {"measure": "decode", "at": 512, "subject": s, "unit": "tok/s", "median": v, "rounds": []}
        for s, v in (("senryu int4", 150.0), ("llama.cpp q4_0", 100.0), ("llama.cpp q4_k_m", 75.0))
    ]
    figures.append({"measure": "start", "at": None, "subject": "senryu int4", "unit": "s", "median": 1.5, "rounds": []})
    text = readme.section(
        {
            "machine": {"cpu": "A CPU", "threads": 2, "kernels": "avx2", "date": "2026-11-24"},
            "command": "senryu bench --shape 0.3b",
            "model": "0.3b",
            "rounds": 5,
            "figures": figures,
            "streaming_reads": {"gb_s": 20.1, "decode_share": 0.874},
        }
    )
    assert "A CPU, 2 threads, avx2 kernels, 2026-11-24, medians of 5 rounds, all sides in turns in one run:" in text
    assert "```\nsenryu bench --shape 0.3b\n```" in text
    assert "| 0.3b | Senryu int4 | llama.cpp q4_0 | llama.cpp q4_k_m | ratio |" in text
    assert "| decode behind 512 tokens | 150 tok/s | 100 tok/s | 75 tok/s | 1.5 x, 2.0 x |" in text
    assert "| start until ready | 1.5 s |  |  |  |" in text
    assert "| decode's share of streaming reads | 87% of 20.1 GB/s |" in text
