"""Where and in which precision the networks compute."""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass, replace
from functools import cache
from typing import cast

import torch
import torch.nn.functional as F

from .errors import ArgumentError
from .int8 import can_quantize
from .pack import can_pack

_trial = threading.Lock()
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
    return device.type != "cpu" or cpu_seconds()[torch.float32] > 1.2 * cpu_seconds()[dtype]


@dataclass(frozen=True)
class Placement:
    """Where a network's weights lie, what they are in, and what it computes in.

    `packed`: laid out for a CPU. `streamed`: the matrices stay where they are read from, and every layer fetches its
    own when it is called. `int8`: the linear layers of the transformer blocks are in 8 bits.
    """

    device: torch.device
    dtype: torch.dtype
    arithmetic: torch.dtype
    packed: bool = False
    streamed: bool = False
    int8: bool = False


def place(device: torch.device, dtype: torch.dtype, streamed: bool = False, int8: bool = False) -> Placement:
    """The fastest placement: arithmetic in float32 where a CPU is slower in the dtype of the weights."""
    if int8 and (streamed or not can_quantize(device)):
        raise ArgumentError(
            "int8 needs a CPU with 8-bit dot products (AVX-512 VNNI, AVX-VNNI or AMX), and no streaming; "
            "leave int8 or offload block out"
        )
    computed = dtype if dtype is torch.float32 or is_fast(dtype, device) else torch.float32
    return Placement(device, dtype, computed, computed is dtype and not streamed and can_pack(device), streamed, int8)


def place_vae(at: Placement) -> Placement:
    """Where the VAE of a UNet is: it is not computed in float16, in which the stock one overflows."""
    overflows = at.arithmetic is torch.float16
    return replace(at, dtype=torch.float32, arithmetic=torch.float32) if overflows else at


def cpu_seconds() -> dict[torch.dtype, float]:
    """How long this CPU takes for a product of matrices of each dtype, as once tried out.

    A processor that has instructions for a dtype need not be fast at it. (AVX-512's for bfloat16 run at half the rate
    of float32 on some cores.)
    """
    with _trial:  # threads that measured at the same time would leave torch with one thread
        return _try_out()


@cache
def _try_out() -> dict[torch.dtype, float]:
    """The shortest of several runs in turn, in one thread, since the machine may be busy; some milliseconds."""
    threads, side = torch.get_num_threads(), 384
    pairs = {dtype: (torch.ones(side, side, dtype=dtype, device="cpu"),) * 2 for dtype in DTYPES.values()}
    seconds = dict.fromkeys(pairs, math.inf)
    torch.set_num_threads(1)
    try:
        for _ in range(8):
            for dtype, pair in pairs.items():
                began = time.perf_counter()
                F.linear(*pair)
                seconds[dtype] = min(seconds[dtype], time.perf_counter() - began)
    finally:
        torch.set_num_threads(threads)
    return seconds


def choose_device(device: str | torch.device | None) -> torch.device:
    """The device of that name, None for the default; `ArgumentError` if it cannot be used."""
    try:
        chosen = default_device() if device is None else torch.device(device)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise ArgumentError(
            f"device {device!r} cannot be used ({str(error).splitlines()[0]}); give cpu, cuda or mps"
        ) from error
    return chosen


def choose_dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """The dtype of that name, None for the device's default; `ArgumentError` if it is none of `DTYPES`."""
    chosen = default_dtype(device) if dtype is None else DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if chosen not in DTYPES.values():
        raise ArgumentError(f"dtype is {dtype!r}; it must be one of {', '.join(DTYPES)}")
    return cast(torch.dtype, chosen)
