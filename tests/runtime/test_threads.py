"""Loading in several threads: the same weights as in one, nothing of the file left in memory, errors and modes kept."""

from __future__ import annotations

import shutil
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sdxl.errors import SDXLError
from sdxl.pipeline.network_loading import load as load_network
from sdxl.runtime import settle as settling
from sdxl.runtime.int8 import can_quantize
from sdxl.runtime.onednn import can_pack
from sdxl.runtime.placement import Placement
from sdxl.runtime.threads import share
from sdxl.weights.checkpoint import open_checkpoint

CPU = torch.device("cpu")
FLOAT, HALF = torch.float32, torch.bfloat16
PLACEMENTS = [
    pytest.param(Placement(CPU, FLOAT, FLOAT), id="plain"),
    pytest.param(Placement(CPU, HALF, FLOAT), id="cast"),
    pytest.param(
        Placement(CPU, FLOAT, FLOAT, packed=True),
        id="packed",
        marks=pytest.mark.skipif(not can_pack(CPU), reason="no packed layers"),
    ),
    pytest.param(
        Placement(CPU, HALF, HALF, packed=True),
        id="packed bfloat16",
        marks=pytest.mark.skipif(not can_pack(CPU, HALF), reason="no packed layers in bfloat16"),
    ),
    pytest.param(
        Placement(CPU, FLOAT, FLOAT, packed=can_pack(CPU), int8=True),
        id="int8",
        marks=pytest.mark.skipif(not can_quantize(CPU), reason="no layers in 8 bits"),
    ),
]


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_results_keep_the_order_and_torch_computes_alone() -> None:
    main = threading.current_thread()
    meet = threading.Barrier(3, timeout=60)

    def work(item: int) -> tuple[int, bool, int]:
        if item < 3:
            meet.wait()  # three threads have one each
        return item, threading.current_thread() is main, torch.get_num_threads()

    assert list(share(work, range(20))) == [(item, False, 1) for item in range(20)]
    assert torch.get_num_threads() == 3
    with ThreadPoolExecutor(1) as others:
        assert others.submit(torch.get_num_threads).result() == 3, "no other thread feels it"


def test_one_thread_works_by_itself() -> None:
    torch.set_num_threads(1)
    assert list(share(lambda _: threading.current_thread(), range(3))) == [threading.current_thread()] * 3


def test_an_error_ends_the_work() -> None:
    begun: list[int] = []

    def work(item: int) -> None:
        begun.append(item)
        raise SDXLError(f"item {item}")

    with pytest.raises(SDXLError, match="item 0"):
        list(share(work, range(10_000)))
    assert len(begun) < 10_000
    assert not any(thread.name.startswith("ThreadPool") for thread in threading.enumerate())


def test_the_mode_of_the_caller_holds() -> None:
    with torch.inference_mode():
        assert all(share(lambda _: torch.empty(1).is_inference(), range(4)))
    assert not any(share(lambda _: torch.empty(1).is_inference(), range(4)))


def values(network: nn.Module) -> dict[str, Tensor]:
    """All tensors of a network, those of packed layers in the plain layout."""
    found = {}
    for name, module in network.named_modules():
        own: dict[str, Any] = {**vars(module), **dict(vars(module)["_parameters"])}
        for key, value in own.items():
            if torch.is_tensor(value):
                found[f"{name}.{key}"] = value.to_dense() if value.is_mkldnn else value.detach()
    return found


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("name", ["unet", "vae", "text_encoder_2"])
def test_several_threads_load_the_same(
    name: str, placement: Placement, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    component = open_checkpoint(tiny_folder).components[name]
    loaded = values(load_network(component, placement))
    monkeypatch.setattr(settling, "share", map)
    expected = values(load_network(component, placement))
    assert loaded.keys() == expected.keys()
    assert len(loaded) > 20
    assert all(loaded[key].dtype == each.dtype and torch.equal(loaded[key], each) for key, each in expected.items())


@pytest.mark.skipif(sys.platform != "linux", reason="Linux tells what is in memory")
def test_what_was_read_is_forgotten_and_nothing_else(tiny_folder: Path, tmp_path: Path) -> None:
    own = shutil.copytree(tiny_folder, tmp_path / "own")  # which is mapped nowhere else
    component = open_checkpoint(own).components["unet"]
    path = component.weights.files[0].path

    def resident() -> int:
        lines = Path("/proc/self/smaps").read_text().splitlines()
        first = next(n for n, line in enumerate(lines) if line.endswith(str(path)))
        return next(int(line.split()[1]) for line in lines[first:] if line.startswith("Rss:"))

    tensors = [tensor for _, tensor in component.tensors()]
    copies = [tensor.clone() for tensor in tensors]
    before = resident()
    largest = max(tensors, key=lambda tensor: tensor.nbytes)
    component.forget(largest)
    assert largest.nbytes / 1024 - 4 <= before - resident() <= largest.nbytes / 1024 + 8
    component.forget(torch.ones(3))  # not of the file
    component.forget(*tensors)
    header = path.stat().st_size - sum(tensor.nbytes for tensor in tensors)
    assert resident() <= header / 1024 + 4
    assert all(map(torch.equal, tensors, copies)), "they are read again"
