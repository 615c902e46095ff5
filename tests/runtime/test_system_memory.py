"""What is asked of systems that are not at hand, by doubles of their libraries."""

from __future__ import annotations

import ctypes
import math
import os
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sdxl.models.config import VAEConfig
from sdxl.runtime import memory
from sdxl.runtime.placement import Placement

MPS = torch.device("mps")
GIB = 2**30


class Kernel:
    """kernel32 of Windows: it fills structures by the bytes of its headers."""

    def __init__(self, answers: bool = True) -> None:
        self.answers = answers

    def GlobalMemoryStatusEx(self, status: Any) -> int:  # noqa: N802
        data = (ctypes.c_uint64 * 8).from_buffer(status._obj)
        assert data[0] & 0xFFFFFFFF == 64  # dwLength
        data[1:5] = [16 * GIB, 9 * GIB, 24 * GIB, 7 * GIB]  # total and free, of memory and of what is backed
        return int(self.answers)

    def K32GetProcessMemoryInfo(self, process: Any, counters: Any, size: Any) -> int:  # noqa: N802
        assert (process.value, size.value) == (ctypes.c_void_p(-1).value, 72)
        data = (ctypes.c_uint64 * 9).from_buffer(counters._obj)
        data[1:3] = [3 * GIB, 2 * GIB]  # peak and present
        return int(self.answers)


@pytest.mark.parametrize(("answers", "free", "resident"), [(True, 7 * GIB, 2 * GIB), (False, math.inf, 0)])
def test_windows(answers: bool, free: float, resident: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.platform", "win32")
    monkeypatch.setattr(ctypes, "windll", SimpleNamespace(kernel32=Kernel(answers)), raising=False)
    cpu = torch.device("cpu")
    assert (memory.available(cpu), memory.used(cpu)) == (free, resident)


@pytest.mark.parametrize("answers", [True, False])
def test_macos(answers: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def proc_pid_rusage(process: int, flavour: int, buffer: Any) -> int:
        assert (process, flavour) == (os.getpid(), 0)
        buffer._obj[8], buffer._obj[9] = 5 * GIB, 3 * GIB  # resident size and footprint
        return 0 if answers else -1

    monkeypatch.setattr("sys.platform", "darwin")
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 16384, "SC_PHYS_PAGES": GIB // 1024}.__getitem__)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(proc_pid_rusage=proc_pid_rusage))
    cpu = torch.device("cpu")
    footprint = 3 * GIB if answers else 0
    assert (memory.available(cpu), memory.used(cpu)) == (16 * GIB - footprint, footprint)


def test_apples_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its numbers all of a model in float32 would be put on a GPU that cannot hold it."""
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 11 * GIB)
    monkeypatch.setattr(torch.mps, "current_allocated_memory", lambda: 2 * GIB)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 3 * GIB)
    assert (memory.available(MPS), memory.used(MPS)) == (9 * GIB, 3 * GIB)
    sizes = [10 * GIB, 3 * GIB, GIB]
    assert memory.choose_offload("auto", sizes, 3 * GIB, MPS) == "block"
    assert memory.choose_offload("auto", [size // 2 for size in sizes], 2 * GIB, MPS) == "none"
    emptied: list[bool] = []
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "empty_cache", lambda: emptied.append(True))
    memory.trim()
    assert emptied == [True]


def test_intels_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A card of 6 GB in a machine with 64 was taken for one of 64: the whole model went to it."""
    arc = torch.device("xpu", 0)
    monkeypatch.setattr(torch.xpu, "get_device_properties", lambda device: SimpleNamespace(total_memory=6 * GIB))
    monkeypatch.setattr(torch.xpu, "memory_allocated", lambda device: GIB)
    monkeypatch.setattr(torch.xpu, "memory_reserved", lambda device: 2 * GIB)
    assert (memory.available(arc), memory.used(arc)) == (5 * GIB, 2 * GIB)
    assert memory.choose_offload("auto", [5 * GIB, 2 * GIB, GIB], 2 * GIB, arc) == "block"
    emptied: list[bool] = []
    monkeypatch.setattr(torch.xpu, "is_available", lambda: True)
    monkeypatch.setattr(torch.xpu, "empty_cache", lambda: emptied.append(True))
    memory.trim()
    assert emptied == [True]


def test_apples_words_for_too_little_memory() -> None:
    for words in ("MPS backend out of memory (MPS allocated: 9.06 GiB)", "Invalid buffer size: 19.38 GiB"):
        assert memory.is_out_of_memory(RuntimeError(words))


def test_maps_that_apples_gpu_cannot_hold() -> None:
    config = VAEConfig()
    half, whole = (Placement(MPS, dtype, dtype) for dtype in (torch.bfloat16, torch.float32))
    assert memory.fits_in_a_map(config, (1024, 1024), 4, whole)
    assert memory.fits_in_a_map(config, (2048, 2048), 1, whole)
    assert not memory.fits_in_a_map(config, (2048, 2112), 1, whole)
    assert memory.fits_in_a_map(config, (2048, 2112), 1, half)
    assert not memory.fits_in_a_map(config, (2048, 2112), 2, half)
    assert memory.fits_in_a_map(config, (8192, 8192), 1, Placement(torch.device("cpu"), torch.float32, torch.float32))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_maps_whose_numbers_cuda_cannot_count(dtype: torch.dtype) -> None:
    """A decoder has 256 channels at the size of the image: 2**31 numbers at 8.4 million pixels."""
    config, at = VAEConfig(), Placement(torch.device("cuda"), dtype, dtype)
    assert memory.fits_in_a_map(config, (2888, 2896), 1, at)
    assert not memory.fits_in_a_map(config, (2048, 4096), 1, at)
    assert not memory.fits_in_a_map(config, (2048, 2048), 2, at)
