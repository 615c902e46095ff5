"""The ways to keep a model in memory. Imports no torch."""

from __future__ import annotations

from typing import Literal, get_args

Offload = Literal["auto", "none", "text", "stage", "block"]  # but for auto from the most memory to the least
OFFLOADS: tuple[str, ...] = get_args(Offload)


def ways(device: str, int8: bool) -> list[str]:
    """The ways that make sense on a device type, from the most memory to the least; 8 bits cannot be streamed."""
    without = {"text"} if device == "cpu" else set()
    without |= {"block"} if int8 else set()
    return [name for name in OFFLOADS[1:] if name not in without]


def next_smaller(offload: str, device: str, int8: bool) -> str | None:
    """The way that takes less memory than `offload`, if there is one."""
    order = ways(device, int8)
    return order[order.index(offload) + 1] if offload in order[:-1] else None
