"""Fixtures that several rooms share, and how the tests run.

They compute in one thread unless OMP_NUM_THREADS is set: the models are too small to gain by more, and threads that
wait for each other on a busy machine take many times as long. `scripts/run_tests.py` runs them in several processes.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported; also for the processes that tests start

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--shared", type=Path, help="folder in which several processes note which file each has taken")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With several processes the long files come first, so that none has one left when the others have ended."""
    if config.getoption("shared"):
        items.sort(key=lambda item: -item.path.stat().st_size)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> bool | None:
    """True, which is "it is done", for a test whose file another process has taken."""
    folder = item.config.getoption("shared")
    return None if folder is None or take(item.path, folder) else True


@cache
def take(path: Path, folder: Path) -> bool:
    """Whether this process is the first to ask for a file."""
    try:
        (folder / "-".join(path.parts[1:])).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


@pytest.fixture(scope="session")
def reference_pipe() -> Any:
    """diffusers' pipeline of the tiny base model."""
    import tiny

    return tiny.pipeline()


@pytest.fixture(scope="session")
def tiny_folder(reference_pipe: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny base model as diffusers saves it."""
    folder = tmp_path_factory.mktemp("tiny") / "base"
    reference_pipe.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_pipe(tiny_folder: Path) -> Any:
    import sdxl

    return sdxl.Pipeline.from_pretrained(tiny_folder, dtype="float32", device="cpu")


@pytest.fixture(scope="session")
def refiner_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import tiny

    folder = tmp_path_factory.mktemp("tiny") / "refiner"
    tiny.save_refiner(folder)
    return folder


@pytest.fixture(scope="session")
def inpainting_pipe(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The tiny inpainting model of 9 channels, from a single file."""
    import tiny

    import sdxl

    folder = tmp_path_factory.mktemp("tiny")
    tiny.inpainting(9).save_pretrained(folder / "inpainting")
    sdxl.convert(folder / "inpainting", folder / "inpainting.safetensors")
    return sdxl.Pipeline.from_pretrained(folder / "inpainting.safetensors", dtype="float32", device="cpu")


def error(ours: torch.Tensor, reference: torch.Tensor) -> float:
    """max|a-b| / max|b|."""
    assert ours.shape == reference.shape, (ours.shape, reference.shape)
    assert ours.isfinite().all()
    return float((ours.double() - reference.double()).abs().max() / reference.double().abs().max())


@pytest.fixture(scope="session", name="error")
def _error() -> Any:
    return error


@pytest.fixture
def single(tiny_folder: Path, tmp_path: Path) -> Path:
    """The tiny base model as a single file."""
    import sdxl

    sdxl.convert(tiny_folder, tmp_path / "single.safetensors")
    return tmp_path / "single.safetensors"
