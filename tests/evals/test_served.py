"""The server measured from outside: a fresh process until it answers, and what HTTP costs over the bare engine."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from senryu.config import Settings, load_settings
from senryu.engine.fake import FakeEngine
from senryu.errors import SenryuError
from senryu.evals import served as cost
from senryu.evals import startup
from senryu.evals.speed import EngineSubject
from serving import says, scripted_model, serving


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Settings:
    """A home of its own with little memory, for the process too; kernels are kept between runs."""
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "kernels").symlink_to(request.config.cache.mkdir("kernels"))
    (tmp_path / "config.toml").write_text("kv_cache_gb = 0.2\n")
    monkeypatch.setenv("SENRYU_HOME", str(tmp_path))
    monkeypatch.delenv("SENRYU_API_KEY", raising=False)
    return load_settings(threads=1, kv="float32")


def test_a_fresh_server_is_measured_and_stopped(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "STREAMED", 8)
    monkeypatch.setattr(cost, "PROMPT_WORDS", 8)
    monkeypatch.setattr(cost, "REQUESTS", 2)
    bare = EngineSubject("senryu int8", FakeEngine(pages=64), vocab=4096)
    try:
        figures = cost.server_cost(bare, "mini", settings, rounds=1)
    finally:
        bare.close()
    assert figures[0].measure == "server_ttft_extra"
    assert math.isfinite(figures[0].median)  # a difference of two small times has either sign
    assert figures[0].at > 8
    assert [f.unit for f in figures] in (["ms"], ["ms", "us", "us"])
    assert all(f.median > 0 for f in figures if f.measure == "server_cpu_per_request")


def test_a_prefix_is_measured_as_it_is_written_and_read(settings: Settings) -> None:
    written, read = cost.cached_prefix("senryu int8", "mini", settings, 2200, rounds=1)
    assert (written.measure, read.measure, written.at) == ("ttft_written", "ttft_read", read.at)
    assert read.at
    assert abs(read.at - 2200) < 100
    assert read.median > 0


def test_start_time_is_taken_from_the_process(settings: Settings) -> None:
    figure = startup.start_time("senryu int8", "mini", settings, rounds=1)
    assert (figure.measure, figure.unit, len(figure.rounds)) == ("start", "s", 1)
    assert figure.median > 0


def test_a_server_that_does_not_start_says_why(settings: Settings) -> None:
    with pytest.raises(SenryuError, match="minii"), startup.served("minii", settings):
        pass


def test_the_client_reads_a_stream_as_it_is(settings: Settings) -> None:
    with serving(scripted_model(says("Hello there"))) as url:
        client = cost.Client(startup.Server(url, 0, 0.0), None)
        seconds, usage = client.first("Hi")
        assert seconds > 0
        assert usage["input_tokens"] > 2
        assert client.stream("Hi", 100) == len("Hello there") + 1  # a token a byte, and the end
        with pytest.raises(RuntimeError, match="400"):
            client.stream("Hi", 0)
        client.close()


def test_memory_is_that_of_the_pool_and_this_process(tmp_path: Path) -> None:
    engine = FakeEngine(pages=64)
    subject = EngineSubject("senryu int8", engine, vocab=4096)
    try:
        resident, pool, some = startup.memory(subject, engine.program.spec, "int8")
    finally:
        subject.close()
    assert resident.median > 1
    assert pool.median == pytest.approx(some.median * 64 * 64 / 1024)
    (tmp_path / "status").write_text("Name:\tx\nVmRSS:\t    2048 kB\n")
    assert startup.resident_bytes(tmp_path / "status") == 2048 * 1024
    assert startup.resident_bytes(tmp_path / "none") > 1_000_000
