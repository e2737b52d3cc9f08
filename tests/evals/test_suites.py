"""Suites by name become one document, whose figures the README and the plot can show."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from senryu.config import Settings
from senryu.engine.fake import FakeEngine
from senryu.errors import SenryuError
from senryu.evals import bandwidth, catalog, drafts, plot, readme, suites
from senryu.evals.speed import EngineSubject
from senryu.evals.suites import Lab, run_suites
from senryu.service.shapes import shape_spec

MACHINE = {"date": "2026-11-24", "cpu": "A CPU", "threads": 2, "kernels": "numpy"}
FACTS = {"machine": MACHINE, "command": "senryu bench", "model": "fake", "weights": "int8", "rounds": 1}


class Twice:
    """A peer that is half as fast as anything."""

    def __init__(self, name: str) -> None:
        self.name = name

    def prefill(self, length: int) -> float:
        return 100.0

    def decode(self, depth: int, tokens: int) -> float:
        return 10.0

    def batch(self, streams: int, tokens: int) -> float:
        return 20.0

    def deep(self) -> list[Twice]:
        return [self, Twice(f"{self.name}, q8_0 K/V")]

    def close(self) -> None: ...


@pytest.fixture
def lab(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    monkeypatch.setattr(bandwidth.Reads.__init__, "__defaults__", (1 << 20,))
    engine = FakeEngine(pages=1024, seconds_per_step=1e-4, seconds_per_row=1e-6)
    ours = EngineSubject("senryu int8", engine, vocab=4096)
    settings = Settings(home=Path("unused"), threads=2)
    monkeypatch.setattr(drafts, "load_engine", lambda how, ref, copying: (engine.program.spec, FakeEngine(drafts=how.drafts)))
    sizes: dict[str, Any] = {"prompts": (70, 700), "depths": (0, 100), "ttft": (70,), "tokens": 8, "rounds": 1}
    yield Lab(ours, engine.program.spec, settings, "int8", "shape:tiny", **sizes)
    ours.close()


def test_every_suite_of_the_catalog_runs_something() -> None:
    assert list(suites.RUN) == list(catalog.SUITES)
    assert set(catalog.QUICK) <= set(catalog.SUITES)
    for name in catalog.SUITES:
        assert name in catalog.help_text()


def test_suites_become_a_document(lab: Lab) -> None:
    names = [name for name, entry in catalog.SUITES.items() if not entry.served]
    result = json.loads(json.dumps(run_suites(lab, names, FACTS)))
    assert {key: result[key] for key in FACTS} == FACTS
    assert set(result["ratios"]) == {"drafts_copy", "drafts_edit", "drafts_free"}
    measured = {(f["measure"], f["at"]) for f in result["figures"]}
    assert {("prefill", 70), ("prefill", 700), ("decode", 70), ("batch", 8), ("depth", 0), ("depth", 100)} <= measured
    assert {("ttft_cold", 70), ("latency_p99", 32768), ("shared_computed", 8192), ("memory_resident", None)} <= measured
    for figure in result["figures"]:
        assert figure["median"] > 0
        assert len(figure["rounds"]) >= 1
        assert figure["measure"] in readme.LABELS
    assert result["streaming_reads"]["gb_s"] > 0
    assert result["streaming_reads"]["decode_share"] > 0


def test_memory_of_the_fp32_path_is_that_of_float32(lab: Lab) -> None:
    """Whatever the settings say of K/V: that path keeps no other."""
    sizes = {}
    for kernels, kv in (("numpy", "float32"), ("fp32", "int8")):
        figures = run_suites(replace(lab, settings=replace(lab.settings, kernels=kernels, kv=kv)), ["memory"], FACTS)["figures"]
        sizes[kernels] = next(f["median"] for f in figures if f["measure"] == "memory_kv_pool")
    assert sizes["fp32"] == sizes["numpy"]


def test_peers_give_ratios_and_only_chosen_suites_run(lab: Lab) -> None:
    peer = Twice("llama.cpp q8_0")
    result = run_suites(replace(lab, peers=[peer]), ["batch", "depth"], FACTS)  # type: ignore[list-item]
    assert {f["measure"] for f in result["figures"]} == {"batch", "depth"}
    assert list(result["ratios"]) == [
        "batch_int8",
        "depth_0_int8",
        "depth_0_int8_vs_llama_cpp_q8_0_q8_0_k_v",
        "depth_100_int8",
        "depth_100_int8_vs_llama_cpp_q8_0_q8_0_k_v",
    ]
    ours = next(f["median"] for f in result["figures"] if f["measure"] == "batch")
    assert result["ratios"]["batch_int8"] == pytest.approx(ours / 20, rel=1e-2)
    assert "streaming_reads" not in result
    assert "ratios" not in run_suites(lab, ["batch"], FACTS)


def test_lengths_beyond_the_context_are_announced(lab: Lab) -> None:
    said: list[str] = []
    lab = replace(lab, depths=(10, 65530), say=said.append)
    result = run_suites(lab, ["depth"], FACTS)
    assert [f["at"] for f in result["figures"]] == [10]
    assert any("left out: 65530 tokens" in line for line in said)
    assert run_suites(replace(lab, tokens=20_000), ["drafts"], FACTS)["figures"] == []
    assert any("left out: 80065 tokens" in line for line in said)


def test_the_yardstick() -> None:
    reads = bandwidth.Reads(2, size=1 << 20)
    assert reads.decode(0, 0) > 0
    reads.close()
    spec = shape_spec("tiny")
    matrices = 8 * (256 * 256 * 2 + 2 * 64 * 256 + 3 * 256 * 704) + 4096 * 256
    norms = 17 * 256
    assert bandwidth.decode_bytes(spec, "int8") == matrices + norms
    assert bandwidth.decode_bytes(spec, "bf16") == 2 * (matrices + norms)
    tied = bandwidth.decode_bytes(replace(spec, tied_head=True), "int8")
    assert tied == matrices + norms  # the embedding is the head


def document() -> dict[str, object]:
    depths = [
        {"measure": "depth", "at": at, "subject": s, "unit": "tok/s", "median": v, "rounds": [v]}
        for at in (0, 1024)
        for s, v in (("senryu int8", 80.0), ("llama.cpp q8_0, f16 K/V", 60.0))
    ]
    return {**FACTS, "figures": depths, "ratios": {"depth_0_int8": 1.33, "depth_1024_int8": 1.33}}


def test_a_plot_is_a_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    plot.draw(document(), tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    alone = [{"measure": "drafts_copy", "at": 9, "subject": "senryu int8", "unit": "tok/s", "median": 2.0, "rounds": [2.0]}]
    for figures in ([], alone):
        with pytest.raises(ValueError, match="nothing to plot"):
            plot.draw({**FACTS, "figures": figures, "ratios": {"drafts_copy": 2.0}}, tmp_path / "q.png")


def test_the_stages_of_a_run_are_a_picture_that_grows_by_rows(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    steps = [{"step": n, "tokens": 512 * n, "loss": 3.0 / n, "decaying": n > 8} for n in range(1, 13)]
    events = [{"step": 8, "tokens": 4096, "event": "decay"}, {"step": 12, "tokens": 6144, "event": "end"}]
    rewarded = [{**step, "loss": 0.0, "reward": step["step"] / 12} for step in steps]
    sizes = []
    for count in (1, 3, 4):
        logs = {f"stage {n}": steps + events for n in range(count - 1)} | {"rl": rewarded, "cut off": []}
        plot.draw_stages(logs, "toy", tmp_path / "p.png")
        header = (tmp_path / "p.png").read_bytes()[:24]
        assert header.startswith(b"\x89PNG")
        sizes.append((int.from_bytes(header[16:20], "big"), int.from_bytes(header[20:24], "big")))
    (width, height), three, four = sizes
    assert three == (3 * width, height)
    assert four == (3 * width, 2 * height)
    with pytest.raises(ValueError, match="no stage has logged a step"):
        plot.draw_stages({"pretrain": events}, "toy", tmp_path / "q.png")


def test_a_plot_without_matplotlib_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plot.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SenryuError, match=r"pip install 'senryu\[plot\]'"):
        plot.draw(document(), tmp_path / "p.png")


def test_rates_are_rounded_but_not_falsified() -> None:
    values = np.array([0.0123456, 1.23456, 12345.6])
    assert [suites.speed._short(v) for v in values] == [0.01235, 1.235, 12350.0]
