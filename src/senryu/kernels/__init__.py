"""Arrays in, arrays out: the CPU kernels. The only package that imports numba; importing this file does not."""

from __future__ import annotations

from senryu.kernels.batch import Batch
from senryu.kernels.build import Kernels, Progress, available, cache_directory, features, load
from senryu.kernels.target import ISAS

PATHS = (*ISAS, "numpy", "fp32")  # best first; `available` says which run here

__all__ = ["PATHS", "Batch", "Kernels", "Progress", "available", "cache_directory", "features", "load"]
