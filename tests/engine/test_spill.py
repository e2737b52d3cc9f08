"""K/V on disk: found again when memory has lost it, over restarts, by its own tenant only; and all that disks can do."""

from __future__ import annotations

import asyncio
import errno
import logging
import mmap
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from stepping import Bench, request, solo

from senryu.engine import scheduler as scheduler_module
from senryu.engine import segment as segment_module
from senryu.engine.fake import FakeEngine, FakeProgram
from senryu.engine.interface import Breakpoint
from senryu.engine.segment import SUFFIX, Segment, SegmentError, write_segment
from senryu.engine.spill import Spill, open_spill

PAGE_BYTES = 256  # of the fake: 64 ids
DOCUMENT = [64 + i * 7 % 4000 for i in range(700)]  # 10 full pages


def spill(folder: Path, max_bytes: int = 1 << 20, fingerprint: str = "fake") -> Spill:
    return Spill(folder, max_bytes, fingerprint=fingerprint, page_bytes=PAGE_BYTES)


@pytest.fixture
def bench(tmp_path: Path):
    made = Bench(FakeProgram(pages=16), spill=spill(tmp_path))
    yield made
    made.scheduler.close(save=False)


def run(bench: Bench, ids, **options):
    wanted = request(ids, 4, **options)
    sequence = bench.add(wanted)
    bench.finish()
    assert bench.outputs[sequence] == solo(wanted)
    return sequence


def press(bench: Bench, times: int = 8, salt: bytes = b"") -> None:
    """Ordinary traffic that turns the pool over."""
    for i in range(times):
        run(bench, [64 + (5000 + i * 211 + j) % 4000 for j in range(200)], salt=salt)
    bench.scheduler.tree.spill.flush()


def restart(bench: Bench, folder: Path, *, save: bool = True, **options) -> Bench:
    bench.scheduler.close(save=save)
    return Bench(FakeProgram(pages=16), spill=spill(folder, **options))


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"*{SUFFIX}"))


def test_evicted_pages_are_found_again(bench: Bench) -> None:
    assert run(bench, DOCUMENT).cached == 0
    press(bench)
    assert run(bench, DOCUMENT).cached == 640
    stats = bench.scheduler.stats()
    assert stats.restored_tokens == 640
    assert stats.pages_on_disk >= 10


def test_pages_are_found_while_they_wait_to_be_written(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("senryu.engine.spill.FLUSH_SECONDS", 60.0)
    run(bench, DOCUMENT)
    for i in range(8):
        run(bench, [64 + (5000 + i * 211 + j) % 4000 for j in range(200)])
    assert run(bench, DOCUMENT).cached == 640


def test_only_what_memory_lacks_is_read(bench: Bench) -> None:
    run(bench, DOCUMENT)
    press(bench)
    live = bench.add(request(DOCUMENT[:400], 60))
    for _ in range(4):
        bench.step()
    before = bench.scheduler.stats().restored_tokens
    assert before == 384
    assert run(bench, DOCUMENT).cached == 640
    assert bench.scheduler.stats().restored_tokens == 640
    assert live.finish


def test_all_that_is_cached_outlives_a_restart(bench: Bench, tmp_path: Path) -> None:
    first = run(bench, DOCUMENT)
    again = restart(bench, tmp_path)
    second = run(again, DOCUMENT)
    assert second.cached == 640
    assert again.outputs[second] == bench.outputs[first]
    again.scheduler.close(save=False)


def test_a_restart_without_time_to_save_keeps_what_was_evicted(bench: Bench, tmp_path: Path) -> None:
    run(bench, DOCUMENT)
    press(bench)
    again = restart(bench, tmp_path, save=False)
    assert run(again, DOCUMENT).cached == 640
    again.scheduler.close(save=False)


def test_pins_begin_anew_on_restored_pages(bench: Bench, tmp_path: Path) -> None:
    run(bench, DOCUMENT)
    again = restart(bench, tmp_path)
    run(again, DOCUMENT, breakpoints=(Breakpoint(500, 300.0),))
    assert again.scheduler.stats().pages_pinned == 7
    again.scheduler.close(save=False)


def test_pinned_pages_are_written_before_they_are_evicted(tmp_path: Path) -> None:
    async def serve() -> None:
        made = FakeEngine(check=True, pages=64, spill_directory=tmp_path, spill_bytes=1 << 20)
        _ = [event async for event in made.generate(request(DOCUMENT, 2, breakpoints=(Breakpoint(500, 300.0),)))]
        _ = [event async for event in made.generate(request(range(3000, 3200), 2))]
        while made.stats().pages_on_disk < 7:  # idle, nothing is short
            await asyncio.sleep(0.01)
        made._loop._scheduler.tree.save = lambda: None  # as a killed process
        await made.close()

    asyncio.run(asyncio.wait_for(serve(), 20))
    kept = Bench(FakeProgram(pages=16), spill=spill(tmp_path))
    assert run(kept, DOCUMENT).cached == 448
    assert run(kept, range(3000, 3200)).cached == 0
    kept.scheduler.close(save=False)


def test_tenants_do_not_find_each_other_s_pages(bench: Bench, tmp_path: Path) -> None:
    run(bench, DOCUMENT, salt=b"tenant one")
    press(bench, salt=b"tenant one")
    assert run(bench, DOCUMENT, salt=b"tenant two").cached == 0
    assert run(bench, DOCUMENT).cached == 0
    again = restart(bench, tmp_path)
    assert run(again, DOCUMENT, salt=b"tenant three").cached == 0
    assert run(again, DOCUMENT, salt=b"tenant one").cached == 640
    again.scheduler.close(save=False)
    written = b"".join(path.read_bytes() for path in files(tmp_path))
    assert written
    assert b"tenant" not in written


def test_files_are_for_their_owner_alone(bench: Bench, tmp_path: Path) -> None:
    run(bench, DOCUMENT)
    bench.scheduler.close(save=True)
    assert files(tmp_path)
    assert all(path.stat().st_mode & 0o077 == 0 for path in files(tmp_path))


@pytest.mark.parametrize("other", [{"fingerprint": "other weights"}, {"page_bytes": 512}])
def test_files_made_for_something_else_are_removed(bench: Bench, tmp_path: Path, other: dict) -> None:
    run(bench, DOCUMENT)
    bench.scheduler.close(save=True)
    assert files(tmp_path)
    changed = Spill(tmp_path, 1 << 20, **{"fingerprint": "fake", "page_bytes": PAGE_BYTES, **other})
    assert len(changed) == 0
    assert not files(tmp_path)
    changed.close()


def damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "page":
        content[-PAGE_BYTES // 2] ^= 1
    elif how == "table":
        content[70] ^= 1
    elif how == "magic":
        content[0] ^= 1
    elif how == "count":
        content[12] ^= 1
    path.write_bytes(
        {"cut": content[:-1], "longer": content + b"x", "empty": b"", "head": content[:20]}.get(how, bytes(content))
    )


@pytest.mark.parametrize("how", ["page", "table", "magic", "count", "cut", "longer", "empty", "head"])
@pytest.mark.parametrize("when", ["before the start", "while it runs"])
def test_damaged_files_are_honest_misses(bench: Bench, tmp_path: Path, how: str, when: str) -> None:
    run(bench, DOCUMENT)
    if when == "before the start":
        bench.scheduler.close(save=True)
        for path in files(tmp_path):
            damage(path, how)
        bench = Bench(FakeProgram(pages=16), spill=spill(tmp_path))
    else:
        bench = restart(bench, tmp_path)
        for path in files(tmp_path):
            damage(path, how)
    sequence = run(bench, DOCUMENT)  # the right tokens, whatever the files say
    if how in ("cut", "longer", "empty", "head") or (when == "before the start" and how != "page"):
        assert sequence.cached == 0
    if how == "page" or when == "before the start":
        assert sequence.cached < 640
        assert not files(tmp_path)
    bench.scheduler.close(save=False)


def test_a_file_that_vanishes_is_a_miss(bench: Bench, tmp_path: Path) -> None:
    run(bench, DOCUMENT)
    bench = restart(bench, tmp_path)
    for path in files(tmp_path):
        path.unlink()
    assert run(bench, DOCUMENT).cached == 0
    bench.scheduler.close(save=False)


def test_unfinished_files_are_removed_and_strangers_left_alone(tmp_path: Path) -> None:
    (tmp_path / "x.part").write_bytes(b"half")
    (tmp_path / "notes.txt").write_bytes(b"mine")
    spill(tmp_path).close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lock", "notes.txt"]


def test_bytes_are_bounded_and_the_least_used_file_goes(tmp_path: Path) -> None:
    bound = 100_000
    kept = spill(tmp_path, bound)
    pages = [(i.to_bytes(32, "little"), bytes([i % 256]) * PAGE_BYTES) for i in range(2000)]
    for i, (digest, content) in enumerate(pages):
        kept.put(digest, content)
        if i % 50 == 49:
            kept.flush()
            assert kept.nbytes == sum(path.stat().st_size for path in files(tmp_path)) <= bound
            assert bytes(kept.read(pages[0][0]) or b"") == pages[0][1]  # its file is used all the time
    assert not kept.known(pages[60][0])
    assert kept.known(pages[1999][0])
    kept.close()
    for path in files(tmp_path)[::2]:
        os.utime(path, (1, 1))
    smaller = spill(tmp_path, bound // 2)
    assert smaller.nbytes <= bound // 2
    assert files(tmp_path)
    assert all(path.stat().st_mtime > 1 for path in files(tmp_path))
    smaller.close()


def test_a_directory_serves_one_process(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = spill(tmp_path)
    with caplog.at_level(logging.INFO):
        assert open_spill(tmp_path, 1 << 20, fingerprint="fake", page_bytes=PAGE_BYTES) is None
    assert "another process" in caplog.text
    first.close()


def test_a_directory_that_cannot_be_made_is_done_without(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_bytes(b"")
    assert open_spill(tmp_path / "file" / "kv", 1 << 20, fingerprint="fake", page_bytes=PAGE_BYTES) is None
    assert "cannot be used" in caplog.text


def test_a_full_disk_ends_the_writing_with_one_line(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run(bench, DOCUMENT)
    press(bench)
    found = files(tmp_path)
    assert found

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(segment_module.os, "fsync", full)
    for i in range(3):
        run(bench, [64 + (i * 577 + 3 * j) % 4000 for j in range(900)])
        press(bench)
    assert [record.message for record in caplog.records if "no longer written" in record.message] == [caplog.messages[0]]
    assert "No space left" in caplog.text
    assert files(tmp_path) == found
    assert not list(tmp_path.glob("*.part"))
    assert run(bench, DOCUMENT).cached == 640  # what was written before can still be read


def test_a_really_full_disk(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(tmp_path)], capture_output=True).returncode:
        pytest.skip("no right to mount a small disk")
    try:
        bench = Bench(FakeProgram(pages=16), spill=spill(tmp_path))
        for i in range(40):
            run(bench, [64 + (i * 577 + 3 * j) % 4000 for j in range(900)])
            bench.scheduler.tree.spill.flush()
        assert caplog.text.count("no longer written") == 1
        assert run(bench, [64 + (3 * j) % 4000 for j in range(900)]).cached >= 0
        bench.scheduler.close(save=True)
        assert not list(tmp_path.glob("*.part"))
        kept = spill(tmp_path)
        assert len(kept) > 0
        kept.close()
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_slow_disk_costs_copies_not_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("senryu.engine.spill.WAITING_BYTES", 0)
    monkeypatch.setattr("senryu.engine.spill.FILE_BYTES", 0)  # one page a file, two may wait
    monkeypatch.setattr("senryu.engine.spill.write_segment", lambda *_: stop.wait())
    import threading

    stop = threading.Event()
    bench = Bench(FakeProgram(pages=16), spill=spill(tmp_path))
    for i in range(20):
        run(bench, [64 + (i * 577 + 3 * j) % 4000 for j in range(900)])
    assert len(bench.scheduler.tree.spill) == 2
    stop.set()
    bench.scheduler.close(save=False)


def test_a_step_reads_a_bounded_number_of_pages_and_neighbours_go_on(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    run(bench, DOCUMENT)
    press(bench)
    monkeypatch.setattr(scheduler_module, "RESTORE_BYTES", 2 * PAGE_BYTES)
    talker = bench.add(request(range(3000, 3010), 100))
    bench.step()
    reader = bench.add(request(DOCUMENT, 4))
    for pages in (2, 4, 6, 8, 10):
        tokens = len(bench.outputs[talker])
        bench.step()
        assert len(bench.outputs[talker]) == tokens + 1
        assert reader.computed == min(pages * 64, 640) + (60 if pages == 10 else 0)
    bench.finish()
    assert bench.outputs[reader] == solo(request(DOCUMENT, 4))


def test_aborts_while_pages_are_read(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    run(bench, DOCUMENT)
    press(bench)
    monkeypatch.setattr(scheduler_module, "RESTORE_BYTES", PAGE_BYTES)
    reader = bench.add(request(DOCUMENT, 4))
    bench.step()
    assert reader.computed == 64
    bench.scheduler.abort(reader)
    bench.scheduler.check()
    bench.scheduler.check_idle()
    assert run(bench, DOCUMENT).cached == 640


def test_an_engine_starts_warm(tmp_path: Path) -> None:
    async def serve() -> int:
        made = FakeEngine(check=True, pages=64, spill_directory=tmp_path / "kv", spill_bytes=1 << 20)
        wanted = request(DOCUMENT, 20)
        events = [event async for event in made.generate(wanted)]
        assert [token for event in events for token in event.tokens] == solo(wanted)
        await made.close()
        return events[0].cached

    assert [asyncio.run(serve()) for _ in range(3)] == [0, 640, 640]


def test_a_failed_engine_saves_nothing(tmp_path: Path) -> None:
    async def serve() -> None:
        made = FakeEngine(pages=64, spill_directory=tmp_path, spill_bytes=1 << 20)
        _ = [event async for event in made.generate(request(DOCUMENT, 2))]
        made.program.step = lambda batch: []  # not an array: a defect
        with pytest.raises(RuntimeError):
            _ = [event async for event in made.generate(request(DOCUMENT, 2))]
        await made.close()

    asyncio.run(serve())
    assert not files(tmp_path)


WRITER = """
    import itertools, sys
    from pathlib import Path
    from senryu.engine import spill as module
    module.FLUSH_SECONDS = 0.0
    module.FILE_BYTES = 1 << 15
    spill = module.Spill(Path(sys.argv[1]), 1 << 20, fingerprint="fake", page_bytes=4096)
    print("ready", flush=True)
    for i in itertools.count():
        digest = i.to_bytes(32, "little")
        while not spill.wants(digest):
            spill.wait(0.1)
        spill.put(digest, (i.to_bytes(8, "little") * 512))
"""


def test_a_kill_at_any_moment_leaves_whole_files(tmp_path: Path) -> None:
    found = 0
    for moment in (0.0, 0.01, 0.05, 0.12, 0.25, 0.5):
        arguments = [sys.executable, "-c", textwrap.dedent(WRITER), str(tmp_path)]
        with subprocess.Popen(arguments, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(moment)
            process.send_signal(signal.SIGKILL)
        kept = Spill(tmp_path, 1 << 20, fingerprint="fake", page_bytes=4096)
        assert not list(tmp_path.glob("*.part"))
        assert kept.nbytes <= 1 << 20
        for digest in list(kept._places):
            content = kept.read(digest)
            assert content is not None
            assert bytes(content) == digest[:8] * 512
            found += 1
        kept.close()
    assert found > 0


def test_a_segment_is_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / f"one{SUFFIX}"
    pages = [(bytes([i]) * 32, os.urandom(1000)) for i in range(5)]
    write_segment(path, "here", pages)
    segment = Segment(path, "here", 1000)
    assert [(digest, bytes(segment.read(i))) for i, digest in enumerate(segment.digests)] == pages
    segment.release()
    with pytest.raises(SegmentError):
        Segment(path, "there", 1000)
    with pytest.raises(SegmentError):
        Segment(path, "here", 999)


def test_a_file_that_is_removed_while_it_is_read_is_still_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writing thread makes room by `release` and unlink, at any moment of the engine's `read`."""
    path, content = tmp_path / f"one{SUFFIX}", os.urandom(1000)
    write_segment(path, "here", [(bytes(32), content)])
    segment = Segment(path, "here", 1000)

    class Removed(mmap.mmap):
        def madvise(self, *_: int) -> None:
            segment.release()
            path.unlink()

    monkeypatch.setattr(segment_module.mmap, "mmap", Removed)
    assert bytes(segment.read(0)) == content
