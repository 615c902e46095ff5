"""Where and in which precision the networks compute."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import cache
from typing import cast

import torch
import torch.nn.functional as F

from .errors import ArgumentError
from .pack import can_pack

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def default_device() -> torch.device:
    """CUDA, Apple's GPU, or the CPU: the first that is there."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def default_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the hardware computes it fast, else float32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    return torch.bfloat16 if device.type == "cpu" and is_fast(torch.bfloat16, device) else torch.float32


def is_fast(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether a device computes in `dtype` faster than in float32."""
    return device.type != "cpu" or matrix_rate(dtype) > 1.2 * matrix_rate(torch.float32)


@dataclass(frozen=True)
class Placement:
    """Where a network's weights lie, what they are in, and what it computes in.

    `packed`: laid out for a CPU. `streamed`: the matrices stay where they are read from, and every layer fetches its
    own when it is called.
    """

    device: torch.device
    dtype: torch.dtype
    arithmetic: torch.dtype
    packed: bool = False
    streamed: bool = False


def place(device: torch.device, dtype: torch.dtype, streamed: bool = False) -> Placement:
    """The fastest placement: arithmetic in float32 where a CPU is slower in the dtype of the weights."""
    computed = dtype if dtype is torch.float32 or is_fast(dtype, device) else torch.float32
    return Placement(device, dtype, computed, computed is dtype and not streamed and can_pack(device), streamed)


@cache
def matrix_rate(dtype: torch.dtype) -> float:
    """How fast this CPU multiplies matrices of a dtype, in FLOP/s.

    Tried out, in some milliseconds: a processor that has instructions for a dtype need not be fast at it. (AVX-512's
    for bfloat16 run at twice the rate of float32 on AMD's cores and at half of it on Intel's.)
    """
    rows, columns = 256, 1024
    a, b = torch.ones(rows, columns, dtype=dtype), torch.ones(columns, columns, dtype=dtype)
    seconds = math.inf
    for _ in range(4):
        began = time.perf_counter()
        F.linear(a, b)
        seconds = min(seconds, time.perf_counter() - began)
    return 2 * rows * columns * columns / seconds


def choose_device(device: str | torch.device | None) -> torch.device:
    """The device of that name, None for the default; `ArgumentError` if it cannot be used."""
    try:
        chosen = default_device() if device is None else torch.device(device)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise ArgumentError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from error
    return chosen


def choose_dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """The dtype of that name, None for the device's default; `ArgumentError` if it is none of `DTYPES`."""
    chosen = default_dtype(device) if dtype is None else DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if chosen not in DTYPES.values():
        raise ArgumentError(f"dtype is {dtype!r}; it must be one of {', '.join(DTYPES)}")
    return cast(torch.dtype, chosen)
