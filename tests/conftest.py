"""Fixtures that several rooms share, and how the tests run.

They compute in one thread unless OMP_NUM_THREADS is set: the models are too small to gain by more, and threads that
wait for each other on a busy machine take many times as long. `scripts/run_tests.py` runs them in several processes.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported; also for the processes that tests start

import gc
import shutil
import signal
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

if TYPE_CHECKING:
    from serving import Client, Running


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--shared", type=Path, help="folder in which several processes note which file each has taken")


def pytest_configure() -> None:
    """In a shell's background, or under nohup, signals are ignored here, but not in the processes that tests start."""
    for name in ("SIGINT", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, lambda *_: None)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With several processes the long files come first, so that none has one left when the others have ended."""
    if config.getoption("shared"):
        items.sort(key=lambda item: -item.path.stat().st_size)


def pytest_collection_finish() -> None:
    """All that was imported stays: Python's collector need not look at it again each time, which takes 0.4 s. It looks
    at the rest less often: each model that a test loads is thousands of objects, and they took a sixth of all the time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """With several processes, the tests of the files that this one takes; None leaves the loop to pytest."""
    folder = session.config.getoption("shared")
    if folder is None or session.testsfailed or session.config.option.collectonly:
        return None
    items = (item for item in session.items if take(item.path, folder))
    item = next(items, None)
    while item is not None:
        following = next(items, None)  # by which pytest decides what is torn down
        session.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if session.shouldfail:
            raise session.Failed(session.shouldfail)
        if session.shouldstop:
            raise session.Interrupted(session.shouldstop)
        item = following
    return True


@cache
def take(path: Path, folder: Path) -> bool:
    """Whether this process is the first to ask for a file."""
    try:
        (folder / "-".join(path.parts[1:])).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The user's own cache of hashes stays as it is."""
    os.environ["SDXL_CACHE_DIR"] = str(tmp_path_factory.mktemp("cache"))
    os.environ.pop("SDXL_MODELS_DIR", None)


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


@pytest.fixture(autouse=True)
def _without_loras(request: pytest.FixtureRequest) -> Iterator[None]:
    """The pipeline that tests share has no LoRAs of a call when the next one begins."""
    pipe = request.getfixturevalue("tiny_pipe") if "tiny_pipe" in request.fixturenames else None
    yield
    if pipe is not None:
        pipe.set_loras([])


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


@pytest.fixture(scope="session")
def converted(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import sdxl

    path = tmp_path_factory.mktemp("tiny") / "single.safetensors"
    sdxl.convert(tiny_folder, path)
    return path


@pytest.fixture
def single(converted: Path, tmp_path: Path) -> Path:
    """The tiny base model as a single file, a copy that a test may change."""
    return Path(shutil.copy(converted, tmp_path))


@pytest.fixture
def client(running: Running) -> Client:
    """The client of the service that a file starts as `running`."""
    return running.client
