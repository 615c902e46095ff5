"""Which dtype a processor computes in."""

from __future__ import annotations

import pytest
import torch

from sdxl.runtime.device import cpu_seconds, default_dtype
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
