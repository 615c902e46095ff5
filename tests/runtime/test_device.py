"""Which dtype a processor computes in."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sdxl.errors import ArgumentError
from sdxl.runtime.device import choose_device, choose_dtype, cpu_seconds, default_dtype
from sdxl.runtime.placement import Placement, choose_placement

CPU = torch.device("cpu")


def test_arithmetic_is_in_the_dtype_that_is_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    times = {torch.float32: 2.0, torch.bfloat16: 1.0, torch.float16: 3.0}
    monkeypatch.setattr("sdxl.runtime.device.cpu_seconds", lambda: times)
    assert default_dtype(CPU) is torch.bfloat16
    assert [choose_placement(CPU, dtype).arithmetic for dtype in times] == [
        torch.float32,
        torch.bfloat16,
        torch.float32,
    ]
    times[torch.bfloat16] = 3.0
    assert default_dtype(CPU) is torch.float32
    assert choose_placement(CPU, torch.bfloat16) == Placement(CPU, torch.bfloat16, torch.float32)


@pytest.mark.parametrize(
    ("name", "capability", "dtypes"),
    [
        ("NVIDIA H100 80GB HBM3", (9, 0), "bfloat16 float16"),
        ("NVIDIA GeForce RTX 3060", (8, 6), "bfloat16 float16"),
        ("Tesla T4", (7, 5), "float16"),
        ("NVIDIA GeForce RTX 2080 Ti", (7, 5), "float16"),
        ("Tesla V100-SXM2-16GB", (7, 0), "float16"),
        ("NVIDIA GeForce GTX 1660 Ti", (7, 5), ""),
        ("Quadro T2000 with Max-Q Design", (7, 5), ""),
        ("NVIDIA T400 4GB", (7, 5), ""),
        ("NVIDIA GeForce MX450", (7, 5), ""),
        ("Quadro RTX 4000", (7, 5), "float16"),
        ("NVIDIA GeForce GTX 1080", (6, 1), ""),
    ],
)
def test_the_dtype_of_a_gpu(
    name: str, capability: tuple[int, int], dtypes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """16 bits wherever the card is fast at them; products of float16 are wrong on cards such as the GTX 1660."""
    of_card = SimpleNamespace(name=name, major=capability[0], minor=capability[1])
    monkeypatch.setattr("torch.version.hip", None)
    check_dtypes("cuda:1", of_card, dtypes, monkeypatch)


@pytest.mark.parametrize(
    ("architecture", "dtypes"),
    [
        ("gfx942:sramecc+:xnack-", "bfloat16 float16"),
        ("gfx908", "bfloat16 float16"),
        ("gfx1100", "bfloat16 float16"),
        ("gfx1201", "bfloat16 float16"),
        ("gfx1030", "float16"),
        ("gfx906:sramecc+:xnack-", "float16"),
        ("gfx90c", "float16"),
        ("gfx90a:sramecc+:xnack-", "bfloat16 float16"),
    ],
)
def test_the_dtype_of_a_gpu_by_amd(architecture: str, dtypes: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those before RDNA 3 and the first CDNA have no instructions for bfloat16."""
    of_card = SimpleNamespace(name="AMD Radeon", major=10, minor=3, gcnArchName=architecture)
    monkeypatch.setattr("torch.version.hip", "6.4")
    check_dtypes("cuda", of_card, dtypes, monkeypatch)


def check_dtypes(device: str, of_card: Any, dtypes: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.get_device_properties", {torch.device(device): of_card}.__getitem__)
    at, fast = torch.device(device), [getattr(torch, name) for name in dtypes.split()]
    assert default_dtype(at) is [*fast, torch.float32][0]
    for dtype in (torch.bfloat16, torch.float16):
        arithmetic = dtype if dtype in fast else torch.float32
        assert choose_placement(at, dtype) == Placement(at, dtype, arithmetic)


@pytest.mark.parametrize(("device", "dtype"), [("mps", torch.float16), ("xpu", torch.bfloat16)])
def test_the_dtype_of_other_gpus(device: str, dtype: torch.dtype) -> None:
    at = torch.device(device)
    assert default_dtype(at) is dtype
    assert choose_placement(at, dtype) == Placement(at, dtype, dtype)


def test_the_processor_is_tried_quickly() -> None:
    assert set(cpu_seconds()) == {torch.float32, torch.bfloat16, torch.float16}
    assert all(0 < seconds < 1 for seconds in cpu_seconds().values())


def test_a_dtype_that_the_device_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Apple's GPU before macOS 14, and MPS elsewhere."""
    empty = torch.empty

    def old(*sizes: int, dtype: torch.dtype | None = None, **more: Any) -> torch.Tensor:
        if dtype is torch.bfloat16:
            raise TypeError("BFloat16 is not supported on MPS")
        return empty(*sizes, dtype=dtype, **more)

    monkeypatch.setattr(torch, "empty", old)
    with pytest.raises(ArgumentError, match=r"dtype is 'bfloat16', which cpu .* on MPS\); give float32 or float16$"):
        choose_dtype("bfloat16", CPU)
    assert choose_dtype("float16", CPU) is torch.float16


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="it is there")
def test_a_device_that_is_not_there() -> None:
    with pytest.raises(ArgumentError, match=r"device 'mps' cannot be used .*; torch .* finds cpu") as refused:
        choose_device("mps")
    assert len(str(refused.value)) < 250


@pytest.mark.parametrize("device", [None, "cuda"])
def test_a_gpu_that_is_too_old_for_torch(device: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has memory, and kernels fail; so it is refused before a model is loaded."""
    words = "CUDA error: no kernel image is available for execution on the device\nCUDA kernel errors might"

    def no_kernel(*sizes: int, **options: Any) -> torch.Tensor:
        raise RuntimeError(words)

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr(torch, "ones", no_kernel)
    with pytest.raises(ArgumentError, match=r"device 'cuda' cannot be used \(CUDA error: no kernel .* finds cpu here"):
        choose_device(device)
