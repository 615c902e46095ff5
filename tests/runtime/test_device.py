"""Which dtype a processor computes in."""

from __future__ import annotations

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


def test_a_gpu_that_torch_has_no_kernels_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def ones(*sizes: int, device: torch.device) -> torch.Tensor:
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nCompile with ...")

    monkeypatch.setattr(torch, "ones", ones)
    with pytest.raises(ArgumentError, match=r"'cuda' cannot .* execution on the device\); .* the PyTorch of your GPU$"):
        choose_device("cuda")


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="it is there")
def test_a_device_that_is_not_there() -> None:
    with pytest.raises(ArgumentError, match=r"device 'mps' cannot be used .*; torch .* finds cpu") as refused:
        choose_device("mps")
    assert len(str(refused.value)) < 250
