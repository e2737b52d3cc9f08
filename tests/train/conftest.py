"""Shared by the training tests: the toy bundle, the toy recipe, one thread."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from toy_bundle import TOY, write_bundle

from senryu.train.recipe import Recipe, load_recipe


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def one_format() -> Iterator[None]:
    """A busy machine may measure another number format as the fastest each time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("senryu.train.device._seconds", lambda dtype: float(dtype is not torch.float32))
        yield


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="session")
def recipe() -> Recipe:
    return load_recipe(TOY)
