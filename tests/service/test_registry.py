"""Names, memory, and a small model loaded from files."""

from __future__ import annotations

import asyncio
import os
from dataclasses import replace
from pathlib import Path

import pytest

from senryu.config import Settings
from senryu.engine.interface import Sampling, TokenEvent, TokenRequest
from senryu.errors import SenryuError
from senryu.model.hub import parameters
from senryu.model.program import Program
from senryu.service.memory import available_memory
from senryu.service.registry import ALIASES, HAIKU, MINI, Registry, kv_pages, load_engine, load_model, names_of
from senryu.service.shapes import shape_spec
from serving import scripted_model

SETTINGS = Settings(home=Path("home"), kernels="numpy")
SPEC = shape_spec("tiny")
PAGE = Program.page_bytes(SPEC, "int8")
WINDOW = 200_000 // 64


def test_names_resolve_to_the_loaded_model() -> None:
    model = scripted_model(name="other")
    registry = Registry([model])
    for name, id in [(HAIKU, HAIKU), ("claude-3-5-haiku-latest", HAIKU), (MINI, MINI), ("other", "other")]:
        assert registry.resolve(name).id == registry.canonical(name) == id
        assert registry.resolve(name).model is model
    assert {served.id for served in registry.served()} == {HAIKU, MINI, "other"}
    names = names_of("other")
    assert {registry.resolve(name).id for name in names} == {HAIKU, MINI, "other"}
    assert set(names) == {HAIKU, MINI, "other", *ALIASES}
    assert names_of(MINI) == names_of("other")[1:]
    with pytest.raises(SenryuError, match=r"^model: claude-4$"):
        registry.resolve("claude-4")
    asyncio.run(registry.close())


def test_pages_for_two_windows_where_memory_allows() -> None:
    assert kv_pages(SETTINGS, "m", SPEC, 1 << 50) == 2 * WINDOW + SETTINGS.max_sequences


def test_pages_in_half_of_a_small_memory() -> None:
    assert kv_pages(SETTINGS, "m", SPEC, parameters(SPEC) + 200 * PAGE) == 100


def test_the_fp32_path_needs_room_for_float32(tmp_path: Path) -> None:
    """It keeps weights and K/V in float32 whatever the formats of the others are."""
    fp32 = replace(SETTINGS, kernels="fp32", home=tmp_path)
    page = Program.page_bytes(SPEC, "float32")
    assert kv_pages(fp32, "m", SPEC, 4 * parameters(SPEC) + 200 * page) == 100
    _, engine = load_engine(replace(fp32, kv_cache_gb=0.05), "shape:tiny")
    assert engine.stats().pages_total * page <= 50_000_000
    asyncio.run(engine.close())


def test_a_memory_that_is_too_small_is_named() -> None:
    with pytest.raises(SenryuError, match=r"m does not fit: its K/V cache of 2048 tokens takes .* GB.*kv_cache_gb in home"):
        kv_pages(SETTINGS, "m", SPEC, PAGE)
    with pytest.raises(SenryuError, match="does not fit"):
        kv_pages(replace(SETTINGS, kv_cache_gb=500), "m", SPEC, 1 << 30)


def test_a_chosen_memory_is_taken() -> None:
    assert kv_pages(replace(SETTINGS, kv_cache_gb=1), "m", SPEC, 1 << 40) == 10**9 // PAGE


def test_control_groups_limit_memory(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9000 kB\nMemAvailable: 8000 kB\n")
    (tmp_path / "proc/self/cgroup").write_text("0::/a/b\n")
    assert available_memory(tmp_path) == 8000 * 1024
    group = tmp_path / "sys/fs/cgroup/a"
    (group / "b").mkdir(parents=True)
    for name, text in [("memory.max", "5000"), ("memory.current", "3000"), ("memory.stat", "anon 1\ninactive_file 1000\n")]:
        (group / name).write_text(text)
    assert available_memory(tmp_path) == 3000
    (group / "memory.max").write_text("max")
    assert available_memory(tmp_path) == 8000 * 1024


def test_an_engine_of_a_random_shape(tmp_path: Path) -> None:
    spec, engine = load_engine(replace(SETTINGS, home=tmp_path, kv_cache_gb=0.05), "shape:tiny")
    assert spec == SPEC
    assert engine.max_context == 50_000_000 // PAGE * 64
    asyncio.run(engine.close())


@pytest.mark.parametrize(("gigabytes", "cached"), [(1.0, 64), (0.0, 0)])
def test_prefixes_outlive_a_restart(tmp_path: Path, gigabytes: float, cached: int) -> None:
    settings = replace(SETTINGS, home=tmp_path, kv_cache_gb=0.05, kv_spill_gb=gigabytes)
    ids = tuple(range(300, 400))

    async def first_event() -> TokenEvent:
        model = load_model(settings, "mini")
        events = [event async for event in model.engine.generate(TokenRequest(ids, 1, Sampling(temperature=0.0)))]
        await model.engine.close()
        return events[0]

    cold, warm = (asyncio.run(first_event()) for _ in range(2))
    assert (cold.cached, warm.cached) == (0, cached)
    assert cold.tokens == warm.tokens
    assert settings.kv_spill.exists() == bool(gigabytes)


def test_a_start_removes_caches_that_were_long_unused(tmp_path: Path) -> None:
    settings = replace(SETTINGS, home=tmp_path, kv_cache_gb=0.05)
    old = [root / ("f" * 32) for root in (settings.weight_cache, settings.kv_spill)]
    for folder in old:
        folder.mkdir(parents=True)
        os.utime(folder, (0, 0))
    for _ in range(2):  # the second one finds what the first has made
        asyncio.run(load_model(settings, "mini").engine.close())
        assert not any(folder.exists() for folder in old)
        assert [len(list(folder.parent.iterdir())) for folder in old] == [1, 1]


def test_what_cannot_be_loaded_is_named() -> None:
    with pytest.raises(SenryuError, match=r"^cannot load path:/nowhere: .*no directory"):
        load_model(SETTINGS, "path:/nowhere")
    with pytest.raises(SenryuError, match=r"choose tiny, 0\.3b, 1\.1b"):
        load_engine(SETTINGS, "shape:70b")
