"""How much memory there is, how much a model wants, and which of its parts are to be in it at a time."""

from __future__ import annotations

import ctypes
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import torch

from .errors import ArgumentError

Offload = Literal["auto", "none", "text", "stage", "block"]
OFFLOADS: tuple[str, ...] = get_args(Offload)
ROOM = 1_500_000_000  # bytes beside the weights: for the interpreter, and feature maps of a 1024 x 1024 picture


def available(device: torch.device) -> float:
    """Bytes that are free on a device; infinity where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    table = Path("/proc/meminfo")
    lines = table.read_text().splitlines() if table.exists() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable")), math.inf)


def used(device: torch.device) -> int:
    """Bytes that this process holds on a device; 0 where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    table = Path("/proc/self/statm")
    return int(table.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if table.exists() else 0


def choose_offload(offload: str, parts: Sequence[int], text: int, device: torch.device, max_memory: int | None) -> str:
    """`offload` itself, or what "auto" stands for: the one that fits and costs the least time.

    `parts` are the bytes of all parts, `text` those of the text encoders; at most `max_memory` may be taken. On a CPU
    stage comes first: a part costs little to load, and the memory is everybody's.
    """
    if offload not in OFFLOADS:
        raise ArgumentError(f"offload is {offload!r}; it must be one of {', '.join(OFFLOADS)}")
    if max_memory is not None and max_memory <= 0:
        raise ArgumentError(f"max_memory is {max_memory}; it must be above 0")
    if offload != "auto":
        return offload
    limit = min(available(device), math.inf if max_memory is None else max_memory) - ROOM
    needs = {"stage": max(parts), "block": 0}
    if device.type != "cpu":
        needs = {"none": sum(parts), "text": sum(parts) - text, **needs}
    return next((name for name, need in needs.items() if need <= limit), "block")


def trim() -> None:
    """Give memory that was freed back to the system: glibc keeps what it had in small pieces."""
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
