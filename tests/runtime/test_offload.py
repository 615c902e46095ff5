"""Which offload is chosen for the memory that there is."""

from __future__ import annotations

import pytest
import torch

from sdxl.errors import ArgumentError
from sdxl.runtime.memory import RESERVE, choose_offload

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("device", "limit", "chosen"),
    [
        ("cpu", 20, "stage"),
        ("cpu", 3, "stage"),
        ("cpu", 1, "block"),
        ("cuda", 5, "none"),
        ("cuda", 4, "text"),
        ("cuda", 3, "stage"),
        ("cuda", 2, "block"),
    ],
)
def test_auto_takes_what_fits(device: str, limit: int, chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdxl.runtime.memory.available", lambda device: 1e12)
    most = limit * 10**9 + RESERVE
    assert choose_offload("auto", [10**9, 3 * 10**9, 10**9], 10**9, torch.device(device), most) == chosen


def test_offload_is_checked() -> None:
    with pytest.raises(ArgumentError, match="auto, none, text, stage, block"):
        choose_offload("disk", [1], 0, CPU, None)
