"""A model's weights as kernels read them: packed when first asked for, kept in a file, mapped from it by later starts."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from senryu import caches
from senryu.kernels import layout, pack, reference
from senryu.kernels.pack import FloatMatrix, Format, PackedMatrix
from senryu.model import packed_file, quantize
from senryu.model.packed_file import Item, PackedFileError
from senryu.model.quantize import float_rows, halve, pack_rows
from senryu.model.spec import ModelSpec
from senryu.model.transformer import Float32Weights

log = logging.getLogger("senryu.model")

FILE = "packed.bin"


def cache_file(root: Path, spec: ModelSpec, weights: Float32Weights, format: Format) -> Path:
    """Where below `root` these weights lie packed; named by the weights, the spec, the format and the code that packs."""
    digest = hashlib.sha256(f"{weights.fingerprint}\n{spec!r}\n{format}\n".encode())
    for source in (layout.__file__, pack.__file__, reference.__file__, quantize.__file__, __file__):
        digest.update(Path(source).read_bytes())
    return root / digest.hexdigest()[:32] / FILE


def kept_files(root: Path) -> list[Path]:
    """Every file of packed weights below `root`."""
    return sorted(root.glob(f"*/{FILE}"))


def check_files(root: Path) -> Iterator[tuple[Path, int, str]]:
    """`kept_files`, verified to the last byte: (file, its size, what is wrong or "").

    Damaged ones are removed: the next start makes them again.
    """
    for file in kept_files(root):
        size, why = file.stat().st_size, ""
        try:
            packed_file.read(file, whole=True)
        except (PackedFileError, OSError) as error:
            why = str(error)
            file.unlink(missing_ok=True)
        yield file, size, why


class PackedWeights:
    """The matrices of a model in one format. `keep` writes the file, when anything had to be packed."""

    def __init__(self, weights: Float32Weights, format: Format | None, file: Path | None = None, spare: int = 0) -> None:
        """format: None leaves float32. file: where they are kept (see `cache_file`); None keeps nothing. spare: see `read`."""
        self.weights, self._format, self._file = weights, format, file
        self._items = self._kept(spare) if file else {}
        if file:
            caches.use(file.parent)
        self._new = False

    def _kept(self, spare: int) -> dict[str, Item]:
        """What the file holds; a damaged one is dropped."""
        assert self._file is not None
        try:
            return packed_file.read(self._file, spare=spare)
        except FileNotFoundError:
            return {}
        except PackedFileError as error:
            log.warning("%s is dropped and the weights are packed again: %s", self._file, error)
            self._file.unlink(missing_ok=True)
        except OSError as error:
            log.warning("%s cannot be read, so the weights are packed again: %s", self._file, error)
        return {}

    def matrix(
        self, *names: str, factor: float = 1.0, block: int = 0, format: Format | None = None
    ) -> PackedMatrix | FloatMatrix:
        """Matrices that read the same rows, as one, times `factor`; `block`: those rows were spread by it.

        format: another than the model's.
        """
        format = format or self._format
        if format is None:
            return float_rows(*self._parts(names, block), factor)
        key = f"{'+'.join(names)} *{factor!r} /{block} {format}"
        if key in self._items:
            item = self._items[key]
            return pack.matrix(item.meta["n"], item.meta["k"], format, item.arrays)
        matrix = pack_rows(*self._parts(names, block), factor, format)
        fields = {name: getattr(matrix, name) for name in pack.arrays(matrix.n, matrix.k, format)}
        self._add(key, Item({"n": matrix.n, "k": matrix.k}, fields))
        return matrix

    def _parts(self, names: tuple[str, ...], block: int) -> tuple[list[np.ndarray], list[np.ndarray | None]]:
        parts = [self.weights.float32(f"{n}.weight") for n in names]
        if block:
            parts = [reference.hadamard(part, block) / np.float32(block) for part in parts]
        return parts, [self.weights.float32(f"{n}.bias") if f"{n}.bias" in self.weights else None for n in names]

    def table(self, name: str) -> np.ndarray:
        """A table that is read by rows: bfloat16 as uint16 where nothing is lost by it, else float32."""
        if name in self._items:
            return self._items[name].arrays["table"]
        table = np.ascontiguousarray(halve(self.weights.float32(name)))
        self._add(name, Item({}, {"table": table}))
        return table

    def _add(self, key: str, item: Item) -> None:
        self._items[key], self._new = item, self._file is not None

    def keep(self) -> None:
        """Write what is not in the file yet. A full disk costs the next start its time, nothing else."""
        if self._new:
            assert self._file is not None
            try:
                packed_file.write(self._file, self._items)
            except OSError as error:
                log.warning("packed weights could not be kept, so the next start packs them again: %s", error)
        self._items, self._new = {}, False
