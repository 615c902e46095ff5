"""The device and the precision that the networks compute in."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Sequence
from functools import cache
from typing import cast

import torch
import torch.nn.functional as F

from ..errors import ArgumentError
from .locks import Turns
from .precision import NAMES

_probe = Turns()
FAST = 1.2  # a CPU takes a dtype of 16 bits where float32 takes more than so many times as long
# Turing without tensor cores: products of float16 are wrong there, as ComfyUI found (comfy/model_management.py)
WITHOUT_FLOAT16 = re.compile(r"GTX 16\d\d|\bT(400|500|550|600|1000|1200|2000)\b|MX[45]50|CMP 30HX")
WITHOUT_BFLOAT16 = ("gfx8", *(f"gfx90{letter}" for letter in "024679c"), "gfx10")  # AMD's before RDNA 3 and CDNA
DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in NAMES}


def default_device() -> torch.device:
    """CUDA, Apple's GPU, or the CPU: the first that is there."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def device_name(device: torch.device) -> str:
    """What computes: the kind of device with the name of the GPU, or the instructions that torch uses on the CPU."""
    if device.type == "cuda":
        return f"cuda {torch.cuda.get_device_name(device)}"
    return f"cpu {torch.backends.cpu.get_cpu_capability()}" if device.type == "cpu" else device.type


def default_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the hardware computes it fast; else float16 on a GPU that is fast in that; else float32."""
    if device.type == "cpu":
        return torch.bfloat16 if is_fast(torch.bfloat16, device) else torch.float32
    return next(iter(_fast_dtypes(device)), torch.float32)


def is_fast(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether a device computes in `dtype`, of 16 bits, faster than in float32."""
    if device.type == "cpu":
        return cpu_seconds()[torch.float32] > FAST * cpu_seconds()[dtype]
    return device.type != "cuda" or dtype in _fast_dtypes(device)


def _fast_dtypes(device: torch.device) -> Sequence[torch.dtype]:
    """The dtypes of 16 bits that a GPU computes in faster than in float32, the one to be preferred first."""
    if device.type != "cuda":
        return {"mps": (torch.float16,), "xpu": (torch.bfloat16, torch.float16)}.get(device.type, ())
    card = torch.cuda.get_device_properties(device)
    if torch.version.hip:
        has_bfloat16 = not card.gcnArchName.startswith(WITHOUT_BFLOAT16)
    elif not (has_bfloat16 := card.major >= 8) and (card.major < 7 or WITHOUT_FLOAT16.search(card.name)):
        return ()
    return (torch.bfloat16, torch.float16) if has_bfloat16 else (torch.float16,)


def cpu_seconds() -> dict[torch.dtype, float]:
    """The time of a matrix product of each dtype on this CPU, measured once.

    A processor that has instructions for a dtype need not be fast at it. (AVX-512's for bfloat16 run at half the rate
    of float32 on some cores.)
    """
    with _probe:  # one measurement, however many threads ask
        return _measure()


@cache
def _measure() -> dict[torch.dtype, float]:
    """The shortest of several runs in turn, since the machine may be busy; some milliseconds. With more threads the
    matrices are larger, so each thread has the same work.
    """
    side = 32 * round(12 * torch.get_num_threads() ** (1 / 3))
    pairs = {dtype: (torch.ones(side, side, dtype=dtype, device="cpu"),) * 2 for dtype in DTYPES.values()}
    seconds = dict.fromkeys(pairs, math.inf)
    for _ in range(8):
        for dtype, pair in pairs.items():
            began = time.perf_counter()
            F.linear(*pair)
            seconds[dtype] = min(seconds[dtype], time.perf_counter() - began)
    return seconds


def choose_device(device: str | torch.device | None) -> torch.device:
    """The device of that name, None for the default; `ArgumentError` if it cannot be used."""
    name = default_device().type if device is None else str(device)
    try:
        chosen = torch.device(name)
        one = torch.ones(1, dtype=torch.float32, device=chosen)
        one.item()  # kernels have run: torch has none for GPUs that are too old or too new for it
    except (RuntimeError, AssertionError) as error:
        raise ArgumentError(
            f"device {name!r} cannot be used ({_reason(error)}); torch {torch.__version__} finds {_found(name)} here. "
            "Give that, or install the PyTorch of your GPU"
        ) from error
    return chosen


def _found(failed: str) -> str:
    """The kinds of devices that torch can use on this machine, without one that has failed."""
    return "cpu" if (best := default_device().type) in ("cpu", failed) else f"cpu and {best}"


def _reason(error: Exception) -> str:
    """The first sentence of torch's error, which may go on with a list of all that it has."""
    return str(error).splitlines()[0].split(". ")[0]


def choose_dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """The dtype of that name, None for the device's default; `ArgumentError` if it is none of `DTYPES`, or none of the
    device: Apple's GPU has no bfloat16 before macOS 14.
    """
    chosen = default_dtype(device) if dtype is None else DTYPES.get(dtype) if isinstance(dtype, str) else dtype
    if chosen not in DTYPES.values():
        raise ArgumentError(f"dtype is {dtype!r}; it must be one of {', '.join(DTYPES)}")
    try:
        torch.empty(1, dtype=chosen, device=device)
    except (RuntimeError, TypeError) as error:
        others = " or ".join(name for name, each in DTYPES.items() if each is not chosen)
        raise ArgumentError(
            f"dtype is {dtype!r}, which {device} does not have ({_reason(error)}); give {others}"
        ) from error
    return cast(torch.dtype, chosen)
