"""Packed weights that are kept: mapped by the next start, made again whenever something is wrong, and never in the way."""

from __future__ import annotations

import errno
import logging
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import programs
import pytest

from senryu.kernels import layout, pack, reference
from senryu.kernels.pack import FORMATS, Format
from senryu.model import packed, packed_file, quantize
from senryu.model.packed import PackedWeights, cache_file, check_files
from senryu.model.packed_file import Item, PackedFileError, read, write
from senryu.model.program import Program
from senryu.model.weights import Weights

SPEC = programs.SPECS["cohere2"]
WEIGHTS = programs.weights(SPEC)
IDS = programs.ids(40, SPEC.vocab)


class VectorsOnly:
    """Weights whose matrices cannot be read: a start from the file needs only norms."""

    fingerprint = WEIGHTS.fingerprint

    def __contains__(self, name: object) -> bool:
        return name in WEIGHTS

    def float32(self, name: str) -> np.ndarray:
        assert "norm" in name, f"{name} was read"
        return WEIGHTS.float32(name)


def logits(root: Path, format: Format = "int8", weights: Any = WEIGHTS) -> np.ndarray:
    """What a start says that keeps its packed weights below `root`."""
    program = Program(SPEC, weights, pages=2, kernels="numpy", format=format, weights_dir=root)
    return programs.logits_in_chunks(program, IDS, 40, [0])


def only_file(root: Path) -> Path:
    (file,) = root.glob("*/*")
    return file


@pytest.fixture(params=["whole", "samples"])
def checking(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to verify a file at a start: small ones whole, large ones by samples."""
    if request.param == "samples":
        monkeypatch.setattr(packed_file, "WHOLE", 0)
    return request.param


@pytest.mark.parametrize("format", FORMATS)
def test_a_second_start_maps_what_the_first_packed(tmp_path: Path, checking: str, format: Format) -> None:
    first = logits(tmp_path, format)
    file = only_file(tmp_path)
    before = file.stat()
    np.testing.assert_array_equal(logits(tmp_path, format, VectorsOnly()), first)
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert file.parent.stat().st_mode & 0o077 == 0
    assert [(f, why) for f, _, why in check_files(tmp_path)] == [(file, "")]
    for item in read(file).values():
        for array in item.arrays.values():
            assert not array.flags.writeable
            assert array.ctypes.data % 64 == 0


def test_a_file_is_for_one_model_one_spec_and_one_format(tmp_path: Path) -> None:
    changed = Weights({name: WEIGHTS[name] * (1 if "norm" in name else 2) for name in WEIGHTS})
    names = {cache_file(tmp_path, SPEC, WEIGHTS, format) for format in FORMATS}
    names |= {cache_file(tmp_path, SPEC, changed, "int8"), cache_file(tmp_path, programs.SPECS["llama"], WEIGHTS, "int8")}
    assert len(names) == 5
    assert cache_file(tmp_path, SPEC, WEIGHTS, "int8") in names


@pytest.mark.parametrize("module", [layout, pack, reference, quantize, packed])
def test_a_file_is_for_one_version_of_the_code_that_packs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: Any) -> None:
    before = cache_file(tmp_path, SPEC, WEIGHTS, "int8")
    edited = tmp_path / "edited.py"
    edited.write_text(Path(module.__file__).read_text() + "# another version")
    monkeypatch.setattr(module, "__file__", str(edited))
    assert cache_file(tmp_path, SPEC, WEIGHTS, "int8") != before


def damage(file: Path, how: str) -> None:
    """`how`: a place (0 to 1) where a byte is flipped, `cut` to a part, or `hole`: the second half is zeros."""
    content = bytearray(file.read_bytes())
    kind, _, where = how.partition(" ")
    at = int(float(where) * (len(content) - 1))
    if kind == "flip":
        content[at] ^= 1
    elif kind == "cut":
        del content[at:]
    else:
        content[at:] = bytes(len(content) - at)
    file.unlink()
    file.write_bytes(content)


@pytest.mark.parametrize(
    "how", ["flip 0", "flip 0.00001", "flip 0.001", "cut 0", "cut 0.00001", "cut 0.5", "cut 1", "hole 0.5"]
)
def test_a_damaged_file_is_made_again(tmp_path: Path, checking: str, caplog: pytest.LogCaptureFixture, how: str) -> None:
    first = logits(tmp_path)
    good = only_file(tmp_path).read_bytes()
    damage(only_file(tmp_path), how)
    with caplog.at_level(logging.INFO):
        np.testing.assert_array_equal(logits(tmp_path), first)
    (record,) = caplog.records
    assert "packed again" in record.message
    assert only_file(tmp_path).read_bytes() == good
    np.testing.assert_array_equal(logits(tmp_path, weights=VectorsOnly()), first)


@pytest.mark.parametrize("where", [0.02, 0.3, 0.5, 0.77, 0.999])
def test_a_whole_check_sees_every_byte(tmp_path: Path, where: float) -> None:
    logits(tmp_path)
    file = only_file(tmp_path)
    damage(file, f"flip {where}")
    with pytest.raises(PackedFileError):
        read(file, whole=True)
    ((found, size, why),) = check_files(tmp_path)
    assert (found, size > 0) == (file, True)
    assert "damaged" in why
    assert not file.exists()


def test_a_header_that_lies_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Right checksums over a wrong place or dtype: nothing is mapped outside the file."""
    monkeypatch.setattr(packed_file, "ALIGN", 8)
    write(tmp_path / "a", {"x": Item({}, {"a": np.zeros(8, np.uint8), "b": np.arange(64, dtype=np.uint8)})})
    monkeypatch.undo()
    with pytest.raises(PackedFileError):
        read(tmp_path / "a")
    write(tmp_path / "b", {"x": Item({}, {"a": np.zeros(8, np.float64)})})
    with pytest.raises(PackedFileError, match="malformed"):
        read(tmp_path / "b")


class FullDisk:
    """A file that takes `room` bytes."""

    def __init__(self, file: Any, room: int) -> None:
        self.file, self.room = file, room

    def write(self, content: Any) -> int:
        self.room -= len(content)
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return int(self.file.write(content))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def __enter__(self) -> FullDisk:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()


@pytest.mark.parametrize("room", [0, 5_000, 100_000])
def test_a_full_disk_costs_time_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, room: int
) -> None:
    want = logits(tmp_path / "elsewhere")

    def full(name: Any, mode: str) -> Any:
        return FullDisk(open(name, mode), room) if "w" in mode else open(name, mode)

    monkeypatch.setattr(packed_file, "open", full, raising=False)
    with caplog.at_level(logging.INFO):
        np.testing.assert_array_equal(logits(tmp_path / "full"), want)
    (record,) = caplog.records
    assert "No space left" in record.message
    assert not list((tmp_path / "full").glob("*/*"))


def test_a_place_that_cannot_be_written_costs_time_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("not a directory")
    with caplog.at_level(logging.INFO):
        np.testing.assert_array_equal(logits(tmp_path / "file"), logits(tmp_path / "elsewhere"))
    assert caplog.records


def test_many_writers_and_readers_at_once(tmp_path: Path) -> None:
    """A reader finds the file whole or not at all, and keeps what it has mapped while others replace it."""
    items = {str(i): Item({"i": i}, {"a": np.full(50_000, i, np.int32)}) for i in range(5)}
    path, failures, done = tmp_path / "dir" / "file", [], threading.Event()
    reads = [0] * 2

    def guarded(work: Any) -> None:
        try:
            work()
        except BaseException as error:
            failures.append(error)

    def keep_reading(slot: int) -> None:
        while not done.is_set() or not reads[slot]:
            try:
                found = read(path, whole=True)
            except FileNotFoundError:
                continue
            reads[slot] += 1
            assert all((item.arrays["a"] == item.meta["i"]).all() for item in found.values())

    writers = [threading.Thread(target=guarded, args=(lambda: [write(path, items) for _ in range(5)],)) for _ in range(3)]
    readers = [threading.Thread(target=guarded, args=(lambda slot=slot: keep_reading(slot),)) for slot in range(2)]
    for thread in (*readers, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    for thread in readers:
        thread.join()
    assert not failures
    assert min(reads) > 0
    assert list(path.parent.iterdir()) == [path]


def test_two_starts_at_once_both_work(tmp_path: Path) -> None:
    """Each has found no file and packs for itself; the second to finish replaces the first one's file."""
    file = cache_file(tmp_path, SPEC, WEIGHTS, "int8")
    both = [PackedWeights(WEIGHTS, "int8", file) for _ in range(2)]
    matrices = [one.matrix("model.layers.0.self_attn.o_proj") for one in both]
    for one in both:
        one.keep()
    later = [PackedWeights(VectorsOnly(), "int8", file, spare) for spare in (0, 1 << 30)]  # mapped, copied
    for matrix in (*matrices, *(one.matrix("model.layers.0.self_attn.o_proj") for one in later)):
        np.testing.assert_array_equal(matrix.packed, matrices[0].packed)


def test_what_a_killed_process_had_begun_goes(tmp_path: Path) -> None:
    logits(tmp_path)
    folder = only_file(tmp_path).parent
    old, new = folder / "packed.bin.old.tmp", folder / "packed.bin.new.tmp"
    for file in (old, new):
        file.write_bytes(b"begun")
    os.utime(old, (0, 0))
    only = next(folder.glob("*.bin"))
    write(only, read(only))
    assert sorted(folder.iterdir()) == sorted([only, new])


@pytest.mark.parametrize("spare", [0, 1 << 30])
def test_what_was_read_cannot_be_written(tmp_path: Path, spare: int) -> None:
    write(tmp_path / "a", {"a": Item({}, {"x": np.arange(5, dtype=np.int32)})})
    array = read(tmp_path / "a", spare=spare)["a"].arrays["x"]
    assert array.tolist() == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 1
